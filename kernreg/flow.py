"""What m rows have taught by the time that training stops: gradient flow on a kernel, from its Gram matrix or its products.

What is computed is in `kernreg.filters`. A matrix in memory is diagonalised, an operator is multiplied (`kernreg.chebyshev`).
As t grows the coefficients become (K + λI)⁻¹y; at t = 0 they are zero.

With K = U·diag(e)·Uᵀ the training errors are U·diag(w)·Uᵀy, w_i = r(a_i) + λ·g(a_i)/m, a_i = (e_i + λ)/m, and generalised
cross-validation, which may choose t because no test row takes part, is

    GCV = m·Σ_i w_i²·|u_iᵀy|² / (Σ_i w_i)².
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, eigh

from kernreg import chebyshev
from kernreg.chebyshev import Checkpoint
from kernreg.cholesky import EPS, Matrix, check_gram, round_up
from kernreg.errors import KernregError
from kernreg.filters import Stop
from kernreg.operators import Operator
from kernreg.progress import Progress
from kernreg.targets import targets

# Along eigenvectors whose eigenvalue is lost in rounding, training may have gone this share of the way at most.
UNKNOWN = 0.1


@dataclass(frozen=True, eq=False)
class Trained:
    """What m rows have taught by each of s stops.

    Attributes:
        coefficients: (s, m, c) α: f_t = f_0 + K(·, X)·α.
        left: (s, m, c) y − Kα.
        scores: (s,) GCV, or None.
        products: with K; 0 for an eigendecomposition.
        bound, defect: of the series, see `kernreg.chebyshev.Series`; 0 for an eigendecomposition.
    """

    coefficients: Matrix
    left: Matrix
    scores: Matrix | None
    products: int = 0
    bound: float = 0.0
    defect: float = 0.0


def trained(
    K: Operator | npt.ArrayLike,
    Y: npt.ArrayLike,
    stops: Sequence[Stop],
    ridge: float = 0.0,
    *,
    rtol: float = chebyshev.RTOL,
    checkpoint: Checkpoint | None = None,
    progress: bool | Progress = False,
) -> Trained:
    """The coefficients at each stop.

    Args:
        K: (m, m) kernel of the training rows, which is diagonalised; or an operator, which is multiplied.
        Y: (m,) or (m, c) targets less the outputs at initialisation, y − f_0(X).
        stops: `GradientFlow(t)` and `GradientDescent(η, k)`.
        ridge: λ ≥ 0, absolute: a weight decay towards the initialisation.
        rtol: of an operator: bound of the error of predictions on the training rows, relative to |Y|.
        checkpoint: of an operator: where to keep the state, and to go on from.
        progress: of an operator: True for a bar on stderr, or a function of (products, all products).

    Memory: of an array three more of its size in float64; of an operator (3 + 2s)·m·c.

    Raises:
        KernregError: shapes, NaN, an asymmetric K; a step above the stability limit, with the limit; times that a K which is
            not positive definite does not determine, with a time and a ridge that it does; and as `chebyshev.apply`.
    """
    B = targets(Y, "Y")
    require_stops(stops)
    if not (math.isfinite(ridge) and ridge >= 0):
        raise KernregError(f"the ridge must be a finite number ≥ 0, not {ridge!r}")
    A: Any = K if hasattr(K, "matmul") else check_gram(K)
    rows = A.n if hasattr(A, "matmul") else len(A)
    if len(B) != rows:
        raise KernregError(f"K has {rows} rows but Y has {len(B)}")
    if hasattr(A, "matmul"):
        return by_products(A, B, stops, ridge, rtol, checkpoint, progress)
    return by_eigenvalues(A, B, stops, ridge)


def require_stops(stops: Sequence[Stop]) -> None:
    """Raise KernregError if there are none."""
    if not stops:
        raise KernregError("give at least one time to stop training at")


def by_eigenvalues(K: npt.NDArray[Any], Y: Matrix, stops: Sequence[Stop], ridge: float) -> Trained:
    """`trained` by one eigendecomposition; K and Y are checked."""
    m = len(K)
    try:
        e, U = eigh(
            np.array(K, dtype=np.float64, order="F"), driver="evd", overwrite_a=True, check_finite=False
        )
    except LinAlgError as failure:
        raise KernregError(f"LAPACK could not diagonalise K: {failure}") from None
    a = (e + ridge) / m
    _require_determined(a, m, ridge, stops)
    for stop in stops:
        chebyshev.require_stable(stop, float(a[-1]), m)
    rotated = U.T @ Y
    gains = np.stack([stop.gain(a) / m for stop in stops])
    α = np.stack([U @ (g[:, None] * rotated) for g in gains])
    w = np.stack([stop.residual(a) for stop in stops]) + ridge * gains
    left = np.stack([U @ (weights[:, None] * rotated) for weights in w])
    if not ridge:
        w = np.stack([_scaled_residual(stop, a) for stop in stops])
    traces = np.square(w.sum(axis=1))
    squares = m * np.square(w) @ np.square(rotated).sum(axis=1)
    scores = np.divide(squares, traces, out=np.full(len(stops), np.inf), where=traces > 0)
    return Trained(α, left, scores)


def by_products(
    K: Operator,
    Y: Matrix,
    stops: Sequence[Stop],
    ridge: float,
    rtol: float,
    checkpoint: Checkpoint | None,
    progress: bool | Progress,
) -> Trained:
    """`trained` by a Chebyshev series; Y is checked."""
    if any(math.isinf(stop.time) for stop in stops):
        raise KernregError(
            "the end of training, an infinite time, is kernel regression itself: use kernreg fit without --time, or "
            "more memory for an eigendecomposition"
        )
    found = chebyshev.apply(K, Y, stops, ridge, rtol=rtol, checkpoint=checkpoint, progress=progress)
    left = found.left
    if ridge:  # y − Kα = r(A)y + λα, since (K + λI)α = y − r(A)y
        left = left + ridge * found.coefficients
    return Trained(found.coefficients, left, None, found.products, found.bound, found.defect)


def _require_determined(a: Matrix, m: int, ridge: float, stops: Sequence[Stop]) -> None:
    """Raise KernregError if training has come far along eigenvectors (a increasing) that rounding has made."""
    lost = max(m * EPS * float(a[-1]), -float(a[0]), np.finfo(float).tiny)
    longest = max(stop.time for stop in stops)
    if a[0] > lost or longest * lost <= UNKNOWN:
        return
    smallest, enough = m * float(a[0]) - ridge, round_up(ridge + 2 * m * lost)
    raise KernregError(
        f"K of {m} rows is not positive definite in float64 (smallest eigenvalue {smallest:.2g}), so that it does not determine "
        f"what is learned after the time {longest:g}: use times up to {UNKNOWN / lost:.2g}, or a ridge of {enough:.2g}"
    )


def _scaled_residual(stop: Stop, a: Matrix) -> Matrix:
    """r(a) up to a factor, which GCV does not see: with nothing left to learn all of them underflow."""
    if math.isinf(stop.time):
        return 1 / a
    size, sign = stop.log_residual(a)
    top = float(size.max())
    return np.asarray(sign * np.exp(size - top)) if math.isfinite(top) else np.zeros_like(a)
