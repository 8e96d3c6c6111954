"""Multiple descent on the sphere: counts of harmonics, peaks, and the published curve."""

from __future__ import annotations

from math import comb, factorial
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad

from kernreg.descents import degree_learned, harmonics, precise_mse, sphere_peaks
from kernreg.errors import KernregError

# Xiao et al. 2022, d = 24: MSE/2
PUBLISHED = {
    5: 0.7129,
    12: 0.7120,
    24: 0.8943,
    36: 0.6377,
    60: 0.4199,
    150: 0.3402,
    299: 0.4608,
    3200: 0.2692,
}
KERNEL = 32.0 ** -np.arange(7)
TARGET = np.concatenate([[0.0], 1 / np.arange(1, 8.0) ** 2])


@pytest.mark.parametrize("d", [2, 3, 24])
def test_harmonics_are_homogeneous_polynomials_less_those_times_the_radius(d: int) -> None:
    for k in range(6):
        lower = comb(d + k - 3, k - 2) if k >= 2 else 0
        assert harmonics(d, k) == comb(d + k - 1, k) - lower


def test_peaks_are_the_cumulated_counts_near_powers_of_the_dimension() -> None:
    peaks = sphere_peaks(200, 3)
    assert peaks[0] == 200
    np.testing.assert_allclose(peaks, [200.0**r / factorial(r) for r in (1, 2, 3)], rtol=0.05)
    np.testing.assert_array_equal(sphere_peaks(24, 2, patches=3), 3 * sphere_peaks(24, 2))
    assert degree_learned([30, 900], 30) == pytest.approx([1.0, 2.0])


def test_the_published_curve() -> None:
    found = precise_mse(list(PUBLISHED), 24, KERNEL, TARGET)
    np.testing.assert_allclose(found / 2, list(PUBLISHED.values()), atol=1.1e-4)
    m = np.arange(2, 3500)
    curve = precise_mse(m, 24, KERNEL, TARGET)
    inside = (curve[1:-1] > curve[:-2]) & (curve[1:-1] > curve[2:])
    np.testing.assert_allclose(m[1:-1][inside], sphere_peaks(24, 3), rtol=0.15)


def test_one_degree_alone_is_ridge_regression_by_marchenko_and_pastur() -> None:
    """Degree 1 against flat higher degrees is ridge regression with λ = 1/ζ: integrate over the eigenvalues."""
    d, ζ, kernel, target = 40, 2.0, [0.0, 1.0, 0.5], [0.0, 2.0]
    for m in (10, 100):
        α = d / m

        def density(s: float, α: float = α) -> float:
            low, high = (1 - np.sqrt(α)) ** 2, (1 + np.sqrt(α)) ** 2
            return float(np.sqrt(max((high - s) * (s - low), 0.0)) / (2 * np.pi * α * s))

        def left(s: float, m: int = m) -> float:
            return density(s) / (1 + ζ * m / d * s) ** 2

        ends = (1 - np.sqrt(α)) ** 2, (1 + np.sqrt(α)) ** 2
        bias = quad(left, *ends)[0] + max(0.0, 1 - 1 / α)
        assert precise_mse([m], d, kernel, target)[0] == pytest.approx(2.0 * bias, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([0], 24, KERNEL, TARGET), "sample counts"),
        (([5], 24, [1.0, 1.0], TARGET), "one more"),
        (([5], 24, [1.0, 1.0, 0.0], TARGET), "positive energies"),
        (([5], 24, KERNEL, [1.0, -1.0]), "energies"),
        (([5], 1, KERNEL, TARGET), "dimensions"),
        (([5], 2.5, KERNEL, TARGET), "dimensions"),
    ],
)
def test_refusals(arguments: Any, said: str) -> None:
    with pytest.raises(KernregError, match=said):
        precise_mse(*arguments)


def test_a_degree_is_not_negative() -> None:
    with pytest.raises(KernregError, match="degree"):
        harmonics(5, -1)
