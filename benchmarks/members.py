"""What members of a shared run gain: one process alone, one member, and one member on each of several cores, in turns.

    python benchmarks/members.py                    GAP on images 8×8×1, n = 2,304, two members → results/members.json
    python benchmarks/members.py --quick            a smoke run; prints, and writes to --out only

Each process has one thread on a core of its own and has compiled its kernels before the clock starts; it stops when the last one
has ended, so waiting for others' tiles and the last uneven round count. "speedup" is one member over several, "overhead" one
member over a process alone, less one. All stores are compared to the bit before any time is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring.machine import facts

from kernreg.architecture import Architecture
from kernreg.bench import summary
from kernreg.store import GramStore

RESULTS = Path(__file__).parent / "results"
SHAPE = (8, 8, 1)
CHILD = """
import os, sys, time
import numpy as np
from kernreg.gram import fill, gram
from kernreg.sharing import Member
from kernreg.store import GramStore
path, member, core, go = sys.argv[1:]
os.sched_setaffinity(0, {int(core)})
x = np.load(os.path.join(os.path.dirname(path), "x.npy"))
store = GramStore.open(path)
gram(x[:64], x[64:96], store.architecture, "ntk", "cpu", "float32")
print("ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.001)
if member == "alone":
    with GramStore.open(path, writer=True) as store:
        fill(store, x)
else:
    with GramStore.open(path, shared=True) as store:
        fill(store, x, member=Member.parse(member, {}))
"""


class Run:
    """Processes that fill a new store of the same rows each time."""

    def __init__(self, folder: Path, n: int, tile: int) -> None:
        self._folder, self._path, self._tile = folder, folder / "a.gram", tile
        self._x = np.random.default_rng(0).standard_normal((n, *SHAPE)).astype(np.float32)
        np.save(folder / "x.npy", self._x)

    def seconds(self, members: tuple[str, ...]) -> tuple[float, list[Any]]:
        """From the word go until the last process has ended; and the checksums of all tiles."""
        shutil.rmtree(self._path, ignore_errors=True)
        GramStore.create(
            self._path, architecture=Architecture.gap(depth=3), kernels=("ntk",), dtype="float32", backend="cpu",
            tile=self._tile, x_train=self._x, y_train=np.ones((len(self._x), 1)),
        ).close()  # fmt: skip
        go = self._folder / "go"
        go.unlink(missing_ok=True)
        one = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
        cores = sorted(os.sched_getaffinity(0))
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, str(self._path), member, str(core), str(go)],
                env={**os.environ, **one}, stdout=subprocess.PIPE,
            )
            for member, core in zip(members, cores, strict=False)
        ]  # fmt: skip
        for process in processes:
            if process.stdout is None or process.stdout.readline() != b"ready\n":
                sys.exit("a process did not start")
        start = time.perf_counter()
        go.touch()
        if any(process.wait() for process in processes):
            sys.exit("a process failed")
        elapsed = time.perf_counter() - start
        store = GramStore.open(self._path)
        return elapsed, [
            store.shards.check(*place)["checksums"] for place in store.shards.needed(store.n, 0, 0)
        ]


def measure(run: Run, count: int, repeats: int) -> dict[str, Any]:
    """In turns; every store is verified."""
    ways = {
        "alone": ("alone",),
        "one": ("1/1",),
        "several": tuple(f"{number}/{count}" for number in range(1, count + 1)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    expected: list[Any] = []
    for _ in range(repeats):
        for name, members in ways.items():
            seconds, checksums = run.seconds(members)
            expected = expected or checksums
            if checksums != expected:
                sys.exit(f"the store of {name} differs in some bit: no time is reported")
            times[name].append(seconds)
    pairs = zip(times["alone"], times["one"], times["several"], strict=True)
    ratios = [(one / several, one / alone - 1) for alone, one, several in pairs]
    return {
        "tiles": len(expected),
        "seconds": {name: summary(values) for name, values in times.items()},
        "speedup": summary([speedup for speedup, _ in ratios]),
        "overhead": summary([overhead for _, overhead in ratios]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, once: it runs, not how fast")
    parser.add_argument("--n", type=int, default=2304)
    parser.add_argument("--tile", type=int, default=192)
    parser.add_argument("--members", type=int, default=2, help="at most the cores of this machine")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    if options.members > len(os.sched_getaffinity(0)):
        sys.exit(
            f"{options.members} members need as many cores; this machine has {len(os.sched_getaffinity(0))}"
        )
    n, tile = (200, 64) if options.quick else (options.n, options.tile)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), n, tile)
        result = measure(run, options.members, 1 if options.quick else options.repeats)
    result = {"n": n, "tile": tile, "members": options.members, **result, "machine": facts()}
    print(json.dumps(result, indent=1))
    out = options.out or (None if options.quick else RESULTS)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "members.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
