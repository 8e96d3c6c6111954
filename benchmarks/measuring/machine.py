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

ROOT = Path(__file__).resolve().parents[2]


def facts() -> dict[str, Any]:
    """Machine, versions, commit, date and load; ready for JSON."""
    cpu = _cpu()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu.get("model name", platform.processor()),
        "cpu_family_model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "simd": [flag for flag in ("avx2", "fma", "avx512f") if flag in cpu.get("flags", "").split()],
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


def _cpu() -> dict[str, str]:
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }
