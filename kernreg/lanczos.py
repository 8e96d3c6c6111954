"""Extreme eigenvalues by Lanczos: from products, or from the step lengths that conjugate gradients took anyway.

Conjugate gradients with steps α_k and turns β_k builds the Lanczos tridiagonal of (preconditioned) A (Golub and Van
Loan, Matrix Computations, §11.3):

    T[k,k] = 1/α_k + β_{k−1}/α_{k−1},    T[k,k+1] = √β_k/α_k

Ritz values lie inside the spectrum: the largest is soon right, the smallest is an upper bound of the least eigenvalue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import eigh_tridiagonal

from kernreg.cholesky import EPS, Matrix

Apply = Callable[[Matrix], Matrix]
Extremes = tuple[float, float]


def ritz_extremes(diagonal: Sequence[float] | Matrix, off: Sequence[float] | Matrix) -> Extremes:
    """(smallest, largest) eigenvalue of a symmetric tridiagonal matrix of k rows; `off` has k − 1 entries."""
    d, e = np.asarray(diagonal, dtype=np.float64), np.asarray(off, dtype=np.float64)
    if len(d) == 1:
        return float(d[0]), float(d[0])
    least, most = (
        eigh_tridiagonal(d, e[: len(d) - 1], eigvals_only=True, select="i", select_range=(i, i))[0]
        for i in (0, len(d) - 1)
    )
    return float(least), float(most)


def extremes_of_steps(steps: Matrix, turns: Matrix) -> Extremes | None:
    """(smallest, largest) Ritz value over all columns of a block of conjugate gradient iterations.

    Args:
        steps: (k, c) α of each iteration and column, NaN where a column did not take part.
        turns: (k, c) β likewise; that of a column's last iteration is not used.

    Returns:
        None where no column made a step.
    """
    found = []
    for α, β in zip(steps.T, turns.T, strict=True):
        took = np.isfinite(α)
        α, β = α[took], β[took]
        # past the first that is not positive the steps are rounding
        k = int(np.argmin(np.append((α > 0) & (β >= 0), False)))
        if k:
            α, β = α[:k], β[: k - 1]
            diagonal = 1 / α
            diagonal[1:] += β / α[:-1]
            found.append(ritz_extremes(diagonal, np.sqrt(β) / α[:-1]))
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


class Probe:
    """Lanczos on one vector, a product at a time, so that it can ride along with the products of another method.

    Without reorthogonalisation: converged eigenvalues come twice, the extreme ones stay right.

    Attributes:
        v: (n, 1) the vector to be multiplied next.
    """

    def __init__(self, start: Matrix) -> None:
        """Begin at a vector (n,)."""
        self.v = (start / np.linalg.norm(start))[:, None]
        self.before = np.zeros_like(self.v)
        self.diagonal: list[float] = []
        self.off: list[float] = []

    @property
    def running(self) -> bool:
        """False once an invariant subspace is exhausted: the Ritz values are eigenvalues."""
        return len(self.off) == len(self.diagonal)

    def step(self, product: Matrix) -> None:
        """One step, given A·v (n, 1)."""
        b = self.off[-1] if self.off else 0.0
        a = float(np.vdot(self.v, product))
        w = product - a * self.v - b * self.before
        self.diagonal.append(a)
        size = float(np.linalg.norm(w))
        if size > 10 * EPS * np.abs(self.diagonal).max():
            self.off.append(size)
            self.before, self.v = self.v, w / size

    @property
    def extremes(self) -> Extremes | None:
        """(smallest, largest) Ritz value so far."""
        return ritz_extremes(self.diagonal, self.off) if self.diagonal else None


def extreme_eigenvalues(apply: Apply, start: Matrix, steps: int) -> Extremes:
    """(smallest, largest) Ritz value after so many steps, with every vector kept and reorthogonalised.

    Args:
        apply: (n, 1) → (n, 1), a symmetric matrix.
        start: (n,) not zero.
        steps: at most; n × steps of memory.
    """
    probe = Probe(start)
    basis = np.empty((len(start), min(steps, len(start))), order="F")
    for k in range(basis.shape[1]):
        basis[:, k] = probe.v[:, 0]
        probe.step(apply(probe.v))
        if not probe.running:
            break
        for _ in range(2):
            probe.v -= basis[:, : k + 1] @ (basis[:, : k + 1].T @ probe.v)
        size = float(np.linalg.norm(probe.v))
        if size < 0.5:  # only rounding was left of it
            break
        probe.v /= size
    low, high = ritz_extremes(probe.diagonal, probe.off)
    return low, high
