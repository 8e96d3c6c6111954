"""Does the cost grow as predicted in images, depth and pixels? Measured, fitted, and beside the prediction.

    python benchmarks/scaling.py            about 4 minutes → benchmarks/results/scaling.{json,md}
    python benchmarks/scaling.py --quick    a smoke run; prints only

Each series varies one size and holds the others. The prediction is pairs × shifts × pixels × layers, in
seconds by the rate of the largest point of its series. Small points cost more (preparation, calls, edges),
so the power fitted to the upper half is the one to compare. The first layer has no tangent to convolve: few
layers cost less.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring.machine import facts

from kernreg.architecture import Architecture
from kernreg.kernels import backends

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Point:
    """K(x, z) of n × m images of H×H pixels; m None: K(x, x)."""

    architecture: Architecture
    n: int
    m: int | None
    H: int

    @property
    def work(self) -> float:
        """Updates: pairs × shifts × pixels × layers; half of the square for K(x, x)."""
        pairs = self.n * self.m if self.m else self.n * (self.n + 1) / 2
        pixels = 1 if self.architecture.name == "fcn" else self.H**2
        shifts = pixels if self.architecture.name == "gap" else 1
        return float(pairs * shifts * pixels * self.architecture.depth)


@dataclass(frozen=True)
class Series:
    """Points that differ in one size, and the power of it that the cost should follow."""

    name: str
    power: float
    sizes: tuple[int, ...]
    point: Callable[[int], Point]


def series() -> tuple[Series, ...]:
    """3×3 SAME, ReLU, NTK in float32, one channel."""
    gap, vec, fcn = Architecture.gap, Architecture.vec, Architecture.fcn
    return (
        Series("gap, n of K(x, z)", 2, (32, 64, 128, 256, 512), lambda n: Point(gap(depth=2), n, n, 8)),
        Series("gap, n of K(x, x)", 2, (32, 64, 128, 256, 512), lambda n: Point(gap(depth=2), n, None, 8)),
        Series("vec, n of K(x, z)", 2, (64, 128, 256, 512, 1024), lambda n: Point(vec(depth=2), n, n, 16)),
        Series("fcn, n of K(x, z)", 2, (512, 1024, 2048, 4096), lambda n: Point(fcn(depth=3), n, n, 32)),
        Series("gap, layers", 1, (1, 2, 4, 8, 16), lambda L: Point(gap(depth=L), 32, 64, 14)),
        Series("vec, layers", 1, (1, 2, 4, 8, 16), lambda L: Point(vec(depth=L), 256, 256, 16)),
        Series("gap, H of H×H", 4, (8, 12, 16, 24, 32), lambda H: Point(gap(depth=4), 4, 128, H)),
        Series("vec, H of H×H", 2, (8, 16, 32, 64), lambda H: Point(vec(depth=4), 128, 128, H)),
    )


def seconds(point: Point, repeats: int) -> float:
    """Median of warm calls, each at least 50 ms long."""
    random = np.random.default_rng(0)
    x, z = (
        None if count is None else random.standard_normal((count, point.H, point.H, 1)).astype(np.float32)
        for count in (point.n, point.m)
    )
    assert x is not None

    def clock(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            backends.compute(x, z, point.architecture, "ntk", "cpu", "float32")
        return (time.perf_counter() - start) / calls

    clock(1)  # compiles
    calls = max(1, int(np.ceil(0.05 / clock(1)))) if repeats > 1 else 1
    return float(np.median([clock(calls) for _ in range(repeats)]))


def measure(chosen: Series, repeats: int, largest: int) -> dict[str, Any]:
    """Seconds and prediction of each point of a series, and the fitted power of all and of the upper half."""
    sizes = chosen.sizes[:largest]
    points = [chosen.point(size) for size in sizes]
    measured = np.array([seconds(point, repeats) for point in points])
    work = np.array([point.work for point in points])
    predicted = work * measured[-1] / work[-1]
    logs = np.log(sizes), np.log(measured)
    upper = min(len(sizes) // 2, len(sizes) - 2)
    return {
        "series": chosen.name,
        "sizes": list(sizes),
        "seconds": measured.tolist(),
        "updates_per_s": (work / measured).tolist(),
        "ratio_to_prediction": (measured / predicted).tolist(),
        "predicted_power": chosen.power,
        "fitted_power": float(np.polyfit(*logs, 1)[0]),
        "fitted_power_upper_half": float(np.polyfit(*(log[upper:] for log in logs), 1)[0]),
    }


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"{machine['cpu']} (family/model {machine['cpu_family_model']}), {machine['cores']} cores, "
        f"load {machine['load_before']} before; {machine['date'][:10]}, commit {machine['commit']}.",
        "",
        "| cost in | sizes | seconds | measured / predicted | power: predicted | fitted | upper half |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = (
            row["series"],
            " ".join(map(str, row["sizes"])),
            " ".join(f"{s:.2g}" for s in row["seconds"]),
            " ".join(f"{r:.2f}" for r in row["ratio_to_prediction"]),
            f"{row['predicted_power']:g}",
            f"{row['fitted_power']:.2f}",
            f"{row['fitted_power_upper_half']:.2f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the two smallest points of each series, once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    out = options.out or (None if options.quick else RESULTS)
    result: dict[str, Any] = {"machine": facts(), "rows": []}
    for chosen in series():
        print(f"{chosen.name} …", file=sys.stderr, flush=True)
        row = measure(chosen, 1 if options.quick else options.repeats, 2 if options.quick else 99)
        result["rows"].append(row)
    print(markdown(result))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scaling.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "scaling.md").write_text(markdown(result))


if __name__ == "__main__":
    main()
