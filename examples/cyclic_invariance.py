"""What an invariance is worth: a kernel averaged over cyclic shifts needs a factor d fewer samples.

Mei, Misiakiewicz and Montanari, "Learning with invariances in random features and kernel models", COLT 2021.
Inputs are uniform on the sphere of radius √d, d = 30; the targets, of degrees 1, 2 and 3, do not change when
the coordinates are shifted cyclically. The kernel is the NTK of a fully connected ReLU network of five weight
layers (four hidden ones and the readout) without bias, plain ("std") and averaged over all 30 shifts ("cyc").
The ridge is 1e-8 of the mean diagonal.

    python examples/cyclic_invariance.py            # 4 repeats up to n = 300, seconds
    python examples/cyclic_invariance.py --full     # 10 repeats up to n = 2700, minutes

Exits with 1 if the mean over repeats of some normalised MSE is further from the published number than BAND
times the standard deviation of one repeat, plus half a unit of the last printed digit.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

import kernreg

D = 30
RIDGE = 1e-8
BAND = 2.0
ROUNDING = 5e-4
TESTS = 1000
SAMPLES = (10, 30, 100, 300, 900, 2700)
TARGETS = ("linear", "quadratic", "cubic")
PUBLISHED = {
    ("std", "linear"): (0.902, 0.629, 0.249, 0.056, 0.007, 0.001),
    ("std", "quadratic"): (1.065, 1.034, 1.011, 0.810, 0.456, 0.135),
    ("std", "cubic"): (1.029, 1.069, 1.085, 1.063, 1.053, 0.909),
    ("cyc", "linear"): (0.063, 0.006, 0.000, 0.000, 0.000, 0.000),
    ("cyc", "quadratic"): (0.869, 0.448, 0.098, 0.015, 0.002, 0.000),
    ("cyc", "cubic"): (1.120, 1.034, 0.911, 0.604, 0.222, 0.042),
}
NETWORK = kernreg.Architecture.fcn(depth=4, weight_variance=2.0, bias_variance=0.0)


def sphere(rng: np.random.Generator, rows: int) -> np.ndarray:
    """(rows, d) uniform on the sphere of radius √d."""
    x = rng.standard_normal((rows, D))
    return np.asarray(x * (np.sqrt(D) / np.linalg.norm(x, axis=1, keepdims=True)))


def targets(x: np.ndarray) -> np.ndarray:
    """(rows, 3): Σ x_i, Σ x_i·x_{i+1}, Σ x_i·x_{i+1}·x_{i+2}, indices cyclic, each over √d."""
    after, second = np.roll(x, -1, axis=1), np.roll(x, -2, axis=1)
    return np.stack([x.sum(1), (x * after).sum(1), (x * after * second).sum(1)], axis=1) / np.sqrt(D)


def plain(x: np.ndarray, z: np.ndarray | None, backend: str) -> np.ndarray:
    """K(x, z) of the network."""
    return np.asarray(kernreg.gram(x, z, NETWORK, kernel="ntk", backend=backend, dtype="float64"))


def averaged(x: np.ndarray, z: np.ndarray | None, backend: str) -> np.ndarray:
    """(1/d)·Σ_s K(x, z shifted by s).

    K(x, shifted z) = K(shifted back x, z), so with z = x the shifts s and d − s are each other's transpose.
    """
    if z is not None:
        return sum(plain(x, np.roll(z, s, axis=1), backend) for s in range(D)) / D
    total = plain(x, None, backend)
    for s in range(1, D // 2 + 1):
        shifted = plain(x, np.roll(x, s, axis=1), backend)
        total += shifted + shifted.T if 2 * s < D else (shifted + shifted.T) / 2
    return total / D


KERNELS = {"std": plain, "cyc": averaged}


def repeat(seed: int, samples: list[int], backend: str = "auto", tests: int = TESTS) -> np.ndarray:
    """(2 kernels, 3 targets, samples) normalised MSE, from one training set."""
    n = max(samples)
    x = sphere(np.random.default_rng(seed), n + tests)
    y = targets(x)
    losses = []
    for average in KERNELS.values():
        K, K_test = average(x[:n], None, backend), average(x[n:], x[:n], backend)
        for column in y.T:
            curve = kernreg.learning_curve(
                K, column[:n], K_test, column[n:], ridge=RIDGE, ridge_mode="relative", loo=False, replicates=0
            )
            losses.append(curve.loss[np.array(samples) - 1])
    return np.reshape(losses, (len(KERNELS), len(TARGETS), len(samples)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="4 repeats up to n = 300 (the default)")
    size.add_argument("--full", action="store_true", help="10 repeats up to n = 2700")
    parser.add_argument("--backend", default="auto", help="of the kernel: auto, cpu or reference")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    options = parser.parse_args(arguments)
    repeats, largest = (10, 2700) if options.full else (4, 300)
    samples = [n for n in SAMPLES if n <= largest]
    measured = np.array([repeat(seed, samples, options.backend) for seed in range(repeats)])
    mean, deviation = measured.mean(axis=0), measured.std(axis=0, ddof=1)
    print(
        f"normalised MSE, d = {D}, {repeats} repeats, {TESTS} test points; ± is the deviation of one repeat"
    )
    print(f"{'n':>26}" + "".join(f"{n:>14}" for n in samples))
    rows, outside = [], 0
    for (kernel, target), mu, sigma in zip(
        PUBLISHED, mean.reshape(6, -1), deviation.reshape(6, -1), strict=True
    ):
        published = np.array(PUBLISHED[kernel, target][: len(samples)])
        outside += int((np.abs(mu - published) > BAND * sigma + ROUNDING).sum())
        print(f"{kernel} {target:<9}    published" + "".join(f"{p:14.3f}" for p in published))
        print(f"{'measured':>26}" + "".join(f"{m:7.3f} ±{s:6.3f}" for m, s in zip(mu, sigma, strict=True)))
        numbers = {"published": published.tolist(), "measured": mu.tolist(), "deviation": sigma.tolist()}
        rows.append({"kernel": kernel, "target": target, "n": samples, **numbers})
    print(f"{outside} of {mean.size} outside {BAND:g} deviations of one repeat")
    if options.out:
        facts = {"d": D, "repeats": repeats, "tests": TESTS, "band": BAND, "relative_ridge": RIDGE}
        facts |= {"architecture": NETWORK.to_dict(), "kernreg": kernreg.__version__}
        options.out.write_text(json.dumps({**facts, "table": rows}, indent=1) + "\n", encoding="utf-8")
    return int(outside > 0)


if __name__ == "__main__":
    sys.exit(main())
