"""Where and when a measurement was made, and whether the machine was quiet."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kernreg.bench import cpu

ROOT = Path(__file__).resolve().parents[2]


def facts() -> dict[str, Any]:
    """Machine, versions, commit, date and load; ready for JSON."""
    first_core = cpu()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": first_core.get("model name", platform.processor()),
        "cpu_family_model": f"{first_core.get('cpu family', '?')}/{first_core.get('model', '?')}",
        "simd": [flag for flag in ("avx2", "fma", "avx512f") if flag in first_core.get("flags", "").split()],
        "cores": cores(),
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | _versions("kernreg", "numpy", "numba", "llvmlite"),
    }


def _versions(*names: str) -> dict[str, str]:
    """Of those that are installed; a checkout need not be."""
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def commit() -> str:
    """The short hash, with "+" where kernels or benchmarks differ from it; "unknown" outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "kernels", "benchmarks", ":!benchmarks/results")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def available_bytes() -> int:
    """Memory that a peer's batch may be tried in."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) << 10
    return 4 << 30
