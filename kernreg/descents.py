"""Multiple descent: inner-product kernels on the sphere in d dimensions, where degrees are learned one by one.

With m ~ d^r samples everything of degree below r is learned and nothing above; where m meets the number of
harmonics of a degree the loss peaks. The closed form between the peaks is that of Xiao, Hu, Misiakiewicz, Lu
and Pennington, "Precise learning curves and higher-order scaling limits for dot-product kernel regression", NeurIPS
2022: with N_i = p·Σ_{1≤j≤i} N(d,j), ζ_i = λ_i/Σ_{j>i} λ_j, α = N_i/m, γ = ζ_i·m/N_i and the Marchenko–Pastur edges (1 ± √α)²,
degree i is learned with a bias and a variance, against all higher degrees as noise.
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernreg.errors import KernregError

Array = NDArray[np.float64]


def harmonics(d: int, degree: int) -> int:
    """N(d, k), the number of independent spherical harmonics of degree k on the sphere in d ≥ 2 dimensions."""
    _require_dimension(d)
    if degree < 0:
        raise KernregError(f"a degree is a whole number ≥ 0, not {degree!r}")
    if degree == 0:
        return 1
    return comb(d + degree - 3, degree - 1) * (2 * degree + d - 2) // degree


def sphere_peaks(d: int, degrees: int = 4, patches: int = 1) -> Array:
    """The sample counts at which the ridgeless loss peaks, degree 1…degrees: (degrees,).

    m = patches·Σ_{1≤j≤r} N(d, j), all harmonics up to degree r; about d^r/r! where r ≪ √d.
    """
    counts = [patches * harmonics(d, k) for k in range(1, degrees + 1)]
    return np.cumsum(np.asarray(counts, dtype=np.float64))


def degree_learned(m: ArrayLike, d: int) -> Array:
    """r = log m/log d, float64 in the shape of m: polynomials of degree < r are learned, those above are not."""
    _require_dimension(d)
    r: Array = np.log(np.asarray(m, dtype=np.float64)) / np.log(d)
    return r


def precise_mse(samples: ArrayLike, d: int, kernel: ArrayLike, target: ArrayLike, patches: int = 1) -> Array:
    """MSE (s,) of ridgeless regression at each sample count, in the limit d → ∞ at m ~ d^r, any r > 0.

    Args:
        samples: (s,) m > 0.
        d: dimension of the sphere.
        kernel: energy of the kernel in degree 0, 1, 2, …: the sum of its eigenvalues in that degree. The last
            one only serves as the noise of the one before.
        target: mean square of the target in degree 0, 1, 2, …; degree 0 is taken as learned.
        patches: p, independent spheres that the harmonics live on.

    Raises:
        KernregError: a kernel of fewer than three degrees, energies that are negative, sample counts ≤ 0.
    """
    m, λ, energy = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (samples, kernel, target))
    if not np.isfinite(m).all() or (m <= 0).any():
        raise KernregError("sample counts must be positive finite numbers")
    if len(λ) < 3 or not (np.isfinite(λ).all() and (λ[1:] > 0).all()):
        raise KernregError("the kernel needs positive energies in degree 1, 2 and at least one more")
    if not np.isfinite(energy).all() or (energy < 0).any():
        raise KernregError("the target's energies must be finite numbers ≥ 0")
    energy = np.concatenate([energy, np.zeros(max(0, len(λ) - len(energy)))])
    total = np.full_like(m, energy[1:].sum())
    for i in range(1, len(λ) - 1):
        above = energy[i + 1 :].sum()
        ζ = float(λ[i] / λ[i + 1 :].sum())
        bias, variance = _degree(float(sphere_peaks(d, i, patches)[-1]), m, ζ)
        # Learning nothing of degree i leaves energy_i; what is above is then noise to it.
        total += energy[i] * (2 * bias - 1) + variance * above
    return total


def _degree(N: float, m: Array, ζ: float) -> tuple[Array, Array]:
    """Bias and variance of the harmonics up to one degree: 2·bias = 1 where nothing is learned, 0 where all."""
    α, γ = N / m, ζ * m / N
    low, width = (1 - np.sqrt(α)) ** 2, 4 * np.sqrt(α)
    b, c = (1 + γ * low) / (width * γ), low / width
    I1 = np.pi * (-1 + (1 + b + c) / (np.sqrt(b + b * b) + np.sqrt(c + c * c)))
    root = 2 * np.sqrt(b * c * (1 + b + c + b * c))
    I2 = np.pi / (2 * np.sqrt(b * b + b) * (b + c + 2 * b * c + root))
    unlearned = np.maximum(0.0, 1 - 1 / α)
    bias = 0.5 * (I2 / (width * γ) / (2 * np.pi * α * γ) + unlearned)
    variance = 2 * α * γ * (0.5 * (I1 / (2 * np.pi * α * γ) + unlearned) - bias)
    return bias, variance


def _require_dimension(d: int) -> None:
    if isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 2:
        raise KernregError(f"the sphere needs a whole number of dimensions ≥ 2, not {d!r}")
