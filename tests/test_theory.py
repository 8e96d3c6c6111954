"""Eigenlearning against root finding, closed forms, brute-force regression and the identities that it implies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq

from kernreg.curve import learning_curve
from kernreg.data.synthetic import spectra
from kernreg.errors import KernregError
from kernreg.theory import effective_ridge, eigenlearning, limit_exponent, measured_effective_ridge

Array = NDArray[np.float64]


@pytest.mark.parametrize("ridge", [0.0, 1e-9, 0.3])
def test_effective_ridge_is_the_root(ridge: float) -> None:
    λ = np.random.default_rng(0).permutation(np.arange(1.0, 302.0) ** -1.7)
    m = np.array([0.5, 1, 2, 17, 150.3, 299, 300.9])
    found = effective_ridge(λ, m, ridge)
    for size, κ in zip(m, found, strict=True):

        def excess(u: float, size: float = size) -> float:
            return float(np.sum(λ / (λ + np.exp(u))) + ridge / np.exp(u) - size)

        assert κ == pytest.approx(np.exp(brentq(excess, -60, 20, xtol=1e-14)), rel=1e-9)


def test_effective_ridge_where_nothing_is_left_to_learn() -> None:
    λ = np.array([1.0, 0.25, 0.0])
    np.testing.assert_array_equal(effective_ridge(λ, [2, 3, 10]), 0)
    assert effective_ridge(λ, [10], ridge=4.0)[0] == pytest.approx(0.5, rel=0.5)
    np.testing.assert_allclose(effective_ridge(np.zeros(3), [1, 4], ridge=2.0), [2.0, 0.5])
    assert effective_ridge([3.0], [0.25])[0] == pytest.approx(9.0)


@pytest.mark.parametrize("m", [1, 7, 23, 46])
def test_isotropic_features_have_the_closed_form_of_double_descent(m: int) -> None:
    """Hastie, Montanari, Rosset and Tibshirani 2022, theorem 1 and corollary 1, m samples, r features."""
    r, signal, σ2 = 23, 1.7, 0.2
    found = eigenlearning(np.full(r, 0.4), np.full(r, signal / r), [m], noise=σ2)
    if m < r:
        assert found.mse[0] == pytest.approx(signal * (1 - m / r) + σ2 / (1 - m / r), rel=1e-12)
        assert found.effective_ridge[0] == pytest.approx(0.4 * (r / m - 1), rel=1e-12)
        assert found.train_mse[0] == 0
    elif m == r:
        assert found.mse[0] == np.inf
        assert eigenlearning(np.ones(r), np.ones(r), [m]).mse[0] == 0
    else:
        assert found.mse[0] == pytest.approx(σ2 * m / (m - r), rel=1e-12)
        assert found.train_mse[0] == pytest.approx(σ2 * (1 - r / m), rel=1e-12)


def regressions(ridge: float, noise: float, m: int, draws: int) -> tuple[Array, Array]:
    """Test and train errors of ridge regression on Gaussian features, by the normal equations."""
    rng = np.random.default_rng(m)
    λ, v2 = spectra(2.0, 1.5, 600)
    test, train = np.empty(draws), np.empty(draws)
    for i in range(draws):
        g = rng.standard_normal((m + 300, len(λ)))
        y = g @ (np.sqrt(v2) * rng.choice([-1.0, 1.0], len(λ))) + noise * rng.standard_normal(len(g))
        x = g * np.sqrt(λ)
        K = x @ x[:m].T
        f = K @ np.linalg.solve(K[:m] + ridge * np.eye(m), y[:m])
        train[i], test[i] = np.mean((f - y)[:m] ** 2), np.mean((f - y)[m:] ** 2)
    return test, train


@pytest.mark.parametrize(("ridge", "noise"), [(0.0, 0.0), (0.05, 0.0), (0.3, 0.4)])
@pytest.mark.parametrize("m", [10, 61])
def test_theory_is_the_mean_of_regressions(ridge: float, noise: float, m: int) -> None:
    draws = 120
    test, train = regressions(ridge, noise, m, draws)
    found = eigenlearning(*spectra(2.0, 1.5, 600), [m], noise**2, ridge)
    for measured, expected in ((test, found.mse[0]), (train, found.train_mse[0])):
        error = 4 * measured.std(ddof=1) / np.sqrt(draws)
        # The theory is that of many samples: corrections are of order 1/m.
        assert abs(measured.mean() - expected) <= error + expected / m + np.finfo(np.float64).eps


@pytest.mark.parametrize(("b", "a", "slope"), [(1.5, 2.0, 1.0), (1.5, 3.5, 2.5), (1.5, 5.0, 3.0)])
def test_planted_spectra_have_the_limit_exponents(b: float, a: float, slope: float) -> None:
    assert limit_exponent(a, b) == pytest.approx(slope)
    found = eigenlearning(*spectra(a, b, 16384), [500, 1000]).mse
    assert np.log2(found[0] / found[1]) == pytest.approx(slope, rel=0.03)


def test_slow_targets_read_steep_where_their_tail_is_cut_off() -> None:
    """(1.1, 1.2) has the limit 0.10; two hundred thousand modes are not enough to see it."""
    k = np.arange(1, 200001.0)
    cut = eigenlearning(k**-1.2, k**-1.1, [100, 200]).mse
    assert np.log2(cut[0] / cut[1]) == pytest.approx(0.175, abs=0.005)
    kept = eigenlearning(*spectra(1.1, 1.2, 16384), [100, 200]).mse
    assert np.log2(kept[0] / kept[1]) == pytest.approx(0.10, abs=0.005)


def test_learned_modes_add_up_and_energies_may_sit_outside_the_kernel() -> None:
    λ, v2 = np.array([2.0, 1.0, 0.5, 0.0]), np.array([1.0, 0.5, 0.25, 3.0])
    found = eigenlearning(λ, v2, [1, 2])
    np.testing.assert_allclose(found.learned, [1, 2], rtol=1e-12)
    # What the kernel has no eigenvalue for is noise to it.
    noisy = eigenlearning(λ[:3], v2[:3], [1, 2], noise=3.0)
    np.testing.assert_allclose(found.mse, noisy.mse, rtol=1e-12)


def gram(n: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2 * n)) / np.arange(1, 2 * n + 1)
    return x @ x.T, rng.standard_normal((n, 2))


@pytest.mark.parametrize("n", [1, 2, 31])
def test_gcv_is_the_train_error_by_the_effective_ridge(n: int) -> None:
    K, y = gram(n)
    δ = 0.02
    inverse = np.linalg.inv(K + δ * np.eye(n))
    κ = measured_effective_ridge(K, δ)
    assert κ == pytest.approx(1 / np.trace(inverse), rel=1e-10)
    train = np.square(K @ inverse @ y - y).sum() / n
    curve = learning_curve(K, y, K[:1] + 1, y[:1], ridge=δ)
    assert curve.gcv is not None
    zero = np.square(y).sum() / n
    assert curve.gcv[-1] * zero == pytest.approx(train * (n * κ / δ) ** 2, rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([1.0, -1.0], [1.0, 1.0], [1]), "eigenvalues"),
        (([1.0, np.nan], [1.0, 1.0], [1]), "eigenvalues"),
        (([1.0], [1.0, 1.0], [1]), "1 eigenvalues but 2 energies"),
        (([1.0], [-1.0], [1]), "energies"),
        (([1.0], [1.0], [0]), "sample counts"),
        (([1.0], [1.0], [1], -0.1), "noise"),
        (([1.0], [1.0], [1], 0.0, np.inf), "ridge"),
        (([], [], [1]), "eigenvalues"),
    ],
)
def test_refusals(arguments: Any, said: str) -> None:
    with pytest.raises(KernregError, match=said):
        eigenlearning(*arguments)
