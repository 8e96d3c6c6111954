"""Does theory predict the learning curve of digits? Four predictions beside held-out losses, FCN and CNN-GAP.

The 1,797 images are split at random into 1,200 to learn from and 597 to test on, several times; each
architecture's Gram matrix is computed once. The first m images are those of `kernreg.load`, balanced, each class
equally often, or shuffled, any m of them: the theory is about the latter, and balance is worth something when m is
small. For m ≥ 100 the loss on test images is compared with what training images alone predict:

theory    the error on images left out, expected from all 1,200 (`kernreg.leftout`)
half      the same from their second half, for m ≤ 600: none of its images trains the measured curve
spectrum  eigenvalues and projections of the 1,200 alone, all images alike (`kernreg.spectra`)
gcv, loo  generalised cross-validation and leave-one-out on the m images themselves

    python examples/theory_digits.py                 # 4 splits, about ten minutes
    python examples/theory_digits.py --splits 2 --arch fcn

Writes to benchmarks/results: theory_digits.json, .png and .svg. Exits with 1 if, averaged over the
splits, the theory departs by more than 10 % from the loss of an architecture in either order.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import kernreg
from kernreg.curve import learning_curve
from kernreg.data.subsample import row_order
from kernreg.leftout import left_out_curve
from kernreg.overlay import departure
from kernreg.spectra import spectrum

ARCHITECTURES = ("fcn", "gap")
ROWS, FIRST, RIDGE, WITHIN = 1200, 100, 1e-6, 0.10
PREDICTIONS = ("theory", "half", "spectrum", "gcv", "loo")
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def split(K: np.ndarray, y: np.ndarray, order: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Normalised losses at m = 1…rows, measured and predicted, of one order of the images.

    `half` ends at rows/2; the rest of it is NaN, which no file and no comparison ever sees.
    """
    train, test = order[:rows], order[rows:]
    K_train, y_train = K[np.ix_(train, train)], y[train]
    curve = learning_curve(K_train, y_train, K[np.ix_(test, train)], y[test], ridge=RIDGE, replicates=0)
    m = np.arange(1, rows + 1)
    zero = np.square(y_train).sum() / rows
    second = slice(rows // 2, rows)
    half = left_out_curve(K_train[second, second], y_train[second], RIDGE) / zero
    whole = spectrum(K_train, y_train, RIDGE)
    assert curve.gcv is not None
    assert curve.loo is not None
    return {
        "loss": curve.loss,
        "theory": left_out_curve(K_train, y_train, RIDGE, whole=whole) / zero,
        "half": np.concatenate([half, np.full(rows - len(half), np.nan)]),
        "spectrum": whole.held_out(m) / zero,
        "gcv": curve.gcv,
        "loo": curve.loo,
    }


def compare(splits: list[dict[str, np.ndarray]], first: int) -> dict[str, Any]:
    """Worst departures for m ≥ first: of each split, and of the means over splits."""
    mean = {name: np.mean([s[name] for s in splits], axis=0) for name in splits[0]}
    m = np.arange(1, len(mean["loss"]) + 1)
    found: dict[str, Any] = {}
    for name in PREDICTIONS:
        known = np.isfinite(mean[name])
        each = [departure(m[known], s[name][known], s["loss"][known], first) for s in splits]
        whole = departure(m[known], mean[name][known], mean["loss"][known], first)
        worst = [d.worst for d in each if d is not None]
        assert whole is not None
        found[name] = {"mean_of_splits": whole.to_dict(), "each_split": worst}
    spread = np.std([s["loss"] for s in splits], axis=0, ddof=1) / mean["loss"]
    at = [size for size in (10, 30, 100, 200, 400, 600, 800, 1200) if size <= len(m)]
    found["curve"] = {
        "samples": at,
        "loss": [float(mean["loss"][size - 1]) for size in at],
        "deviation_of_a_split": [float(spread[size - 1]) for size in at],
        **{
            name: [float(mean[name][size - 1]) if np.isfinite(mean[name][size - 1]) else None for size in at]
            for name in PREDICTIONS
        },
    }
    return found


def draw(results: dict[str, list[dict[str, np.ndarray]]], stem: Path) -> None:
    """Mean losses and predictions in log-log, and their ratios with a band of ten percent."""
    import matplotlib
    from matplotlib.figure import Figure

    from kernreg.report import COLOURS, DASHES, STYLE

    with matplotlib.rc_context(STYLE):
        page = Figure(figsize=(4.2 * len(results), 7.0), layout="constrained")
        panels = page.subplots(2, len(results), sharex=True, squeeze=False)
        for (upper, lower), (name, splits) in zip(panels.T, results.items(), strict=True):
            mean = {key: np.mean([s[key] for s in splits], axis=0) for key in splits[0]}
            m = np.arange(1, len(mean["loss"]) + 1)
            at = m >= 8
            upper.plot(m[at], mean["loss"][at], color="0.55", lw=3.5, label="measured on test images")
            lower.axhspan(1 - WITHIN, 1 + WITHIN, color="0.93", zorder=0)
            for i, key in enumerate(PREDICTIONS):
                look = {"color": COLOURS[i], "ls": DASHES[i % len(DASHES)], "lw": 1.4}
                upper.plot(m[at], mean[key][at], label=key, **look)
                lower.plot(m[at], mean[key][at] / mean["loss"][at], **look)
            upper.set_title(name)
            upper.set_xscale("log")
            upper.set_yscale("log")
            upper.legend(fontsize=8)
            upper.set_ylabel("loss / loss of the zero predictor")
            lower.set_ylabel("predicted / measured")
            lower.set_ylim(0.7, 1.4)
            lower.set_xlabel("training images  m")
            lower.xaxis.set_major_formatter("{x:g}")
        page.savefig(stem.with_suffix(".png"), dpi=160)
        page.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--arch", choices=ARCHITECTURES, action="append")
    parser.add_argument("--images", type=int, default=1797, help="fewer for a quick look")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    digits = kernreg.load("digits", n=given.images, test=0, dtype="float64")
    rows = round(given.images * ROWS / 1797)
    first = min(FIRST, rows // 4)
    results: dict[str, list[dict[str, np.ndarray]]] = {}
    records: dict[str, Any] = {}
    for name in given.arch or ARCHITECTURES:
        K = kernreg.gram(
            digits.x_train, None, kernreg.Architecture.preset(name), kernel="ntk", dtype="float64"
        )
        for rule, labels in (("balanced", digits.labels_train), ("shuffled", None)):
            orders = [row_order(given.images, seed, labels=labels) for seed in range(given.splits)]
            case = f"{name}, {rule}"
            results[case] = [split(K, digits.y_train, order, rows) for order in orders]
            records[case] = compare(results[case], first)
            for key in PREDICTIONS:
                d = records[case][key]
                each = ", ".join(f"{worst:.0%}" for worst in d["each_split"])
                whole = d["mean_of_splits"]
                print(
                    f"{case} {key:8s} m ≥ {first}: mean of splits within {whole['worst']:.1%} "
                    f"(worst at {whole['at']}); single splits {each}",
                    flush=True,
                )
    given.out.mkdir(parents=True, exist_ok=True)
    facts = {
        "rows": rows,
        "tests": given.images - rows,
        "splits": given.splits,
        "ridge": RIDGE,
        "first": first,
    }
    text = json.dumps({**facts, "kernreg": kernreg.__version__, "cases": records}, indent=1, allow_nan=False)
    (given.out / "theory_digits.json").write_text(text + "\n", encoding="utf-8")
    draw(results, given.out / "theory_digits")
    return int(any(r["theory"]["mean_of_splits"]["worst"] > WITHIN for r in records.values()))


if __name__ == "__main__":
    sys.exit(main())
