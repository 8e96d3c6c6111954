"""How often the interval that `kernreg fit` prints contains the known exponent, over 100 draws of the data.

    python benchmarks/interval_coverage.py [--seeds 100] [--out benchmarks/results/coverage.json]

For each seed: `synthetic` data, the Gram matrix of the architecture on which its exponent is known, the
learning curve with replicates, `fit_exponent(curve)` with its defaults; and, on the same losses,
`fit_exponent(samples, loss)`. The last setting has slow targets, whose limit is not reached at this size: it
shows what the interval does not cover.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import kernreg
from kernreg.curve import learning_curve
from kernreg.data.synthetic import linear, synthetic
from kernreg.exponent import fit_exponent
from kernreg.gram import gram

# (a, b, n, d); the exponent holds up to (d − d/b)/4 samples
SETTINGS = ((2.0, 2.0, 512, 4096), (1.5, 2.0, 512, 4096), (3.0, 2.0, 512, 4096), (1.1, 1.2, 512, 4096))
TEST_ROWS = 512


def draw(seed: int, a: float, b: float, n: int, dimension: int) -> tuple[Any, Any]:
    """The fit with replicates and test rows, and the one to the bare losses."""
    data = synthetic(n, TEST_ROWS, a, b, dimension, seed)
    K = gram(data.x_train, None, linear(), kernel="ntk", dtype="float64")
    K_test = gram(data.x_test, data.x_train, linear(), kernel="ntk", dtype="float64")
    curve = learning_curve(K, data.y_train, K_test, data.y_test, ridge=0.0, loo=False)
    return fit_exponent(curve), fit_exponent(curve.samples, curve.loss)


def summary(fits: list[Any], exponent: float) -> dict[str, Any]:
    """Coverage with its binomial standard error, and how wide and where the intervals are."""
    low, high = np.array([fit.interval for fit in fits]).T
    values = np.array([fit.exponent for fit in fits])
    covered = (low <= exponent) & (exponent <= high)
    share = float(covered.mean())
    return {
        "covered": int(covered.sum()),
        "coverage": share,
        "standard_error": float(np.sqrt(share * (1 - share) / len(fits))),
        "below": int((high < exponent).sum()),
        "above": int((low > exponent).sum()),
        "mean_exponent": float(values.mean()),
        "standard_deviation": float(values.std(ddof=1)),
        "median_width": float(np.median(high - low)),
        "models": dict(Counter(fit.model for fit in fits)),
        "with_warnings": sum(bool(fit.warnings) for fit in fits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "coverage.json")
    given = parser.parse_args()
    began, records = time.perf_counter(), []
    for a, b, n, dimension in SETTINGS:
        exponent = min(a - 1, 2 * b)
        pairs = [draw(seed, a, b, n, dimension) for seed in range(given.seeds)]
        record = {
            "a": a,
            "b": b,
            "n": n,
            "test": TEST_ROWS,
            "dimension": dimension,
            "exponent": exponent,
            "with_replicates": summary([p[0] for p in pairs], exponent),
            "bare_losses": summary([p[1] for p in pairs], exponent),
        }
        records.append(record)
        for kind in ("with_replicates", "bare_losses"):
            s = record[kind]
            print(
                f"a = {a:g}  b = {b:g}  exponent {exponent:.2f}  {kind:15s}  "
                f"covered {s['covered']}/{given.seeds}  mean {s['mean_exponent']:.3f} ± "
                f"{s['standard_deviation']:.3f}  width {s['median_width']:.3f}",
                flush=True,
            )
    result = {
        "stated": 0.95,
        "seeds": given.seeds,
        "settings": records,
        "seconds": round(time.perf_counter() - began, 1),
        "kernreg": kernreg.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
