"""What it gains that tiles are committed while the next ones are computed: a store filled both ways, in turns.

    python benchmarks/overlap.py                    FCN on images 32×32×3, n = 16,384 → results/overlap.json
    python benchmarks/overlap.py --quick            a smoke run; prints, and writes to --out only
    python benchmarks/overlap.py --backend auto --arch vec --n 50000    what limits a GPU: its arithmetic or the disk?

Serial: each tile is computed, then written and fsynced, then the next one. Overlapped: `kernreg.gram.fill`. Beside them the two
parts alone: all tiles computed and dropped, and all tiles written from memory. The overlapped run cannot be faster than the
slower part; "hidden" is the share of the faster part that it hides. The stores of both ways are compared to the bit before any
time is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring.machine import facts

from kernreg.architecture import Architecture
from kernreg.bench import device_name, summary
from kernreg.fill import backend_for
from kernreg.gram import fill
from kernreg.kernels import backends
from kernreg.plan import Workers, plan
from kernreg.store import GramStore
from kernreg.tiles import Tile

RESULTS = Path(__file__).parent / "results"
DEPTH = {"fcn": 3}
OTHER_DEPTH = 8
# The same tile, written again and again: its numbers do not matter to a disk.
Block = dict[str, Any]


class Filling:
    """A store of n rows, made anew in a folder for each way of filling it."""

    def __init__(
        self, folder: Path, x: np.ndarray, architecture: Architecture, backend: str, tile: int
    ) -> None:
        self._path, self._x, self._architecture = folder / "a.gram", x, architecture
        self.backend, self._tile = backend, tile
        self._made: dict[tuple[int, int], Block] = {}

    def store(self) -> GramStore:
        shutil.rmtree(self._path, ignore_errors=True)
        x = self._x
        return GramStore.create(
            self._path, architecture=self._architecture, kernels=("ntk",), dtype="float32", backend=self.backend,
            tile=self._tile, x_train=x, y_train=np.ones((len(x), 1)),
        )  # fmt: skip

    def compute(self, tile: Tile) -> Block:
        z = None if tile.diagonal else self._x[tile.columns]
        return dict(
            backends.compute(self._x[tile.rows], z, self._architecture, "ntk", self.backend, "float32")
        )

    def serial(self, store: GramStore) -> None:
        for part, tile in store.missing():
            store.write(part, tile, self.compute(tile))

    def overlapped(self, store: GramStore) -> None:
        fill(store, self._x)

    def computed(self, store: GramStore) -> None:
        for _, tile in store.missing():
            self.compute(tile)

    def written(self, store: GramStore) -> None:
        for part, tile in store.missing():
            store.write(part, tile, self._block(tile.shape))

    def seconds(self, way: Callable[[GramStore], None]) -> float:
        store = self.store()
        for _, tile in store.missing():
            self._block(tile.shape)
        start = time.perf_counter()
        way(store)
        elapsed = time.perf_counter() - start
        store.close()
        return elapsed

    def _block(self, shape: tuple[int, int]) -> Block:
        """Numbers for `written`, made once."""
        if shape not in self._made:
            self._made[shape] = {"ntk": np.random.default_rng(0).random(shape, np.float32)}
        return self._made[shape]


def measure(filling: Filling, repeats: int) -> dict[str, Any]:
    """Verified, then timed in turns."""
    checksums = []
    for way in (filling.serial, filling.overlapped):
        with filling.store() as store:
            way(store)
            checksums.append(
                [store.shards.describe(*place)["checksums"] for place in store.shards.needed(store.n, 0, 0)]
            )
    if checksums[0] != checksums[1]:
        sys.exit("the two ways of filling differ in some bit: no time is reported")
    ways = (filling.serial, filling.overlapped, filling.computed, filling.written)
    times: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            times[way.__name__].append(filling.seconds(way))
    saved = np.subtract(times["serial"], times["overlapped"])
    faster_part = np.minimum(times["computed"], times["written"])
    return {
        "tiles": len(checksums[0]),
        "seconds": {name: summary(values) for name, values in times.items()},
        "serial_over_overlapped": summary(
            [a / b for a, b in zip(times["serial"], times["overlapped"], strict=True)]
        ),
        "hidden": summary(list(saved / faster_part)),
        "limited_by": "arithmetic" if np.median(times["computed"]) > np.median(times["written"]) else "disk",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, once: it runs, not how fast")
    parser.add_argument("--arch", default="fcn")
    parser.add_argument("--n", type=int, default=16_384)
    parser.add_argument("--size", default="32x32x3", help="HxWxC")
    parser.add_argument("--tile", type=int, help="rows of a tile; default: the planner's")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: a temporary one")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    n, shape = 256 if options.quick else options.n, tuple(int(part) for part in options.size.split("x"))
    architecture = Architecture.preset(options.arch, depth=DEPTH.get(options.arch, OTHER_DEPTH))
    x = np.random.default_rng(0).standard_normal((n, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        backend, workers = backend_for(folder, options.backend, architecture, shape, n, 0)
        tile = options.tile or (64 if options.quick else _tile(n, shape, architecture, workers))
        filling = Filling(Path(folder), x, architecture, backend, tile)
        filling.compute(Tile(0, 0, 0, min(n, 64), 0, min(n, 64), True))  # compiles
        result = measure(filling, 1 if options.quick else options.repeats)
    case = {"architecture": str(architecture), "n": n, "shape": shape, "tile": tile, "backend": backend}
    result = {"machine": facts(), "device": device_name(backend), **case, **result}
    result["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    text = json.dumps(result, indent=1)
    print(text)
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / ("overlap.json" if backend == "cpu" else f"overlap_{backend}.json")).write_text(text + "\n")


def _tile(n: int, shape: tuple[int, ...], architecture: Architecture, workers: Workers) -> int:
    return plan(n, 0, shape, architecture, "ntk", "float32", workers=workers).tile


if __name__ == "__main__":
    main()
