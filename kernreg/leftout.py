"""The expected error on rows left out, averaged over all choices of m of N training rows, row by row.

`kernreg.spectra` treats all rows alike, which is what generalised cross-validation does; where rows differ, as images
do, GCV is too low (by a third on digits). Here each row i has an effective ridge of its own:

    G = (K + δI + D)⁻¹,      D_ii = (1 − α)/G_ii,      α = m/N,
    M = I − (1 − α)/α·[G_ij²/(G_ii·G_jj)]_{i≠j},       M·(R∘g) = g∘|(G·y)_i/G_ii|²,      g_i = G_ii,
    held-out MSE(m) = mean of R_i.

D makes the mean of P(PᵀKP + δ)⁻¹Pᵀ over random choices P of rows equal to G with no scattering off single rows on
average (the coherent potential approximation, Soven 1967: a row is chosen with probability α, which is a potential of
0 or ∞); R_i, the mean squared residual of row i when it is left out, is its bias plus the variance that the choice of the other
rows j adds (ladder sum). At m = N it is the leave-one-out error; for like rows it is the formula of `kernreg.spectra`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from kernreg.cholesky import check_gram, factor, inverse
from kernreg.errors import KernregError
from kernreg.spectra import Spectrum, spectrum
from kernreg.targets import targets
from kernreg.theory import effective_ridge

Array = NDArray[np.float64]

# Newton's method, from the ridge that all rows would share, converges in two to four steps.
STEPS, TOLERANCE = 12, 1e-6
FIRST_SAMPLES = 4


def left_out_curve(K: ArrayLike, y: ArrayLike, ridge: float = 0.0, *, whole: Spectrum | None = None) -> Array:
    """The expected MSE (N,) on rows not trained on, at m = 1…N, summed over outputs.

    Computed at N/√2^j and interpolated between in log-log (monotone cubic); the curve is smooth. Below 4 samples
    it is continued as a constant slope.

    Args:
        K: (N, N) Gram matrix of training rows.  y: (N,) or (N, c).  ridge: δ ≥ 0, absolute.
        whole: `spectrum(K, y, ridge)` if it is there already.

    Costs about three inversions for each of 2·log2(N) sizes, and four N² arrays.

    Raises:
        KernregError: as `left_out`.
    """
    N = len(np.asarray(K))
    at = np.unique([max(1, round(N / 2 ** (j / 2))) for j in range(2 * N.bit_length())])
    at = at[at >= min(FIRST_SAMPLES, N // 8)]
    mse = left_out(K, y, at, ridge, whole=whole)
    if len(at) < 2 or not (mse > 0).all():
        return np.asarray(np.interp(np.arange(1, N + 1), at, mse), dtype=np.float64)
    x, m = np.log(at.astype(np.float64)), np.log(np.arange(1.0, N + 1))
    curve = PchipInterpolator(x, np.log(mse), extrapolate=False)
    slope = float(curve.derivative()(x[0]))
    logs = np.where(m >= x[0], curve(np.clip(m, x[0], x[-1])), np.log(mse[0]) + slope * (m - x[0]))
    value: Array = np.exp(logs)
    return value


def left_out(
    K: ArrayLike, y: ArrayLike, samples: ArrayLike, ridge: float = 0.0, *, whole: Spectrum | None = None
) -> Array:
    """The expected MSE (s,) on rows not trained on at the sample counts, summed over outputs.

    Args:
        K, y, ridge, whole: as in `left_out_curve`.  samples: (s,) in 1…N.

    Raises:
        KernregError: a sample count outside 1…N; as `kernreg.spectra.spectrum`.
    """
    K, y = check_gram(K), targets(y, "y")
    whole = whole or spectrum(K, y, ridge)
    N, m = len(K), np.atleast_1d(np.asarray(samples, dtype=np.float64))
    if not ((m >= 1) & (m <= N)).all():
        raise KernregError(f"{N} training rows predict sample counts in 1…{N}")
    common = effective_ridge(whole.eigenvalues, m)
    K = np.asarray(K, dtype=np.float64)
    return np.array([_left_out(K, y, ridge, size / N, κ) for size, κ in zip(m, common, strict=True)])


def _left_out(K: Array, y: Array, ridge: float, α: float, common: float) -> float:
    N = len(K)
    D = np.full(N, common)
    odds = (1 - α) / α
    for _ in range(STEPS):
        G = _inverse(K, ridge + D)
        g = G.diagonal().copy()
        bias = np.square(G @ y).sum(axis=1) / g**2
        if α == 1:
            return float(bias.mean())
        np.square(G, out=G)
        G *= -odds / np.outer(g, g)
        np.fill_diagonal(G, 1.0)
        try:
            M = cho_factor(G, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            raise KernregError(
                f"the theory of left-out rows breaks down at m = {α * N:.0f}: single rows dominate the kernel; use a "
                "larger ridge"
            ) from None
        miss = np.log((1 - α) / (g * D))
        if np.abs(miss).max() < TOLERANCE:
            break
        D = D * np.exp(np.clip(cho_solve(M, miss) / α, -1, 1))
    return float((cho_solve(M, bias * g) / g).mean())


def _inverse(K: Array, diagonal: Array) -> Array:
    A = K.copy()
    A[np.diag_indices_from(A)] += diagonal
    return inverse(factor(A, overwrite=True))
