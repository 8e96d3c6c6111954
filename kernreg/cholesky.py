"""K + λI = L·Lᵀ in float64 LAPACK, in place, with every `info` read.

A C-contiguous matrix is its own transpose to LAPACK, so `factor` asks for the upper factor of that transpose:
L comes out in the lower triangle of the caller's array, its rows contiguous, and the strict upper triangle is
never touched. It still holds K afterwards, which is what lets a failed factorisation be diagnosed, and the
diagonal blocks of K be factored by themselves, without a second matrix.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvalsh
from scipy.linalg.blas import dtrsm, strsm
from scipy.linalg.lapack import dpotrf, dpotri, dtrtri, spotrf
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from kernreg.errors import KernregError

Matrix: TypeAlias = npt.NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
BLOCK = 512
# What float32 arithmetic may leave of asymmetry, relative to the largest entry; more is another matrix.
ASYMMETRY = 64 * float(np.finfo(np.float32).eps)
# Up to here the smallest eigenvalue costs seconds; beyond, Lanczos gives the first guess.
DENSE_EIGENVALUE_ROWS = 4000


class NotPositiveDefiniteError(KernregError):
    """K + λI has no Cholesky factor.

    Attributes:
        pivot: number of the failing pivot, counting from 1, as LAPACK does.
        row: the same place as a row of the matrix, counting from 0.
        ridge: an absolute ridge that was tried and is enough, in place of the one that failed.
    """

    def __init__(self, message: str, pivot: int, row: int, ridge: float) -> None:
        super().__init__(message)
        self.pivot, self.row, self.ridge = pivot, row, ridge


def factor(K: npt.ArrayLike, ridge: float = 0.0, *, overwrite: bool = False) -> Matrix:
    """The Cholesky factor of K + ridge·I.

    Args:
        K: (n, n) float32 or float64, symmetric; only its upper triangle enters the result.
        ridge: λ ≥ 0, absolute, in the units of K.
        overwrite: destroy K if it is C-contiguous float64 (no n² memory); otherwise one n² float64 copy.

    Returns:
        (n, n) float64, C-contiguous: L in the lower triangle with its diagonal; above it K, not zeros.

    Raises:
        KernregError: K is not a finite symmetric square matrix, or the ridge is negative or not finite.
        NotPositiveDefiniteError: a pivot is not positive, or is smaller than its rounding error (n·ε·K_ii).
            It names the pivot, its row and a ridge that is enough.
    """
    A = check_gram(K)
    if not (math.isfinite(ridge) and ridge >= 0):
        raise KernregError(f"the ridge must be a finite number ≥ 0, not {ridge!r}")
    in_place = overwrite and A.dtype == np.float64 and A.flags.c_contiguous and A.flags.writeable
    A = A if in_place else np.array(A, dtype=np.float64, order="C")
    diagonal = A.diagonal().copy()
    pivot = factor_in_place(A, diagonal + ridge)
    if pivot:
        raise _diagnosis(A, diagonal, ridge, pivot)
    return A


def factor_in_place(A: npt.NDArray[Any], diagonal: npt.NDArray[Any]) -> int:
    """Overwrite the lower triangle of A by the factor of its strict upper triangle and `diagonal`.

    A (n, n) is float64, or float32 for a factor that is refined (`kernreg.refine`).
    Returns 0, or the failing pivot counting from 1. A pivot that is at most n·ε times its diagonal entry is
    rounding error, and counts as failed.
    """
    n = len(A)
    mirror_upper(A)
    np.fill_diagonal(A, diagonal)
    potrf = spotrf if A.dtype == np.float32 else dpotrf
    _, info = potrf(A.T, lower=0, clean=0, overwrite_a=1)
    if info < 0:
        raise KernregError(f"LAPACK potrf refused its argument {-info}; the matrix is damaged")
    if info > 0:
        return int(info)
    lost = np.flatnonzero(np.square(A.diagonal()) <= n * np.finfo(A.dtype).eps * diagonal)
    return int(lost[0]) + 1 if lost.size else 0


def forward(L: Matrix, B: npt.ArrayLike) -> Matrix:
    """L⁻¹B, in the dtype of L and C-contiguous; B (n, c) is left alone."""
    rows = np.array(np.asarray(B).T, dtype=L.dtype, order="F")
    return _array(_trsm(L)(1.0, L.T, rows, side=1, lower=0, trans_a=0, overwrite_b=1)).T


def solve(L: Matrix, B: npt.ArrayLike) -> Matrix:
    """(L·Lᵀ)⁻¹B, in the dtype of L and C-contiguous; B (n, c) is left alone."""
    half = forward(L, B)
    return _array(_trsm(L)(1.0, L.T, half.T, side=1, lower=0, trans_a=1, overwrite_b=1)).T


def invert(L: Matrix) -> Matrix:
    """L⁻¹ in the place of L (n³/3 operations); the strict upper triangle stays as it was."""
    inverse, info = dtrtri(L.T, lower=0, overwrite_c=1)
    if info:
        raise KernregError(f"LAPACK dtrtri: pivot {info} of the factor is zero")
    return _array(inverse).T


def inverse(L: Matrix) -> Matrix:
    """(L·Lᵀ)⁻¹ in the place of L (2·n³/3 operations), whole and exactly symmetric."""
    upper, info = dpotri(L.T, lower=0, overwrite_c=1)
    if info:
        raise KernregError(f"LAPACK dpotri: pivot {info} of the factor is zero")
    mirror_upper(upper)
    return _array(upper).T


def check_gram(K: npt.ArrayLike) -> npt.NDArray[Any]:
    """K as a real floating array, or a KernregError that says what is wrong with it."""
    A = real_array(K, "K")
    if A.ndim != 2 or A.shape[0] != A.shape[1] or not A.size:
        raise KernregError(f"K must be square (n, n) with n ≥ 1, not of shape {A.shape}")
    if not all_finite(A):
        row, column = np.argwhere(~np.isfinite(A))[0]
        raise KernregError(f"K[{row}, {column}] is {A[row, column]}; every entry must be finite")
    scale = max(float(np.abs(A[a : a + BLOCK]).max()) for a in range(0, len(A), BLOCK))
    for a in range(0, len(A), BLOCK):
        gap = np.abs(A[a : a + BLOCK, a:] - A[a:, a : a + BLOCK].T)
        if gap.max() > ASYMMETRY * scale:
            i, j = np.unravel_index(gap.argmax(), gap.shape)
            raise KernregError(
                f"K is not symmetric: K[{a + i}, {a + j}] and K[{a + j}, {a + i}] differ by {gap.max():.3g}"
            )
    return A


def real_array(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """`values` as a float32 or float64 array; whole numbers become float64."""
    A = np.asarray(values)
    if A.dtype.kind in "iub":
        return A.astype(np.float64)
    if A.dtype not in (np.float32, np.float64):
        raise KernregError(f"{name} must hold real numbers (float32 or float64), not {A.dtype}")
    return A


def all_finite(A: npt.NDArray[Any]) -> bool:
    """Whether no entry is NaN or infinite, without a mask the size of A."""
    return all(bool(np.isfinite(A[a : a + BLOCK]).all()) for a in range(0, len(A), BLOCK))


def mirror_upper(A: Any, xp: Any = np) -> None:
    """Copy the strict upper triangle onto the lower one; xp is the namespace of A."""
    for a in range(0, len(A), BLOCK):
        corner = A[a : a + BLOCK, a : a + BLOCK]
        corner[...] = xp.triu(corner) + xp.triu(corner, 1).T
        A[a + BLOCK :, a : a + BLOCK] = A[a : a + BLOCK, a + BLOCK :].T


def _diagnosis(A: Matrix, diagonal: Matrix, ridge: float, pivot: int) -> NotPositiveDefiniteError:
    smallest = _smallest_eigenvalue(A, diagonal)
    mean = float(np.abs(diagonal).mean()) or 1.0
    enough = round_up(max(-smallest, 0.0) + len(A) * EPS * mean)
    # An eigenvalue has rounding errors of its own: only a factorisation that succeeds proves a ridge enough.
    while enough <= ridge or factor_in_place(A, diagonal + enough):
        enough = round_up(2 * enough)
    in_units = f" ({round_up(enough / mean):.3g} of the mean diagonal)"
    message = (
        f"K + ridge·I with ridge = {ridge:.3g} is not positive definite in float64: pivot {pivot} (counting "
        f"from 1; row {pivot - 1} counting from 0) fails, smallest eigenvalue of K about {smallest:.2g}; "
        f"ridge = {enough:.3g}{in_units} is enough"
    )
    return NotPositiveDefiniteError(message, pivot, pivot - 1, enough)


def _smallest_eigenvalue(A: Matrix, diagonal: Matrix) -> float:
    mirror_upper(A)
    np.fill_diagonal(A, diagonal)
    if len(A) <= DENSE_EIGENVALUE_ROWS:
        least = eigvalsh(A.T, lower=False, subset_by_index=[0, 0], overwrite_a=True, check_finite=False)
        return float(least[0])
    start = np.random.default_rng(0).standard_normal(len(A))
    try:
        return float(eigsh(A, k=1, which="SA", tol=1e-3, maxiter=200, v0=start, return_eigenvectors=False)[0])
    except ArpackNoConvergence:
        return 0.0


def round_up(value: float) -> float:
    """The next number with two significant digits, so that the number printed is the number tried."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step) * step:.1e}")


def _trsm(L: npt.NDArray[Any]) -> Any:
    return strsm if L.dtype == np.float32 else dtrsm


def _array(values: Any) -> Matrix:
    return np.asarray(values)
