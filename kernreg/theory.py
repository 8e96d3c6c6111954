"""Eigenlearning: the expected learning curve of kernel regression from the spectra of kernel and target.

Kernel eigenvalues λ_i, target energies v_i² in the same eigenfunctions, label noise σ², ridge δ, m samples:

    Σ_i λ_i/(λ_i + κ) + δ/κ = m        κ is what the unlearned modes act like: the effective ridge
    L_i  = λ_i/(λ_i + κ)               the learnability of mode i; they sum to at most m
    E0   = m/(m − Σ_i L_i²)            overfitting: the test error of pure noise of variance 1
    test = E0·(Σ_i (1 − L_i)²·v_i² + σ²)                train = (δ/(m·κ))²·test

Sources: Simon, Dickens, Karkada, DeWeese, "The eigenlearning framework", TMLR 2023, eq. 2 to 9; the same
equations in Bordelon, Canatar, Pehlevan 2020, Jacot et al. 2020 and Hastie et al. 2022. Exact where m and the
number of modes are large and features are nearly Gaussian; how near it comes on real Gram matrices is measured
in benchmarks/results/theory_digits.json.

Here the spectra are given. `kernreg.spectra` takes them from a Gram matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernreg.cholesky import factor, invert
from kernreg.errors import KernregError

Array = NDArray[np.float64]

# Entries of a block of (sample counts × modes), 16 MiB.
BLOCK_ENTRIES = 1 << 21
# Bisection alone would end in 64; Newton in about ten.
ITERATIONS = 200


@dataclass(frozen=True, eq=False)
class Eigenlearning:
    """What the theory expects at each of s sample counts, float64.

    Attributes:
        samples: (s,) m.
        effective_ridge: (s,) κ, in the units of the eigenvalues.
        learned: (s,) Σ L_i, the number of modes learned.
        overfitting: (s,) E0; infinite where m is the number of modes and there is no ridge.
        mse: (s,) test error, noise included.
        train_mse: (s,) error on the training rows themselves.
    """

    samples: Array
    effective_ridge: Array
    learned: Array
    overfitting: Array
    mse: Array
    train_mse: Array


def eigenlearning(
    eigenvalues: ArrayLike,
    energies: ArrayLike,
    samples: ArrayLike,
    noise: float = 0.0,
    ridge: float = 0.0,
) -> Eigenlearning:
    """The expected errors at each sample count.

    Args:
        eigenvalues: (r,) λ_i ≥ 0 of the kernel's integral operator, in any order.
        energies: (r,) v_i² ≥ 0, summed over outputs. E|y|² = Σ v_i² + σ².
        samples: (s,) sample counts m > 0; they need not be whole.
        noise: σ², the variance of the labels that no mode explains.
        ridge: δ ≥ 0 as it is added to the diagonal of the Gram matrix.

    Raises:
        KernregError: shapes that differ, values that are negative or not finite.
    """
    λ, m, δ = _checked(eigenvalues, "eigenvalues"), _sizes(samples), _number(ridge, "the ridge")
    v2, σ2 = _checked(energies, "energies"), _number(noise, "the noise")
    if λ.shape != v2.shape:
        raise KernregError(f"{len(λ)} eigenvalues but {len(v2)} energies; each mode has one of both")
    κ = effective_ridge(λ, m, δ)
    learned, squares, missed = np.empty_like(m), np.empty_like(m), np.empty_like(m)
    for rows in row_blocks(len(m), len(λ)):
        unlearned = np.divide(
            κ[rows, None], λ + κ[rows, None], out=np.ones((len(m[rows]), len(λ))), where=λ + κ[rows, None] > 0
        )
        L = 1 - unlearned
        learned[rows], squares[rows] = L.sum(axis=1), np.square(L).sum(axis=1)
        missed[rows] = np.square(unlearned) @ v2
    left = m - squares
    # Without a ridge and with m = r every mode is learned exactly, and noise is amplified without bound.
    at_threshold = left <= 1e-12 * m
    E0 = np.divide(m, left, out=np.full_like(m, np.inf), where=~at_threshold)
    expected = missed + σ2
    mse = np.multiply(E0, expected, out=np.zeros_like(m), where=expected > 0)
    shrink = np.divide(δ, m * κ, out=np.zeros_like(m), where=κ > 0)
    train = np.square(shrink) * np.where(np.isfinite(mse), mse, 0.0)
    if not δ:
        # With more samples than modes the residual is noise in the m − r directions that no mode reaches.
        modes = np.count_nonzero(λ)
        train = np.maximum(1 - modes / m, 0.0) * expected
    return Eigenlearning(m, κ, learned, E0, mse, train)


def effective_ridge(eigenvalues: ArrayLike, samples: ArrayLike, ridge: float = 0.0) -> Array:
    """κ (s,) with Σ λ_i/(λ_i + κ) + δ/κ = m; 0 where no mode is left to fill (m ≥ r and δ = 0).

    Newton in log κ within a bracket that closes: max(δ, λ_min·(r − m))/m ≤ κ ≤ (Σλ_i + δ)/m.

    Args:
        eigenvalues: (r,) λ_i ≥ 0.  samples: (s,) m > 0.  ridge: δ ≥ 0.

    Raises:
        KernregError: values that are negative or not finite.
    """
    λ, m, δ = _checked(eigenvalues, "eigenvalues"), _sizes(samples), _number(ridge, "the ridge")
    λ = λ[λ > 0]
    κ = np.zeros_like(m)
    if not len(λ):
        return κ + δ / m
    solvable = np.flatnonzero((m < len(λ)) | (δ > 0))
    for rows in row_blocks(len(solvable), len(λ)):
        at = solvable[rows]
        κ[at] = _root(λ, m[at], δ)
    return κ


def measured_effective_ridge(K: ArrayLike, ridge: float = 0.0) -> float:
    """κ̂ = 1/tr (K + δI)⁻¹, which needs no spectrum (Simon et al. 2023; Jacot et al. 2020).

    With it generalised cross-validation reads GCV = train MSE·(n·κ̂/δ)².

    Args:
        K: (n, n) Gram matrix.  ridge: δ ≥ 0, absolute.

    Raises:
        KernregError: as `kernreg.cholesky.factor`.
    """
    inverse = np.tril(invert(factor(K, ridge)))
    return 1 / float(np.square(inverse, out=inverse).sum())


def limit_exponent(a: float, b: float) -> float:
    """β = min(a − 1, 2b) for λ_k ~ k^{-b}, v_k² ~ k^{-a}, no noise, ridge 0 or falling faster than κ.

    Source: Bordelon, Canatar, Pehlevan 2020; Cui, Loureiro, Krzakala, Zdeborová 2021.
    """
    return float(min(a - 1, 2 * b))


def _root(λ: Array, m: Array, δ: float) -> Array:
    low = np.log(np.maximum(δ, λ.min() * np.maximum(len(λ) - m, 0.0)) / m)
    high = np.log((λ.sum() + δ) / m)
    u = high.copy()
    for _ in range(ITERATIONS):
        κ = np.exp(u)[:, None]
        L = λ / (λ + κ)
        by_ridge = δ / κ[:, 0]
        excess = L.sum(axis=1) + by_ridge - m
        slope = (L * (κ / (λ + κ))).sum(axis=1) + by_ridge
        low, high = np.where(excess > 0, u, low), np.where(excess > 0, high, u)
        newton = u + excess / slope
        inside = (newton >= low) & (newton <= high)
        step = np.where(inside, newton, (low + high) / 2)
        done = np.abs(step - u) <= 4 * np.finfo(np.float64).eps * np.maximum(np.abs(u), 1)
        u = step
        if done.all():
            break
    κ_root: Array = np.exp(u)
    return κ_root


def row_blocks(rows: int, width: int) -> list[slice]:
    height = max(1, BLOCK_ENTRIES // max(width, 1))
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def _checked(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all() or array.min() < 0:
        raise KernregError(f"{name} must be a sequence of finite numbers ≥ 0")
    return array


def _sizes(values: ArrayLike) -> Array:
    m = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if m.ndim != 1 or not np.isfinite(m).all() or (m <= 0).any():
        raise KernregError("sample counts must be positive finite numbers")
    return m


def _number(value: float, name: str) -> float:
    if not (np.isfinite(value) and value >= 0):
        raise KernregError(f"{name} must be a finite number ≥ 0, not {value!r}")
    return float(value)
