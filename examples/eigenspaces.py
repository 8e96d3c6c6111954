"""What locality and hierarchy teach a kernel: eight polynomials, three networks, predicted and measured.

The task of Xiao, "Eigenspace Restructuring: a Principle of Space and Frequency in Neural Networks", COLT 2022,
Figure 3: d = p⁴ coordinates on p³ spheres, eight targets, a fully connected network (MLP), one with filters of p²
(D-CNN) and one with filters of p (HR-CNN), strides as large as the filters. Each network has a learning index r for
each target; about d^r samples teach it. The paper's activation has a Gaussian kernel; here it is a ReLU with biases,
whose kernel has all degrees too. The last dense layer of the CNNs is a filter that sees all places, the same
kernel.

    python examples/eigenspaces.py                  # d = 256 up to m = d^1.5 = 4096, a few minutes on two cores
    python examples/eigenspaces.py --p 3            # d = 81
    python examples/eigenspaces.py --scale 1.75     # up to m = d^1.75 = 16384; the paper goes to d^2.28 = 327680

Exits with 1 unless every target whose index is MARGIN below the scale has at the last m lost half of its squared
error, and every target whose index is FAR above it has not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

import kernreg
from kernreg.complexity import learning_index
from kernreg.data.eigenspaces import targets

TESTS = 1000
RIDGE = 1e-8  # of the mean diagonal: none, but for rounding
HALF = 0.5
MARGIN, FAR = 0.25, 0.5
SETTINGS = {"weight_variance": 1.0, "bias_variance": 1.0}


def networks(p: int) -> dict[str, kernreg.Architecture]:
    """One level of p⁴ coordinates, two levels of p², four levels of p."""
    return {
        "MLP": kernreg.Architecture.fcn(4, **SETTINGS),
        "D-CNN": hierarchy(p * p, 2),
        "HR-CNN": hierarchy(p, 4),
    }


def hierarchy(side: int, depth: int) -> kernreg.Architecture:
    return kernreg.Architecture.vec(depth, (1, side), stride=(1, side), padding="VALID", **SETTINGS)


def measure(
    p: int, n: int, tests: int = TESTS, seed: int = 0, backend: str = "auto"
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The names of the targets, and for each network the test loss (targets, n) of every target at m = 1 … n."""
    data = kernreg.load("eigenspaces", n=n, test=tests, p=p, seed=seed, dtype="float64")
    losses = {}
    for name, architecture in networks(p).items():
        start = time.monotonic()
        K = kernreg.gram(data.x_train, None, architecture, backend=backend)
        K_test = kernreg.gram(data.x_test, data.x_train, architecture, backend=backend)
        columns = [
            kernreg.learning_curve(
                K, y, K_test, y_test, ridge=RIDGE, ridge_mode="relative", loo=False, replicates=0
            ).loss
            for y, y_test in zip(data.y_train.T, data.y_test.T, strict=True)
        ]
        losses[name] = np.array(columns)
        print(f"{name}: {n} + {tests} rows in {time.monotonic() - start:.0f} s", file=sys.stderr)
    return data.provenance["target_names"], losses


def predict(p: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """The learning index of each target, by network."""
    functions = targets(p, seed)
    return {
        name: {f.name: learning_index(architecture, p**4, f.monomials) for f in functions}
        for name, architecture in networks(p).items()
    }


def half_way(loss: np.ndarray) -> int | None:
    """The first m from which on the loss stays below one half, or None."""
    above = np.flatnonzero(loss >= HALF)
    last = int(above[-1]) + 1 if len(above) else 0
    return None if last == len(loss) else last + 1


def count(m: float) -> str:
    """4096, 1.05e6."""
    return str(round(m)) if m < 1e6 else f"{m:.3g}".replace("e+0", "e").replace("e+", "e")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.5, help="largest m is d to this power (default 1.5)")
    parser.add_argument("--p", type=int, default=4, help="dimensions of a sphere; d = p⁴ (default 4)")
    parser.add_argument("--tests", type=int, default=TESTS, help=f"test rows (default {TESTS})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="auto", help="of the kernel: auto, cpu or reference")
    parser.add_argument("--out", type=Path, help="folder for eigenspaces.json, .png and .svg")
    options = parser.parse_args(arguments)
    d, indices = options.p**4, predict(options.p, options.seed)
    n = round(d**options.scale)
    names, losses = measure(options.p, n, options.tests, options.seed, options.backend)
    marks = [m for m in (round(d ** (k / 4)) for k in range(2, 20)) if m < n] + [n]
    print(f"test loss / loss of the zero predictor, d = {d}, {options.tests} test rows, seed {options.seed}")
    rows, wrong = [], 0
    for network, curves in losses.items():
        print(f"\n{network:7}{'r':>5}{'d^r':>9}{'half at':>9}" + "".join(f"{f'm={m}':>9}" for m in marks))
        for name, loss in zip(names, curves, strict=True):
            r, half = indices[network][name], half_way(loss)
            early, late = r <= options.scale - MARGIN, r >= options.scale + FAR
            bad = (early and half is None) or (late and half is not None)
            wrong += bad
            print(
                f"{name:7}{r:5g}{count(d**r):>9}{'-' if half is None else half:>9}"
                + "".join(f"{loss[m - 1]:9.3f}" for m in marks)
                + (" !" if bad else "")
            )
            rows.append(
                {
                    "network": network,
                    "target": name,
                    "learning_index": r,
                    "predicted": d**r,
                    "half_at": half,
                    "samples": marks,
                    "loss": [float(loss[m - 1]) for m in marks],
                }
            )
    print(f"\n{wrong} of {len(rows)} targets learned or not against the prediction")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        facts = {
            "p": options.p,
            "d": d,
            "n": n,
            "tests": options.tests,
            "seed": options.seed,
            "relative_ridge": RIDGE,
        }
        facts |= {"networks": {k: a.to_dict() for k, a in networks(options.p).items()}}
        facts |= {"kernreg": kernreg.__version__}
        text = json.dumps({**facts, "table": rows}, indent=1)
        (options.out / "eigenspaces.json").write_text(text + "\n", encoding="utf-8")
        draw(names, losses, indices, d, options.out / "eigenspaces")
    return int(wrong > 0)


def draw(
    names: list[str], losses: dict[str, np.ndarray], indices: dict[str, dict[str, float]], d: int, path: Path
) -> None:
    """A panel for each network: the curves, and a tick at d^r on each."""
    from matplotlib.figure import Figure

    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
    page = Figure(figsize=(11, 3.8), layout="constrained")
    for axes, (network, curves) in zip(
        page.subplots(1, len(losses), sharey=True), losses.items(), strict=True
    ):
        n = curves.shape[1]
        m = np.unique(np.geomspace(4, n, 200).astype(int))
        for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
            r, dash = indices[network][name], ("-", "--", ":", "-.")[i % 4]
            axes.plot(m, curves[i, m - 1], color=colour, ls=dash, lw=1.4, label=f"{name}  r = {r:g}")
            if d**r <= n:
                axes.axvline(d**r, color=colour, ls=dash, lw=0.6, alpha=0.7)
        axes.set(xscale="log", xlabel="training samples  m", title=network, ylim=(0, 1.5))
        axes.legend(fontsize=7, frameon=False, loc="lower left")
    page.axes[0].set_ylabel("test loss / loss of the zero predictor")
    page.suptitle(f"d = {d}; vertical lines: predicted transitions m = d^r", fontsize=10)
    page.savefig(path.with_suffix(".png"), dpi=130)
    page.savefig(path.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
