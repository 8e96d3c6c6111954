"""The examples of README and docs run: console blocks in one shell, python blocks in one interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/architectures.md",
    "docs/symmetry.md",
    "docs/cg.md",
    "docs/study.md",
    "docs/flow.md",
)


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run(arguments: list[str], code: str, folder: Path) -> str:
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"}
    done = subprocess.run(
        arguments, input=code, capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_console_examples_run(page: str, tmp_path: Path) -> None:
    lines = "".join(blocks(page, "console")).splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    assert commands
    assert run(["sh", "-e"], "\n".join(commands), tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_python_examples_run(page: str, tmp_path: Path) -> None:
    assert run([sys.executable, "-W", "error", "-"], "\n".join(blocks(page, "python")), tmp_path)


def test_the_store_is_read_with_h5py_alone_as_the_format_page_says(tmp_path: Path) -> None:
    command = "kernreg gram --arch fcn --data digits --n 30 --test 9 --backend reference --out a.gram"
    run(["sh", "-e"], command, tmp_path)
    (example,) = blocks("docs/format.md", "python")
    check = "\nimport sys\nassert K.shape == (30, 30) and (K == K.T).all() and 'kernreg' not in sys.modules"
    run([sys.executable, "-W", "error", "-"], example + check, tmp_path / "a.gram")
