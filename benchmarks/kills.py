"""kill −9 at random moments of a run that fills a store: does it open, verify, resume, and end the same?

    python benchmarks/kills.py [--kills 100] [--seed 0]

A child process fills a store of small tiles, by the function that `kernreg gram` calls; it is killed after a
random time, and the next child goes on where it was. After every kill a reader opens the store and verifies
every checksum. When a store is complete it is compared bit for bit with one made without interruption, and
the next one begins. Writes results/kills.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kernreg.errors import KernregError
from kernreg.gramfile import MAIN
from kernreg.provenance import versions
from kernreg.store import GramStore
from kernreg.verify import verify

CHILD = """
import sys
import numpy as np
import kernreg.plan
from kernreg.architecture import Architecture
from kernreg.data.dataset import Dataset
from kernreg.gram import build, gram

kernreg.plan.SMALLEST = kernreg.plan.LARGEST = 16
kernreg.plan.MOST_SHARDS = 10**6
n, t = int(sys.argv[2]), int(sys.argv[3])
x = np.random.default_rng(0).normal(size=(n + t, 8, 8, 1))
y, rows, fcn = x[:, 0, 0].copy(), np.arange(n + t), Architecture.fcn(depth=2)
random = Dataset("random", x[:n], y[:n], x[n:], y[n:], None, None, rows[:n], rows[n:], {"name": "random"})
gram(x[:2], None, fcn, "both", "cpu", "float32")
print("ready", flush=True)
build(sys.argv[1], random, fcn, "both", "cpu", "float32")
"""
LONGEST_SHARE = 0.6  # of the time of a whole run, the longest wait before a kill


def child(path: Path, n: int, t: int) -> subprocess.Popen[bytes]:
    """A process that fills the store, once it has imported what it needs."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "KERNREG_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(path), str(n), str(t)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    with process.stdout:
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the child did not start, status {process.wait()}")
    return process


def numbers(path: Path) -> list[bytes]:
    """Every number of a complete store, and its targets, as bytes."""
    store = GramStore.open(path)
    grams = [read(kernel, dtype="float32") for kernel in store.kernels for read in (store.train, store.test)]
    return [array.tobytes() for array in (*grams, store.y_train, store.y_test, store.rows_train)]


def run(folder: Path, kills: int, seed: int, n: int = 200, t: int = 50) -> dict[str, Any]:
    """Kill that often while stores of n + t rows are filled in `folder`; what happened, counted."""
    rng = random.Random(seed)
    process = child(folder / "whole.gram", n, t)
    started = time.perf_counter()
    if process.wait():
        raise RuntimeError("the uninterrupted run failed")
    seconds = time.perf_counter() - started
    exact = numbers(folder / "whole.gram")
    count = dict.fromkeys(("kills", "before_the_main_file", "half_written", "unreadable", "different"), 0)
    stores_completed, tiles_at_kill, path = 0, [], folder / "killed.gram"
    while count["kills"] < kills or path.exists():
        process = child(path, n, t)
        if count["kills"] < kills:
            time.sleep(rng.uniform(0, LONGEST_SHARE * seconds))
            process.kill()
        status = process.wait()
        if status == -9:
            count["kills"] += 1
            count["half_written"] += any(path.rglob("*.partial"))
            if not (path / MAIN).exists():
                count["before_the_main_file"] += 1
                continue
            tiles_at_kill.append(_verified(path, count))
        elif status == 0:
            stores_completed += 1
            count["different"] += numbers(path) != exact
            count["unreadable"] += not verify(GramStore.open(path)).ok
            shutil.rmtree(path)
        else:
            raise RuntimeError(f"a resumed run failed with status {status}")
    return {
        **count,
        "stores_completed": stores_completed,
        "seconds_of_a_whole_run": round(seconds, 2),
        "tiles_of_a_store": len(list((folder / "whole.gram" / "tiles").iterdir())),
        "tiles_at_kill": tiles_at_kill,
    }


def _verified(path: Path, count: dict[str, int]) -> int:
    try:
        report = verify(GramStore.open(path))
    except KernregError as error:
        print(error)
        count["unreadable"] += 1
        return 0
    count["unreadable"] += not report.ok
    return report.tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), arguments.kills, arguments.seed)
    facts = {
        "seed": arguments.seed,
        "n": 200,
        "t": 50,
        **result,
        "versions": versions(),
        "python": platform.python_version(),
    }
    text = json.dumps({**facts, "machine": platform.machine(), "system": platform.system()}, indent=1)
    target = Path(__file__).parent / "results" / "kills.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text + "\n")
    print(text)
    if result["different"] or result["unreadable"]:
        sys.exit("a killed run did not end where an uninterrupted one does")


if __name__ == "__main__":
    main()
