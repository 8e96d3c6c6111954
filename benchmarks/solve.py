"""The tiled factorisation against solvers in memory: time, peak memory, agreement, share of the BLAS rate.

    python benchmarks/solve.py --store FOLDER    about 15 minutes and 9 GB of memory → results/solve.{json,md}
    python benchmarks/solve.py --quick           a smoke run at n = 1,200; prints only

The Gram (FCN NTK, float32, of synthetic images) is made in FOLDER once and used again. Every contestant runs in
a process of its own, one after the other: SciPy's cho_factor and scikit-learn's KernelRidge get the matrix in
memory in float64 for nothing; ours begins at the store. Before anything is compared, our predictions at n
and the loss at 12 sample counts must agree with theirs. The rate of BLAS is that of dgemm, measured before
and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measuring.machine import facts

from kernreg.architecture import Architecture
from kernreg.blocks import PROCESS_BYTES
from kernreg.data import load
from kernreg.gram import build
from kernreg.plan import parse_bytes, show_bytes

RESULTS = Path(__file__).parent / "results"
WORKER = Path(__file__).parent / "measuring" / "solving.py"
RIDGE = 1e-3  # of the mean diagonal: well conditioned enough that two float64 solvers agree to 1e-9
AGREE = 1e-9
TARGETS = {
    "share_of_blas": (0.6, "≥"),
    "curve_per_sklearn_fit": (1.3, "≤"),
    "refits_at_12_sizes_per_curve": (1.5, "≥"),
    "refits_at_100_sizes_per_curve": (10.0, "≥"),
}


def worker(contestant: str, store: Path, memory: int, scratch: Path, *sizes: int) -> dict[str, Any]:
    """What a contestant measures, in a process of its own."""
    print(f"{contestant} …", file=sys.stderr, flush=True)
    command = [sys.executable, WORKER, contestant, store, str(RIDGE), str(memory), scratch, *map(str, sizes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{contestant} failed with status {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(path: Path, n: int, t: int, memory: int, scratch: Path) -> dict[str, Any]:
    """All contestants on the leading n rows of a store."""
    sizes = sorted({max(2, round(n / 2 ** (j / 2))) for j in range(12)})
    before = worker("dgemm", path, memory, scratch)["flops"]
    factor = worker("factor", path, memory, scratch)
    curve = worker("curve", path, memory, scratch, *sizes)
    scipy = worker("scipy", path, memory, scratch)
    sklearn = worker("sklearn", path, memory, scratch, *sizes)
    after = worker("dgemm", path, memory, scratch)["flops"]
    rate = (before + after) / 2
    agreement = {
        "solution": _difference(factor["solution"], scipy["solution"]),
        "loss_at_12_sizes": _difference(curve["mse"], sklearn["mse"]),
    }
    for what, difference in agreement.items():
        if not difference <= AGREE:
            sys.exit(f"{what} differs by {difference:.1e}, allowed {AGREE:.0e}: no speed on a red check")
    fits = np.array(sklearn["seconds"])
    hundred = np.arange(1, 101) * n / 100
    refits = float(np.exp(np.interp(np.log(hundred), np.log(sizes), np.log(fits))).sum())
    return {
        "n": n,
        "t": t,
        "outputs": curve["outputs"],
        "memory": memory,
        "relative_ridge": RIDGE,
        "blocks": curve["blocks"],
        "dgemm_gflops": [before / 1e9, after / 1e9],
        "agreement": agreement,
        "seconds": {
            "factor": factor["seconds"],
            "curve_every_m": curve["seconds"],
            "curve_with_replicates": worker("replicates", path, memory, scratch, *sizes)["seconds"],
            "scipy_cho_factor_cho_solve_predict": scipy["seconds"],
            "sklearn_fit_predict_at_n": float(fits[-1]),
            "sklearn_12_sizes": float(fits.sum()),
            "sklearn_100_sizes_interpolated": refits,
        },
        "peak_bytes": {
            "factor": factor["peak"],
            "curve": curve["peak"],
            "scipy": scipy["peak"],
            "sklearn": sklearn["peak"],
        },
        "traffic": curve["traffic"],
        "share_of_blas": n**3 / 3 / factor["seconds"] / rate,
        "curve_share_of_blas": (n**3 / 3 + t * n**2) / curve["seconds"] / rate,
        "scipy_share_of_blas": n**3 / 3 / scipy["factor_seconds"] / rate,
        "curve_per_sklearn_fit": curve["seconds"] / float(fits[-1]),
        "refits_at_12_sizes_per_curve": float(fits.sum()) / curve["seconds"],
        "refits_at_100_sizes_per_curve": refits / curve["seconds"],
    }


def _difference(ours: list[float], theirs: list[float]) -> float:
    a, b = np.array(ours), np.array(theirs)
    return float(np.abs(a - b).max() / np.abs(b).max())


def markdown(result: dict[str, Any]) -> str:
    """The result for people."""
    machine, row = result["machine"], result["row"]
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']} before; "
        f"{machine['date'][:10]}, commit {machine['commit']}.",
        "",
        f"n = {row['n']}, {row['t']} test rows, {row['outputs']} outputs, --memory {show_bytes(row['memory'])}, "
        f"panels of {row['blocks'][1]} rows, tiles of {row['blocks'][0]}; dgemm "
        f"{row['dgemm_gflops'][0]:.1f} and {row['dgemm_gflops'][1]:.1f} GFLOP/s before and after.",
        "",
        "| | seconds |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {seconds:.1f} |" for name, seconds in row["seconds"].items()),
        "",
        "| | peak memory |",
        "|---|---|",
        *(f"| {name} | {show_bytes(peak)} |" for name, peak in row["peak_bytes"].items()),
        "",
        "| | measured | target | |",
        "|---|---|---|---|",
    ]
    for name, (target, sign) in TARGETS.items():
        met = row[name] >= target if sign == "≥" else row[name] <= target
        lines.append(
            f"| {name.replace('_', ' ')} | {row[name]:.2f} | {sign} {target:g} | {'met' if met else 'MISSED'} |"
        )
    kept = row["peak_bytes"]["curve"] <= row["memory"]
    lines.append(f"| peak of the curve within --memory | {kept} | True | {'met' if kept else 'MISSED'} |")
    agreement = ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in row["agreement"].items())
    return "\n".join([*lines, "", f"Relative differences: {agreement} (allowed {AGREE:.0e}).", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="n = 1,200, a store of its own; prints only")
    parser.add_argument("--store", type=Path, help="folder of the store; made there if it is not")
    parser.add_argument("--scratch", type=Path, help="folder for the factor; default beside the store")
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    n, t, memory = options.n, options.test, parse_bytes(options.memory)
    if options.quick:
        n, t, memory = 1200, 100, PROCESS_BYTES + (16 << 20)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary)
        path = folder / f"fcn-synthetic-images-{n}-{t}.gram"
        images = load("synthetic-images", n=n, test=t)
        build(path, images, Architecture.fcn(depth=3), "ntk", "cpu", "float32", progress=True)
        del images
        result = {"machine": facts(), "row": measure(path, n, t, memory, options.scratch or folder)}
    print(markdown(result))
    if out := options.out or (None if options.quick else RESULTS):
        out.mkdir(parents=True, exist_ok=True)
        (out / "solve.json").write_text(json.dumps(result, indent=1) + "\n")
        (out / "solve.md").write_text(markdown(result))


if __name__ == "__main__":
    main()
