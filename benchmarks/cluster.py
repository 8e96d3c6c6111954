"""Workers of a Dask cluster: what do two gain over one, and what does one cost beside no cluster at all?

    python benchmarks/cluster.py            → results/cluster.json and .md; about 15 minutes on two cores
    python benchmarks/cluster.py --quick    a smoke run; prints, and writes to --out only

One store (CNN-VEC of depth 8, images 32×32×3, 21 tiles of several seconds) is filled in turns: by `kernreg.gram.fill` in this
process with one thread, by one worker of one thread, and by two. Starting a cluster and compiling are not counted; laying down
the rows, tasks, answers and the last look are. All stores are compared to the bit before any time is reported. A second store,
of tiles with almost no arithmetic, gives what the cluster adds to a tile: at tiles of minutes that is the overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from measuring.machine import facts

from kernreg import clusterfill
from kernreg.architecture import Architecture
from kernreg.bench import summary
from kernreg.cluster import connect
from kernreg.gram import fill
from kernreg.store import GramStore
from kernreg.tiles import TileGrid

RESULTS = Path(__file__).parent / "results"
SPEEDUP, OVERHEAD = "two workers over one", "overhead of one worker"
TARGETS = {SPEEDUP: 1.8, OVERHEAD: 0.10}
SHAPE = (32, 32, 3)
SHORT_TURNS = 3
Way = Callable[[GramStore, np.ndarray], None]


@dataclass(frozen=True)
class Case:
    """A store to fill: an architecture, rows, and rows of a tile."""

    architecture: Architecture
    n: int
    tile: int

    @cached_property
    def x(self) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((self.n, *SHAPE)).astype(np.float32)

    @property
    def tiles(self) -> int:
        return len(TileGrid.triangle(self.n, self.tile))

    def seconds(self, way: Way, folder: Path) -> float:
        """Of filling a new store."""
        return self._filled(way, folder)[0]

    def checksums(self, way: Way, folder: Path) -> list[dict[str, str]]:
        """Of its tiles."""
        return self._filled(way, folder)[1]

    def _filled(self, way: Way, folder: Path) -> tuple[float, list[dict[str, str]]]:
        path = folder / "a.gram"
        shutil.rmtree(path, ignore_errors=True)
        with GramStore.create(
            path, architecture=self.architecture, kernels=("ntk",), dtype="float32", backend="cpu",
            tile=self.tile, x_train=self.x, y_train=np.ones((self.n, 1)),
        ) as store:  # fmt: skip
            start = time.perf_counter()
            way(store, self.x)
            elapsed = time.perf_counter() - start
            return elapsed, [
                store.shards.describe(*place)["checksums"] for place in store.shards.needed(self.n, 0, 0)
            ]


def require_same_bits(case: Case, ways: Mapping[str, Way], folder: Path) -> None:
    """Also lets every process compile."""
    made = {name: case.checksums(way, folder) for name, way in ways.items()}
    if any(value != made["alone"] for value in made.values()):
        sys.exit("the ways of filling a store differ in some bit: no time is reported")


def measure(case: Case, short: Case, repeats: int, folder: Path) -> dict[str, Any]:
    """All ways in turns; both clusters stay up, and only the one that is timed works."""
    os.environ["KERNREG_THREADS"] = "1"
    with ExitStack() as stack:
        one, two = (stack.enter_context(connect(f"local:{count}")) for count in (1, 2))
        ways: dict[str, Way] = {
            "alone": fill,
            "one worker": partial(clusterfill.fill, one),
            "two workers": partial(clusterfill.fill, two),
        }
        require_same_bits(short, ways, folder)
        require_same_bits(Case(case.architecture, 6 * 64, 64), ways, folder)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(repeats):
            for name in ways if turn % 2 == 0 else reversed(ways):
                times[name].append(case.seconds(ways[name], folder))
                print(f"{name}: {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
        spare = [
            short.seconds(ways["one worker"], folder) - short.seconds(ways["alone"], folder)
            for _ in range(SHORT_TURNS)
        ]
    turns = list(zip(*times.values(), strict=True))
    return {
        "tiles": case.tiles,
        "seconds": {name: summary(values) for name, values in times.items()},
        "seconds_of_a_tile": statistics.median(times["alone"]) / case.tiles,
        SPEEDUP: summary([one / two for _, one, two in turns]),
        OVERHEAD: summary([one / alone - 1 for alone, one, _ in turns]),
        "milliseconds_added_to_a_tile": summary([seconds / short.tiles * 1000 for seconds in spare]),
    }


def markdown(result: dict[str, Any]) -> str:
    """The table, and what a reader must know beside it."""
    machine, seconds = result["machine"], result["seconds"]
    target = {SPEEDUP: "≥ 1.8", OVERHEAD: "< 10 %"}
    shown = {SPEEDUP: "{:.2f}×", OVERHEAD: "{:.1%}"}
    met = {
        SPEEDUP: result[SPEEDUP]["median"] >= TARGETS[SPEEDUP],
        OVERHEAD: result[OVERHEAD]["median"] < TARGETS[OVERHEAD],
    }
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']} before and {machine['load_after']} after; "
        f"{machine['date']}, commit {machine['commit']}; distributed {result['distributed']}. {result['architecture']}, "
        f"n = {result['n']}, {result['tiles']} tiles of {result['tile']} rows, {result['seconds_of_a_tile']:.1f} s each on one "
        f"thread; {result['repeats']} turns.",
        "",
        "| | median | 20–80 % | target |",
        "|---|---|---|---|",
        *(
            f"| {name}, seconds | {s['median']:.1f} | {s['q20']:.1f}–{s['q80']:.1f} | |"
            for name, s in seconds.items()
        ),
    ]
    for name, form in shown.items():
        median, q20, q80 = (form.format(result[name][key]) for key in ("median", "q20", "q80"))
        lines.append(
            f"| {name} | {median} | {q20}–{q80} | {target[name]} ({'met' if met[name] else 'MISSED'}) |"
        )
    added = result["milliseconds_added_to_a_tile"]
    lines.append(f"| added to a tile, ms | {added['median']:.1f} | {added['q20']:.1f}–{added['q80']:.1f} | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, once: it runs, not how fast")
    parser.add_argument("--n", type=int, default=4608)
    parser.add_argument("--tile", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: a temporary one")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    n, tile, repeats = (192, 64, 1) if options.quick else (options.n, options.tile, options.repeats)
    case = Case(Architecture.vec(depth=8), n, tile)
    short = Case(Architecture.vec(depth=1), 64 if options.quick else 320, 16)
    machine = facts()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(case, short, repeats, Path(folder))
    machine["load_after"] = round(os.getloadavg()[0], 2)
    described = {"architecture": "CNN-VEC, depth 8, images 32×32×3", "n": n, "tile": tile, "repeats": repeats}
    result = {"machine": machine, "distributed": version("distributed"), **described, **result}
    text = json.dumps(result, indent=1)
    print(text)
    out = options.out or (None if options.quick else RESULTS)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "cluster.json").write_text(text + "\n")
        (out / "cluster.md").write_text(markdown(result))


if __name__ == "__main__":
    main()
