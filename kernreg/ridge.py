"""The ridge λ: absolute, relative to the mean diagonal, or chosen on the training rows by LOO or GCV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, eigh

from kernreg.cholesky import BLOCK, EPS, Matrix
from kernreg.errors import KernregError

RidgeMode: TypeAlias = Literal["absolute", "relative"]
Criterion: TypeAlias = Literal["loo", "gcv"]
# K, y, ridges → leave-one-out and generalised cross-validation errors, see `ridge_path`
RidgePath: TypeAlias = Callable[[npt.NDArray[Any], Matrix, Matrix], tuple[Matrix, Matrix]]

# Relative to the mean diagonal: 1e-10, 3.16e-10, … 10.
RELATIVE_GRID = tuple(float(10.0 ** (e / 2)) for e in range(-20, 3))


def absolute_ridge(
    K: npt.NDArray[Any],
    y: Matrix,
    ridge: float | str,
    mode: RidgeMode = "absolute",
    grid: Sequence[float] | None = None,
    path: RidgePath | None = None,
) -> float:
    """λ in the units of K.

    Args:
        K: (n, n) kernel of the training rows, checked.
        y: (n, c) their targets.
        ridge: a number ≥ 0, or "loo" or "gcv": the value of `grid` with the smallest leave-one-out or
            generalised cross-validation error of all n rows. No test row takes part.
        mode: "absolute": λ = ridge. "relative": λ = ridge × the mean of K's n diagonal entries.
        grid: candidates for "loo" and "gcv", always relative to the mean diagonal; default 1e-10 to 10.
        path: gives their errors; default `ridge_path`, another one for a K on another device.

    Raises:
        KernregError: unknown rule or mode, a number out of range, no usable candidate.
    """
    if not isinstance(ridge, str):
        return ridge_in_units(K.diagonal(), ridge, mode)
    scale = _scale(K.diagonal(), ridge, mode)
    candidates = scale * np.asarray(RELATIVE_GRID if grid is None else grid, dtype=np.float64)
    return _chosen(K, y, ridge, candidates, path or ridge_path)


def ridge_in_units(diagonal: npt.NDArray[Any], ridge: float, mode: RidgeMode = "absolute") -> float:
    """λ in the units of K, of which only the diagonal (n,) is needed for a ridge that is a number.

    Raises:
        KernregError: unknown mode, a number out of range.
    """
    scale = _scale(diagonal, ridge, mode)
    if not (math.isfinite(ridge) and ridge >= 0):
        raise KernregError(f'the ridge must be a finite number ≥ 0, "loo" or "gcv", not {ridge!r}')
    return float(ridge) * (scale if mode == "relative" else 1.0)


def _scale(diagonal: npt.NDArray[Any], ridge: float | str, mode: RidgeMode) -> float:
    if mode not in ("absolute", "relative"):
        raise KernregError(f'ridge_mode must be "absolute" or "relative", not {mode!r}')
    scale = float(diagonal.mean(dtype=np.float64))
    if (mode == "relative" or isinstance(ridge, str)) and not scale > 0:
        raise KernregError(f"a relative ridge needs a positive mean diagonal; that of K is {scale:.3g}")
    return scale


def ridge_path(K: npt.NDArray[Any], y: Matrix, ridges: Matrix) -> tuple[Matrix, Matrix]:
    """Leave-one-out and generalised cross-validation errors of all n rows at each ridge, summed over outputs.

    One eigendecomposition K = Q·diag(e)·Qᵀ serves every λ: A = (K + λI)⁻¹ = Q·diag(1/(e + λ))·Qᵀ, α = A·y,
    loo = (1/n)·Σ_i |α_i/A_ii|², gcv = n·|α|²/(tr A)². It costs about ten Cholesky factorisations and three n²
    arrays. Where K + λI is not positive definite in float64 both are infinite.

    Args:
        K: (n, n); y: (n, c); ridges: (r,) absolute.
    """
    n = len(K)
    try:
        e, Q = eigh(np.asarray(K, dtype=np.float64), driver="evd", check_finite=False)
    except LinAlgError as failure:
        raise KernregError(f"LAPACK could not diagonalise K to choose a ridge: {failure}") from None
    e = e.astype(np.float64, copy=False)
    loo, gcv = np.full(len(ridges), np.inf), np.full(len(ridges), np.inf)
    usable = np.flatnonzero(e[0] + ridges > n * EPS * e[-1])
    weights = 1 / (e[:, None] + ridges[usable])
    rotated = Q.T @ y
    diagonal = np.concatenate([np.square(Q[a : a + BLOCK]) @ weights for a in range(0, n, BLOCK)])
    for place, w, A_ii in zip(usable, weights.T, diagonal.T, strict=True):
        norms = np.square(Q @ (w[:, None] * rotated)).sum(axis=1)
        loo[place] = (norms / A_ii**2).mean()
        gcv[place] = n * norms.sum() / A_ii.sum() ** 2
    return loo, gcv


def _chosen(K: npt.NDArray[Any], y: Matrix, rule: str, ridges: Matrix, path: RidgePath) -> float:
    if rule not in ("loo", "gcv"):
        raise KernregError(f'unknown rule for the ridge {rule!r}; use a number, "loo" or "gcv"')
    if ridges.ndim != 1 or not ridges.size or not (np.isfinite(ridges).all() and ridges.min() >= 0):
        raise KernregError("ridge_grid must be a sequence of finite numbers ≥ 0")
    loo, gcv = path(K, y, ridges)
    score = loo if rule == "loo" else gcv
    best = int(score.argmin())
    if not math.isfinite(score[best]):
        raise KernregError("no candidate of ridge_grid makes K + λI positive definite; add larger ones")
    return float(ridges[best])
