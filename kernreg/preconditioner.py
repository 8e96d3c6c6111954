"""Randomly pivoted partial Cholesky K ≈ F·Fᵀ of rank r, and P = F·Fᵀ + μI as a preconditioner of K + λI.

A pivot is drawn with probability proportional to the diagonal of what is left, K − F·Fᵀ (Chen, Epperly, Tropp and
Webber, Comm. Pure Appl. Math. 78 (2025)). Here a block of proposals is drawn at once from the same diagonal, and a
proposal survives with probability (its diagonal now)/(its diagonal when drawn): rejection sampling of the very same
distribution, with matrix products in place of single columns (Epperly, Tropp and Webber, "Embrace rejection", 2024).

With F·Fᵀ = Q·(U·σ²·Uᵀ)·Qᵀ the Woodbury identity reads

    μ·P⁻¹ = I − Q·D·Qᵀ,    D = U·diag(σ²/(σ² + μ))·Uᵀ

which never subtracts large numbers: D has its eigenvalues in [0, 1). CG does not feel the factor μ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr, svd

from kernreg.cholesky import EPS, Matrix
from kernreg.errors import KernregError
from kernreg.operators import Operator, Rows

# With the trace of what is left below this share of λ the condition number is below 1.1: more rank gains nothing.
ENOUGH = 0.1
BLOCKS = 10  # rounds of proposals that a factor takes if all are accepted
BLOCK = (32, 512)  # columns that a round computes
LARGEST_RANK = 2000


@dataclass(frozen=True, eq=False)
class Preconditioner:
    """R ↦ μ·P⁻¹·R with P = F·Fᵀ + μI.

    Attributes:
        Q: (n, r) orthonormal columns, the range of F.
        D: (r, r) symmetric, eigenvalues in [0, 1).
        μ: the shift.
        pivots: (r,) rows of K, in the order drawn.
        left: trace of K − F·Fᵀ divided by that of K.
        largest: largest eigenvalue of F·Fᵀ, a lower bound of K's.
    """

    Q: Matrix
    D: Matrix
    μ: float
    pivots: Rows
    left: float
    largest: float

    @property
    def rank(self) -> int:
        return len(self.pivots)

    def apply(self, R: Matrix) -> Matrix:
        """(n, c) from (n, c), 4·n·r·c operations."""
        return np.asarray(R - self.Q @ (self.D @ (self.Q.T @ R)))


def default_rank(n: int) -> int:
    """8·√n, at most n/2 and 2,000: r²n to build, less than some twenty products with K."""
    return min(n // 2, int(8 * n**0.5), LARGEST_RANK)


def preconditioner(K: Operator, ridge: float, rank: int, seed: int = 0) -> Preconditioner:
    """P for K + ridge·I.

    Args:
        K: positive semidefinite; `rank` of its columns and those of rejected proposals are computed.
        ridge: λ ≥ 0, absolute. μ is λ plus the mean of what is left of the diagonal, so that a flat tail of the spectrum,
            which no rank resolves, is taken as the multiple of I that it nearly is.
        rank: at most; less where F·Fᵀ is already as good as K + λI needs.
        seed: of the pivots; the same seed gives the same P.

    Memory: n × rank float64, and a few n × 512 at most for a block of columns.

    Raises:
        KernregError: an entry that is not finite.
    """
    trace = float(K.diagonal().sum())
    F, pivots, left = pivoted_factor(K, rank, seed, max(ENOUGH * ridge, K.n * EPS * trace))
    r = len(pivots)
    if not r:
        return Preconditioner(np.zeros((K.n, 0)), np.zeros((0, 0)), ridge, pivots, 1.0, 0.0)
    Q, R = qr(F, mode="economic", overwrite_a=True, check_finite=False)
    U, σ, _ = svd(R, check_finite=False)
    energy = np.square(σ)
    μ = max(ridge + left / max(K.n - r, 1), 100 * EPS * energy[0])
    D = (U * (energy / (energy + μ))) @ U.T
    return Preconditioner(Q, (D + D.T) / 2, float(μ), pivots, left / trace, float(energy[0]))


def pivoted_factor(K: Operator, rank: int, seed: int = 0, enough: float = 0.0) -> tuple[Matrix, Rows, float]:
    """The randomly pivoted partial Cholesky factor of K.

    Args:
        K: positive semidefinite; where it is not, P is still positive definite, but no good.
        rank: columns of F, at most n.
        seed: of the pivots.
        enough: stop once the trace of K − F·Fᵀ is not larger than this.

    Returns:
        F (n, r) with F·Fᵀ equal to K in the rows and columns of the pivots; pivots (r,); trace of K − F·Fᵀ.

    Raises:
        KernregError: an entry that is not finite.
    """
    n = K.n
    left = K.diagonal()
    if not np.isfinite(left).all():
        row = int(np.argmin(np.isfinite(left)))
        raise KernregError(f"K[{row}, {row}] is {left[row]}: check the Gram")
    left = np.maximum(left, 0)
    rng = np.random.default_rng(seed)
    floor = n * EPS * float(left.max())
    rank = min(rank, n)
    block = int(np.clip(rank // BLOCKS, *BLOCK))
    F = np.empty((n, rank), order="F")
    pivots: list[int] = []
    while len(pivots) < rank and left.sum() > enough:
        k = len(pivots)
        draws = rng.choice(n, size=min(block, rank - k), p=left / left.sum())
        _, first = np.unique(draws, return_index=True)
        proposals = draws[np.sort(first)]  # in the order drawn
        C = K.columns(proposals)
        if not np.isfinite(C).all():
            raise KernregError(f"column {proposals[~np.isfinite(C).all(axis=0)][0]} of K is not finite")
        C -= F[:, :k] @ F[proposals, :k].T
        keep, L = _survivors(C[proposals], left[proposals], rng, floor)
        left[proposals[C[proposals, np.arange(len(proposals))] <= floor]] = 0
        if not keep:
            continue
        added = slice(k, k + len(keep))
        F[:, added] = np.linalg.solve(L, C[:, keep].T).T
        left = np.maximum(left - np.square(F[:, added]).sum(axis=1), 0)
        pivots += proposals[keep].tolist()
        left[pivots] = 0
    return F[:, : len(pivots)], np.array(pivots, dtype=np.int64), float(left.sum())


def _survivors(H: Matrix, drawn: Matrix, rng: np.random.Generator, floor: float) -> tuple[list[int], Matrix]:
    """Which proposals survive, and the Cholesky factor of their block of H.

    H (b, b) is what is left of K at the proposals, `drawn` (b,) its diagonal as it was when they were drawn.
    A survivor is eliminated from H before the next proposal is judged.
    """
    H = (H + H.T) / 2
    L = np.zeros_like(H)
    keep: list[int] = []
    for i in range(len(H)):
        if H[i, i] > floor and rng.random() * drawn[i] < H[i, i]:
            keep.append(i)
            L[i:, i] = H[i:, i] / np.sqrt(H[i, i])
            H[i + 1 :, i + 1 :] -= np.outer(L[i + 1 :, i], L[i + 1 :, i])
    return keep, L[np.ix_(keep, keep)]
