"""The spectrum of a Gram matrix and its targets, and the held-out learning curve that follows from it.

One eigendecomposition K + δI = U·diag(e)·Uᵀ of N training rows, y_i = Uᵀy. For m of the N rows, drawn without
replacement and predicting the others,

    Σ_i e_i/(e_i + κ) = m,      T = Σ_i 1/(e_i + κ),      q = T/Σ_i e_i/(e_i + κ)²,
    held-out MSE(m) = m·q·Σ_i y_i²/(e_i + κ)² / T².

It is the mean over all subsets of what GCV says of each: P(PᵀKP + δ)⁻¹Pᵀ ≃ (K + δ + κ)⁻¹ for a random choice P of
rows (LeJeune et al. 2024, "Asymptotics of the sketched pseudoinverse", orthogonal sketches), |α|² ≃ q·Σ y_i²/(e_i + κ)² by
its derivative in δ, and GCV = m·|α|²/T². At m = N it is the GCV of all rows; for m ≪ N it is eigenlearning
with λ = e/N, v² = y²/N. In between the naive eigenlearning curve would count the m rows, which are
fitted exactly, among those it predicts: it is too low by the factor 1 − m/N. No test row takes part, and noise
needs no estimate of its own: it is in every y_i.

Exponents. b of λ_k ~ k^{-b} from the effective ridge, κ̂(m) = 1/T ~ (m + ½)^{-b}, a sum over all eigenvalues
that is unbiased where single eigenvalues of a sample are not; a of v_k² ~ k^{-a} from the tail sums
Σ_{i>k} y_i²/N ~ (k + ½)^{1−a}, for k up to N/8 and where what leaks out of the larger modes is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError, eigh

from kernreg.cholesky import EPS, check_gram
from kernreg.errors import KernregError
from kernreg.targets import targets
from kernreg.theory import effective_ridge, row_blocks

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Of N training rows.

    Attributes:
        eigenvalues: (N,) e_i of K + δI, largest first.
        energies: (N,) y_i², squared projections of the targets, summed over outputs; they sum to Σ|y|².
        ridge: δ.
    """

    eigenvalues: Array
    energies: Array
    ridge: float

    @property
    def rows(self) -> int:
        """N."""
        return len(self.eigenvalues)

    def effective_ridge(self, samples: ArrayLike) -> Array:
        """κ̂(m) = 1/tr (K_m + δI)⁻¹ (s,), expected for m of the N rows."""
        m = self._sizes(samples)
        κ = effective_ridge(self.eigenvalues, m)
        return 1 / np.concatenate(
            [self._shrunk(κ[rows]).sum(axis=1) for rows in row_blocks(len(m), self.rows)]
        )

    def held_out(self, samples: ArrayLike) -> Array:
        """The expected MSE (s,) on rows not trained on, summed over outputs, for m = samples of the N rows.

        Raises:
            KernregError: a sample count outside 1…N.
        """
        m = self._sizes(samples)
        κ = effective_ridge(self.eigenvalues, m)
        mse = np.empty_like(m)
        for rows in row_blocks(len(m), self.rows):
            G = self._shrunk(κ[rows])
            T, squares = G.sum(axis=1), np.square(G)
            growth = T / (squares @ self.eigenvalues)
            mse[rows] = m[rows] * growth * (squares @ self.energies) / T**2
        return mse

    def tails(self) -> tuple[Array, Array, Array]:
        """k = 1…N−1, the tail sums Σ_{i>k} y_i²/N, and what of them has leaked out of modes up to k/2.

        To first order the eigenvector j of N rows holds y_j²/N = v_j² + Σ_l v_l²·λ_j²/(λ_j − λ_l)²/N. The tail
        is divided by 1 − k/N, the share of it that k arbitrary directions leave.
        """
        N = self.rows
        λ, v2 = self.eigenvalues / N, self.energies / N
        k = np.arange(1, N)
        tail = _after(v2) / (1 - k / N)
        taken = np.concatenate([[0.0], np.cumsum(v2 / λ**2)])[k // 2]
        return k.astype(np.float64), tail, _after(λ**2) * taken / N

    def _shrunk(self, κ: Array) -> Array:
        return 1 / (self.eigenvalues + κ[:, None])

    def _sizes(self, samples: ArrayLike) -> Array:
        m = np.atleast_1d(np.asarray(samples, dtype=np.float64))
        if m.ndim != 1 or not ((m >= 1) & (m <= self.rows)).all():
            raise KernregError(f"a spectrum of {self.rows} rows predicts sample counts in 1…{self.rows}")
        return m


def spectrum(K: ArrayLike, y: ArrayLike, ridge: float = 0.0) -> Spectrum:
    """The spectrum of N rows; one eigendecomposition, about ten Cholesky factorisations, three N² arrays.

    Args:
        K: (N, N) Gram matrix of training rows, float32 or float64.
        y: (N,) or (N, c) their targets.
        ridge: δ ≥ 0, absolute. To the theory it is a part of the kernel.

    Raises:
        KernregError: shapes that do not match, entries that are not finite, asymmetric K, a negative ridge;
            K + δI not positive definite in float64, with a ridge that is enough.
    """
    K = check_gram(K)
    y = targets(y, "y")
    if len(y) != len(K):
        raise KernregError(f"K has {len(K)} rows but y has {len(y)}")
    if not (np.isfinite(ridge) and ridge >= 0):
        raise KernregError(f"the ridge must be a finite number ≥ 0, not {ridge!r}")
    try:
        k, U = eigh(np.asarray(K, dtype=np.float64), driver="evd", check_finite=False)
    except LinAlgError as failure:
        raise KernregError(f"LAPACK could not diagonalise K: {failure}") from None
    smallest = len(K) * EPS * float(k[-1])
    if k[0] + ridge <= smallest:
        raise KernregError(
            f"K + ridge·I with ridge = {ridge:.3g} is not positive definite in float64: its smallest "
            f"eigenvalue is {k[0] + ridge:.2g}; a ridge of {2 * (smallest + max(-k[0], 0.0)):.2g} is enough"
        )
    energies = np.square(U.T @ y).sum(axis=1)
    return Spectrum((k + ridge)[::-1].copy(), energies[::-1].copy(), float(ridge))


def _after(values: Array) -> Array:
    """Σ_{i>k} values_i for k = 1…N−1, from the small end, so that no digits cancel."""
    sums: Array = np.cumsum(values[::-1])[::-1][1:]
    return sums
