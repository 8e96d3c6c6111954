"""A page in headless Chromium: its DOM after a script has run, a picture of it, and its print."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)
SECONDS = 120


def chromium(page: Path, profile: Path, *flags: str) -> str:
    """Open a page with a new profile; what Chromium prints."""
    assert CHROMIUM is not None
    profile.mkdir()
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout


def after(page: Path, script: str, folder: Path) -> str:
    """The DOM of a page once a script, appended to it, has run."""
    text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
    copy = folder / "scripted.html"
    copy.write_text(text, encoding="utf-8")
    return chromium(copy, folder / "profile", "--dump-dom")


def told(dom: str) -> str:
    """What a script has left in `document.title`."""
    match = re.search(r"<title>(.*?)</title>", dom, flags=re.DOTALL)
    assert match is not None
    return unescape(match.group(1))
