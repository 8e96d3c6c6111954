"""Learning curves with several descents, on the sphere in 24 dimensions, beside their theory.

Xiao, Hu, Misiakiewicz, Lu and Pennington, "Precise learning curves and higher-order scaling limits for
dot-product kernel regression", NeurIPS 2022. Inputs are uniform on the sphere of radius √d, the kernel is
Σ_i 32^-i·P_i(x·z/d) with the Gegenbauer polynomials P_i of the sphere, P_i(1) = 1, i = 0…6. The label is a
sum of harmonic polynomials of degrees k = 1…7 with energies 1/k². No ridge. One factorisation gives every m.

    python examples/precise_learning_curves.py            # 8 repeats up to m = 700, seconds
    python examples/precise_learning_curves.py --full     # 20 repeats up to m = 3200, minutes

Exits with 1 if the mean over repeats of some MSE/2 is further from the published number than BAND times the
standard deviation of one repeat.
"""

from __future__ import annotations

import argparse
import json
import sys
from math import prod, sqrt
from pathlib import Path

import numpy as np
from scipy.special import gegenbauer

import kernreg
from kernreg.descents import precise_mse

D = 24
BAND = 2.0
TESTS = 2000
PUBLISHED = {
    5: 0.7129, 12: 0.7120, 24: 0.8943, 36: 0.6377, 60: 0.4199, 150: 0.3402, 299: 0.4608, 323: 0.4686,
    400: 0.4188, 700: 0.2505, 1500: 0.2063, 2500: 0.2616, 2899: 0.2757, 3200: 0.2692,
}  # fmt: skip
KERNEL_DEGREES = range(7)
LABEL_DEGREES = range(1, 8)


def eigenvalue(degree: int) -> float:
    """The kernel's energy in all harmonics of one degree."""
    return 32.0**-degree


def energy(degree: int) -> float:
    """The label's mean square in one degree."""
    return 1 / degree**2


def theory(m: int) -> float:
    """MSE/2 by the closed form of the paper."""
    kernel = [eigenvalue(k) for k in KERNEL_DEGREES]
    target = [0.0, *(energy(k) for k in LABEL_DEGREES)]
    return float(precise_mse([m], D, kernel, target)[0] / 2)


def sphere(rng: np.random.Generator, rows: int) -> np.ndarray:
    """(rows, d) uniform on the sphere of radius √d."""
    x = rng.standard_normal((rows, D))
    return np.asarray(x * (sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True)))


def kernel(t: np.ndarray) -> np.ndarray:
    """Σ_i 32^-i·P_i(t) as one polynomial of t = x·z/d."""
    polynomials = [gegenbauer(k, (D - 2) / 2) for k in KERNEL_DEGREES]
    sum_of_all = sum(eigenvalue(k) * np.poly1d(P.coeffs / P(1.0)) for k, P in enumerate(polynomials))
    return np.asarray(np.polyval(sum_of_all, t))


def label(x: np.ndarray) -> np.ndarray:
    """Σ_k √energy · Σ_j x_j·x_{j+1}…x_{j+k−1}, cyclic, each degree normalised by its exact mean square."""
    y = np.zeros(len(x))
    for k in LABEL_DEGREES:
        monomials = prod(np.roll(x, -shift, axis=1) for shift in range(k))
        mean_square = prod(D / (D + 2 * shift) for shift in range(k))
        y += sqrt(energy(k) / (D * mean_square)) * np.asarray(monomials).sum(axis=1)
    return y


def repeat(seed: int, samples: list[int], tests: int = TESTS) -> np.ndarray:
    """MSE/2 at the sample counts, from one training set."""
    n = max(samples)
    x = sphere(np.random.default_rng(seed), n + tests)
    K, y = kernel(x @ x[:n].T / D), label(x)
    curve = kernreg.learning_curve(K[:n], y[:n], K[n:], y[n:], ridge=0.0, loo=False, replicates=0)
    return np.asarray(curve.mse[np.array(samples) - 1] / 2)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="8 repeats up to m = 700 (the default)")
    size.add_argument("--full", action="store_true", help="20 repeats up to m = 3200")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    options = parser.parse_args(arguments)
    repeats, largest = (20, 3200) if options.full else (8, 700)
    samples = [m for m in PUBLISHED if m <= largest]
    measured = np.array([repeat(seed, samples) for seed in range(repeats)])
    mean, deviation = measured.mean(axis=0), measured.std(axis=0, ddof=1)
    rows = [
        {"m": m, "published": PUBLISHED[m], "theory": theory(m), "measured": mu, "deviation": sigma}
        for m, mu, sigma in zip(samples, mean.tolist(), deviation.tolist(), strict=True)
    ]
    print(f"MSE/2, d = {D}, {repeats} repeats, {TESTS} test points; deviation is that of one repeat")
    print("    m  published   theory  measured  deviation  (measured − published)/deviation")
    outside = 0
    for row in rows:
        off = (row["measured"] - row["published"]) / row["deviation"]
        outside += abs(off) > BAND
        print(
            f"{row['m']:5d} {row['published']:10.4f} {row['theory']:8.4f} {row['measured']:9.4f} "
            f"{row['deviation']:10.4f}  {off:+.2f}"
        )
    print(f"{outside} of {len(rows)} outside {BAND:g} deviations of one repeat")
    if options.out:
        facts = {"d": D, "repeats": repeats, "tests": TESTS, "band": BAND, "kernreg": kernreg.__version__}
        options.out.write_text(json.dumps({**facts, "table": rows}, indent=1) + "\n", encoding="utf-8")
    return int(outside > 0)


if __name__ == "__main__":
    sys.exit(main())
