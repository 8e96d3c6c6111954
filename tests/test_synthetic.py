"""The synthetic data: nested rows, a linear target, and the exponent that they promise."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from kernreg.data.synthetic import exponent, linear, spectra, synthetic
from kernreg.errors import KernregError
from kernreg.kernels.reference import compute


def eigenlearning(m: float, λ: Any, energies: Any) -> float:
    """Expected test error of ridgeless kernel regression on m samples (Simon et al. 2023, eq. 2 to 5)."""
    κ = np.exp(brentq(lambda log_κ: float(np.sum(λ / (λ + np.exp(log_κ)))) - m, -80, 20))
    L = λ / (λ + κ)
    return float(m / (m - np.sum(L**2)) * np.sum((1 - L) ** 2 * energies))


def test_rows_and_sizes_are_nested() -> None:
    large, small = synthetic(300, 40, dimension=64, seed=3), synthetic(7, 5, dimension=64, seed=3)
    assert np.array_equal(large.x_train[:7], small.x_train)
    assert np.array_equal(large.y_train[:7], small.y_train)
    assert np.array_equal(large.x_test[:5], small.x_test)
    assert np.array_equal(large.y_test[:5], small.y_test)
    assert not np.array_equal(large.x_train[:5], large.x_test[:5])
    assert not np.array_equal(synthetic(7, 5, dimension=64, seed=4).x_train, small.x_train)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_target_is_linear_in_the_stored_rows(dtype: str) -> None:
    data = synthetic(100, 20, dimension=50, dtype=dtype)
    assert data.x_train.dtype == dtype
    w = np.linalg.lstsq(data.x_train.astype(np.float64), data.y_train, rcond=None)[0]
    np.testing.assert_allclose(data.x_test.astype(np.float64) @ w, data.y_test, rtol=0, atol=1e-9)


def test_kernel_has_the_spectrum() -> None:
    data = synthetic(4000, 0, a=2.0, b=1.5, dimension=32)
    λ, energies = spectra(2.0, 1.5, 32)
    assert λ.sum() == pytest.approx(1.0)
    # The diagonal of the covariance of x/√d is λ, to the noise of 4000 rows.
    measured = np.square(data.x_train).mean(axis=0) / 32
    np.testing.assert_allclose(measured, λ, rtol=5 * np.sqrt(2 / 4000))
    assert np.mean(data.y_train**2) == pytest.approx(energies.sum(), rel=0.15)
    K = compute(data.x_train[:9], None, linear(), "both", "float64")
    x = data.x_train[:9]
    for kernel in K.values():
        np.testing.assert_allclose(kernel, x @ x.T / 32, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("a", "b", "tolerance"), [(2.0, 2.0, 0.02), (3.0, 2.0, 0.02), (1.5, 2.0, 0.06)])
def test_expected_curve_has_the_exponent_up_to_its_bound(a: float, b: float, tolerance: float) -> None:
    data = synthetic(1, 0, a, b)
    λ, energies = spectra(a, b, 4096)
    bound = data.provenance["exponent_up_to"]
    assert bound == 512
    for m in (60, 150, bound / 1.1):
        step = 1.1
        drop = eigenlearning(m, λ, energies) / eigenlearning(m * step, λ, energies)
        assert np.log(drop) / np.log(step) == pytest.approx(data.provenance["exponent"], rel=tolerance)


def test_folded_tail_is_what_makes_it_so() -> None:
    k = np.arange(1, 4097, dtype=np.float64)
    cut = [eigenlearning(m, k**-2, k**-1.5) for m in (230, 460)]
    folded = [eigenlearning(m, *spectra(1.5, 2.0, 4096)) for m in (230, 460)]
    slope_cut, slope_folded = (np.log2(v[0] / v[1]) for v in (cut, folded))
    assert abs(slope_folded - 0.5) < 0.25 * abs(slope_cut - 0.5)


def test_saturated_exponent_and_provenance() -> None:
    assert exponent(9.0, 1.5) == 3.0
    assert exponent(1.5, 1.5) == 0.5
    provenance = synthetic(3, 2, a=2.5, b=1.5, dimension=60, seed=5).provenance
    assert json.loads(json.dumps(provenance)) == provenance
    assert (provenance["exponent"], provenance["seed"], provenance["dimension"]) == (1.5, 5, 60)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n": 0}, "n is 0"),
        ({"test": -1}, "test is -1"),
        ({"dimension": 3}, "dimension"),
        ({"a": 1.0}, "a is 1.0"),
        ({"b": 0.5}, "b is 0.5"),
        ({"a": float("nan")}, "a is nan"),
        ({"seed": -1}, "seed"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_refusals_name_the_setting(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(KernregError, match=named):
        synthetic(**{"n": 4, "test": 2, "dimension": 32} | settings)
