"""Members of a shared run as processes, with small tiles that take a moment; and stores compared to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernreg.store import GramStore

CHILD = """
import sys, time
import numpy as np
import kernreg.plan
from kernreg import claims, fill, sharing
from kernreg.architecture import Architecture
from kernreg.data.dataset import Dataset
from kernreg.gram import build
from kernreg.kernels import backends
from kernreg.sharing import Member

path, member, n, seconds, tile, patience = sys.argv[1:]
kernreg.plan.SMALLEST = kernreg.plan.LARGEST = int(tile)
kernreg.plan.MOST_SHARDS = 10**6
claims.HEARTBEAT_SECONDS, sharing.POLL_SECONDS, fill.GRACE_SECONDS = 0.1, 0.05, 1.0
claims.PATIENCE_SECONDS = float(patience)
n, t = int(n), 20
x = np.random.default_rng(0).normal(size=(1000, 4, 4, 1))
z = np.random.default_rng(1).normal(size=(t, 4, 4, 1))
y, rows = x[:n, 0, 0].copy(), np.arange(n)
random = Dataset(
    "random", x[:n], y, z, z[:, 0, 0].copy(), None, None, rows, np.arange(t), {"name": "random"}
)
plain = backends.compute

def slow(x, z, *settings):
    print("begins", flush=True)
    time.sleep(float(seconds))
    return plain(x, z, *settings)

backends.compute = slow
print("ready", flush=True)
member = None if member == "alone" else Member.parse(member, {})
build(path, random, Architecture.fcn(depth=2), "both", "reference", "float32", member=member)
"""
ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """Of a child: this tree, one thread."""
    one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "NUMBA", "MKL")}
    return {**os.environ, **one, "PYTHONPATH": str(ROOT)}


def child(
    path: Path,
    member: str,
    n: int = 100,
    seconds: float = 0.0,
    tile: int = 16,
    patience: float = 60.0,
) -> subprocess.Popen[str]:
    """A process that fills a store as this member, or alone: n train rows in tiles of so many, each so many seconds longer."""
    command = [sys.executable, "-c", CHILD, str(path), member, str(n), str(seconds), str(tile), str(patience)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, int, str]:
    """Exit status, tiles begun, and what stood on stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out.split().count("begins"), err


def wait(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of a condition."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"did not happen in {seconds} s")


def claimed(store: Path, member: str = "") -> list[dict[str, Any]]:
    """The claims in a store, or those of a member."""
    found = []
    for path in sorted((store / "claims").glob("*")):
        try:
            claim = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if member in ("", claim["member"]):
            found.append(claim)
    return found


def tiles(path: Path) -> int:
    """Those that are there."""
    return len(list((path / "tiles").glob("*.h5")))


def bits(path: Path) -> dict[str, Any]:
    """Every number of a complete store, its rows and its tiling, as bytes and checksums."""
    store = GramStore.open(path)
    arrays = {f"{kernel}-train": store.train(kernel, dtype=store.dtype) for kernel in store.kernels}
    arrays |= {f"{kernel}-test": store.test(kernel, dtype=store.dtype) for kernel in store.kernels}
    arrays |= {"y": store.y_train, "rows": store.rows_train, "hashes": store.hashes_train}
    places = store.shards.needed(store.n, store.t, store.n)
    checksums = {store.shards.path(*place).name: store.shards.check(*place)["checksums"] for place in places}
    return {**{name: array.tobytes() for name, array in arrays.items()}, "tiles": checksums}
