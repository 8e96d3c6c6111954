"""Do the empirical kernels of finite networks converge to the analytic ones, and how fast?

    python benchmarks/finite_width.py            every preset, widths 16 … 1024 → results/finite_width.{json,md,png}
    python benchmarks/finite_width.py --quick    a smoke run; prints, and writes to --out only

For each preset, kernel and width N: d independent initialisations, the empirical kernel of each on four images
(`kernreg.finite.empirical`, float32 networks), beside the analytic kernel in float64. With ‖·‖ the norm of Frobenius:

error(N)   √mean_d ‖K̂ − K‖²/‖K‖: of a single initialisation. Theory: ~ N^−1/2. The slope is fitted to log error against log N
           from width 64 on; its interval is a bootstrap over initialisations.
off/SE     ‖mean_d K̂ − K‖ over the root of the summed squares of the standard errors of the mean, at the largest width: about 1
           where nothing but the finite number of initialisations separates the two.
bias       B of ⟨mean_d K̂ − K, K⟩/‖K‖² = B/N, fitted to all widths by its standard errors; with its own. The mean over
           initialisations is not the limit: it is off by O(1/N) (with one hidden layer the NNGP is not).

Exits with 1 if some slope misses [−0.6, −0.4] by more than its interval, or some off/SE exceeds 3.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring.machine import facts

import kernreg
from kernreg.architecture import Architecture
from kernreg.drawing import canvas, logarithmic, look
from kernreg.finite import torch
from kernreg.finite.empirical import MonteCarlo, monte_carlo

RESULTS = Path(__file__).parent / "results"
WIDTHS = (16, 32, 64, 128, 256, 512, 1024)
DRAWS = (256, 256, 192, 128, 64, 48, 32)
LOCAL_DRAWS = (96, 96, 96, 64, 48, 24, 12)
FITTED_FROM = 64  # below, terms of higher order in 1/N bend the line
ROWS = 4
SLOPES = (-0.6, -0.4)
WORST = 3.0
RESAMPLES = 2000
TINY = (2, 2, 3)  # the weights of a locally connected layer grow with the pixels: 4·4·1024² of them here
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "fcn": ({"depth": 3}, (4, 3, 2)),
    "lcn": ({"depth": 2, "filter": 2}, TINY),
    "vec": ({"depth": 2}, (5, 4, 2)),
    "gap": ({"depth": 2}, (5, 4, 2)),
    "lcn-gap": ({"depth": 2, "filter": 2}, TINY),
    "lap": ({"depth": 2, "radius": 1}, (5, 4, 2)),
    "s-cnn": ({}, (8, 8, 2)),
    "d-cnn": ({"filter": 2}, (5, 4, 2)),
    "hr-cnn": ({}, (8, 8, 2)),
    "hr-cnn-flatten": ({}, (9, 8, 2)),
    "hr-cnn-gap": ({"depth": 2}, (8, 8, 2)),
}


def images(shape: tuple[int, int, int]) -> np.ndarray:
    """Four images between which there are large, small and negative correlations."""
    x = np.random.default_rng(7).standard_normal((ROWS, *shape))
    x[1] = 0.8 * x[0] + 0.6 * x[1]
    x[2] = -0.5 * x[0] + 0.9 * x[2]
    return x


def measure(
    name: str, widths: tuple[int, ...], draws: tuple[int, ...]
) -> tuple[dict[str, dict[int, MonteCarlo]], Any]:
    """The draws of both kernels at every width, and the analytic kernels."""
    settings, shape = CASES[name]
    architecture, seed = Architecture.preset(name, **settings), 100 * list(CASES).index(name)
    x = images(shape)
    try:
        K = kernreg.gram(x, None, architecture, kernel="both", backend="cpu", dtype="float64")
    except NotImplementedError:  # hidden dense layers behind convolutions: the definition
        K = kernreg.gram(x, None, architecture, kernel="both", backend="reference", dtype="float64")
    found: dict[str, dict[int, MonteCarlo]] = {"nngp": {}, "ntk": {}}
    for i, (width, count) in enumerate(zip(widths, draws, strict=True)):
        began = time.perf_counter()
        made = monte_carlo(
            architecture,
            x,
            kernel="both",
            width=width,
            draws=count,
            seed=seed + i,
            dtype="float32",
            memory="512MiB",
        )
        for kernel, several in made.items():
            found[kernel][width] = several
        print(f"{name} width {width}: {count} networks, {time.perf_counter() - began:.1f} s", flush=True)
    return found, K


def summary(name: str, kernel: str, found: dict[int, MonteCarlo], K: np.ndarray) -> dict[str, Any]:
    """One row of the table."""
    widths = np.array(sorted(found))
    errors = [found[width].relative_errors(K) for width in widths.tolist()]
    fitted = widths >= min(FITTED_FROM, widths[-2])
    x = np.log(widths[fitted])
    used = [e for e, use in zip(errors, fitted, strict=True) if use]
    rng = np.random.default_rng(0)
    slopes = [
        np.polyfit(x, [np.log(rms(rng.choice(e, len(e)))) for e in used], 1)[0] for _ in range(RESAMPLES)
    ]
    norm = float(np.linalg.norm(K))
    off = np.array([np.linalg.norm(found[w].mean - K) / norm for w in widths.tolist()])
    se = np.array([np.linalg.norm(found[w].error) / norm for w in widths.tolist()])
    signed = [np.einsum("dij,ij->d", found[w].draws - K, K) / norm**2 for w in widths.tolist()]
    bias = np.array([s.mean() for s in signed])
    bias_se = np.array([s.std(ddof=1) / np.sqrt(len(s)) for s in signed])
    weights = 1 / (widths * bias_se) ** 2
    B = float((weights * bias * widths).sum() / weights.sum())
    settings, shape = CASES[name]
    return {
        "preset": name,
        "settings": settings,
        "input": list(shape),
        "kernel": kernel,
        "widths": widths.tolist(),
        "draws": [len(e) for e in errors],
        "error": [rms(e) for e in errors],
        "slope": float(np.polyfit(x, [np.log(rms(e)) for e in used], 1)[0]),
        "slope_interval": np.quantile(slopes, [0.025, 0.975]).tolist(),
        "mean_off": off.tolist(),
        "mean_standard_error": se.tolist(),
        "off_over_se": float(off[-1] / se[-1]),
        "largest_z": float(np.max(np.abs(found[int(widths[-1])].mean - K) / found[int(widths[-1])].error)),
        "relative_bias": bias.tolist(),
        "relative_bias_standard_error": bias_se.tolist(),
        "bias_times_width": [B, float(1 / np.sqrt(weights.sum()))],
    }


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def passed(row: dict[str, Any]) -> bool:
    low, high = row["slope_interval"]
    return bool(low <= SLOPES[1] and high >= SLOPES[0] and row["off_over_se"] <= WORST)


def markdown(result: dict[str, Any]) -> str:
    """The table, readable as plain text too."""
    rows = result["rows"]
    first, last = rows[0]["widths"][0], rows[0]["widths"][-1]
    head = (
        "preset", "kernel", "image", f"error, N = {first}", f"error, N = {last}", "slope", "95 % interval",
        f"networks at {last}", "off/SE", "B of the bias B/N",
    )  # fmt: skip
    cells = [head]
    for row in rows:
        low, high = row["slope_interval"]
        B, se = row["bias_times_width"]
        cells.append(
            (
                row["preset"], row["kernel"], "×".join(map(str, row["input"])), f"{row['error'][0]:.3f}",
                f"{row['error'][-1]:.4f}", f"{row['slope']:.3f}", f"[{low:.3f}, {high:.3f}]", str(row["draws"][-1]),
                f"{row['off_over_se']:.2f}", f"{B:+.2f} ± {se:.2f}",
            )
        )  # fmt: skip
    widths = [max(len(line[k]) for line in cells) for k in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    machine, runs = result["machine"], {row["preset"]: row["run"] for row in rows}
    commits = ", ".join(dict.fromkeys(f"{run['commit']} ({run['date'][:16]})" for run in runs.values()))
    seconds = sum(run["seconds"] for run in runs.values())
    versions = ", ".join(dict.fromkeys(run["torch"] for run in runs.values()))
    text = (
        f"Empirical kernels of finite networks against the analytic ones: {machine['cpu']}, {machine['cores']} cores, PyTorch "
        f"{versions}, commit {commits}, {seconds:.0f} s in all beside other work. What the columns are stands at the top of "
        "`benchmarks/finite_width.py`."
    )
    return "\n".join([text, "", *lines]) + "\n"


def figure(result: dict[str, Any], path: Path) -> None:
    """Error of a single initialisation against width, NNGP and NTK, with lines of slope −1/2."""
    with canvas(10.0, 4.4) as drawn:
        for axes, kernel in zip(drawn.subplots(1, 2, sharey=True), ("nngp", "ntk"), strict=True):
            for i, row in enumerate(r for r in result["rows"] if r["kernel"] == kernel):
                label = f"{row['preset']}  {row['slope']:.2f}"
                axes.plot(row["widths"], row["error"], lw=1.2, ms=4, label=label, **look(i))
            widths = np.array(row["widths"])
            top = max(r["error"][0] for r in result["rows"] if r["kernel"] == kernel)
            axes.plot(
                widths, 1.3 * top * np.sqrt(widths[0] / widths), color="0.5", lw=0.9, label="slope −1/2"
            )
            logarithmic(axes)
            axes.set_xlabel("width")
            axes.set_title(kernel.upper(), fontsize=10)
            axes.legend(fontsize=7, title="preset, slope", title_fontsize=7, ncols=2, loc="lower left")
            if kernel == "nngp":
                axes.set_ylabel("error of one initialisation / norm of the kernel")
        drawn.savefig(path)


def save(result: dict[str, Any], out: Path) -> None:
    """After every preset, so that a run that is cut short has its results."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False)
    (out / "finite_width.json").write_text(text + "\n", encoding="utf-8")
    (out / "finite_width.md").write_text(markdown(result), encoding="utf-8")
    figure(result, out / "finite_width.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few networks, narrow: it runs, not how well")
    parser.add_argument(
        "--case", action="append", choices=list(CASES), help="these alone; rows of others stay as they are"
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; more pay for wide networks alone")
    parser.add_argument("--out", type=Path, help="folder to write to; benchmarks/results for a full run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out = options.out or (None if options.quick else RESULTS)
    machine, rows = facts(), []
    known = out / "finite_width.json" if out is not None else None
    if options.case and known is not None and known.exists():
        rows = json.loads(known.read_text(encoding="utf-8"))["rows"]
    result: dict[str, Any] = {}
    for name in options.case or CASES:
        began = time.perf_counter()
        draws = LOCAL_DRAWS if name.startswith("lcn") else DRAWS
        widths, draws = ((16, 32, 64), (24, 24, 24)) if options.quick else (WIDTHS, draws)
        found, K = measure(name, widths, draws)
        made = [summary(name, kernel, found[kernel], getattr(K, kernel)) for kernel in ("nngp", "ntk")]
        run = {"commit": machine["commit"], "date": machine["date"], "torch": torch.__version__}
        run["seconds"] = round(time.perf_counter() - began, 1)
        rows = [row for row in rows if row["preset"] != name] + [row | {"run": run} for row in made]
        rows.sort(key=lambda row: list(CASES).index(row["preset"]))
        result = {"machine": machine, "rows": rows}
        if out is not None:
            save(result, out)
    print(markdown(result))
    if not options.quick and not all(passed(row) for row in rows):
        sys.exit("some kernel does not converge as it should")


if __name__ == "__main__":
    main()
