"""Spectra of Gram matrices, the held-out curves they predict, and their exponents, against brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from kernreg.data.synthetic import spectra, synthetic
from kernreg.errors import KernregError
from kernreg.leftout import left_out, left_out_curve
from kernreg.spectra import spectrum
from kernreg.spectralexponents import spectral_exponents
from kernreg.theory import eigenlearning

Array = NDArray[np.float64]


def planted(
    n: int, a: float, b: float, seed: int = 0, d: int = 2048, noise: float = 0.0
) -> tuple[Array, Array]:
    data = synthetic(n, 0, a, b, d, seed)
    K = data.x_train @ data.x_train.T / d
    y = data.y_train + noise * np.random.default_rng(seed).standard_normal(data.y_train.shape)
    return (K + K.T) / 2, y


@pytest.mark.parametrize("n", [1, 2, 53])
def test_spectrum_is_that_of_lapack(n: int) -> None:
    K, y = planted(n, 2.0, 1.5)
    found = spectrum(K, np.hstack([y, -2 * y]), ridge=0.1)
    np.testing.assert_allclose(
        found.eigenvalues, scipy.linalg.eigvalsh(K + 0.1 * np.eye(n))[::-1], rtol=1e-10
    )
    assert found.energies.sum() == pytest.approx(5 * np.square(y).sum(), rel=1e-12)
    # yᵀ(K + δ)⁻¹y holds each energy to its eigenvalue.
    direct = 5 * float((y.T @ np.linalg.solve(K + 0.1 * np.eye(n), y)).item())
    assert (found.energies / found.eigenvalues).sum() == pytest.approx(direct, rel=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_at_all_rows_it_is_generalised_cross_validation(ridge: float) -> None:
    n = 47
    K, y = planted(n, 2.0, 1.5)
    inverse = np.linalg.inv(K + ridge * np.eye(n))
    gcv = n * np.square(inverse @ y).sum() / np.trace(inverse) ** 2
    found = spectrum(K, y, ridge)
    assert found.held_out([n])[0] == pytest.approx(gcv, rel=1e-6)
    assert found.effective_ridge([n])[0] == pytest.approx(1 / np.trace(inverse), rel=1e-6)


@pytest.mark.parametrize(("ridge", "noise"), [(0.0, 0.0), (0.02, 0.0), (0.02, 0.3)])
@pytest.mark.parametrize("m", [12, 50, 110])
def test_it_is_the_mean_error_on_rows_left_out(ridge: float, noise: float, m: int) -> None:
    n, draws = 130, 400
    K, y = planted(n, 2.0, 1.5, noise=noise)
    rng = np.random.default_rng(m)
    errors, effective = np.empty(draws), np.empty(draws)
    for i in range(draws):
        order = rng.permutation(n)
        kept, left = order[:m], order[m:]
        inverse = np.linalg.inv(K[np.ix_(kept, kept)] + ridge * np.eye(m))
        errors[i] = np.square(K[np.ix_(left, kept)] @ inverse @ y[kept] - y[left]).mean()
        effective[i] = 1 / np.trace(inverse)
    found = spectrum(K, y, ridge)
    # Features are Gaussian, but of 130 rows no two are alike: GCV is off by a few percent, left_out is not.
    np.testing.assert_allclose(found.held_out([m])[0], errors.mean(), rtol=0.05 + 1 / m)
    np.testing.assert_allclose(left_out(K, y, [m], ridge)[0], errors.mean(), rtol=0.015 + 1 / m)
    np.testing.assert_allclose(found.effective_ridge([m])[0], effective.mean(), rtol=0.01 + 1 / m)


def uneven(n: int) -> tuple[Array, Array]:
    """Rows of very different norms and a nonlinear target: GCV and leave-one-out differ."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((n, 5)) * rng.exponential(size=(n, 1))
    d2 = np.square(x[:, None] - x).sum(axis=2)
    return np.exp(-np.sqrt(d2)), np.column_stack([np.sin(2 * x[:, 0]), np.abs(x[:, 1])])


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_left_out_rows_need_not_be_alike(ridge: float) -> None:
    n, draws = 120, 2000
    K, y = uneven(n)
    sizes = [15, 60, 108]
    measured = []
    for m in sizes:
        rng = np.random.default_rng(m)
        total = 0.0
        for _ in range(draws):
            order = rng.permutation(n)
            kept, left = order[:m], order[m:]
            f = K[np.ix_(left, kept)] @ np.linalg.solve(K[np.ix_(kept, kept)] + ridge * np.eye(m), y[kept])
            total += np.square(f - y[left]).sum(axis=1).mean() / draws
        measured.append(total)
    found = left_out(K, y, sizes, ridge)
    np.testing.assert_allclose(found, measured, rtol=0.06)
    alike = spectrum(K, y, ridge).held_out(sizes)
    assert (np.abs(np.log(found / measured)) < np.abs(np.log(alike / measured)) + 0.02).all()
    inverse = np.linalg.inv(K + ridge * np.eye(n))
    loo = np.square((inverse @ y) / np.diag(inverse)[:, None]).sum(axis=1).mean()
    assert left_out(K, y, [n], ridge)[0] == pytest.approx(loo, rel=1e-8)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 41])
def test_left_out_curve_is_smooth_between_the_sizes_it_is_computed_at(n: int) -> None:
    K, y = uneven(n)
    curve = left_out_curve(K, y, 0.05)
    assert curve.shape == (n,)
    assert np.isfinite(curve).all()
    assert (curve > 0).all()
    at = np.arange(max(1, n // 3), n + 1)
    np.testing.assert_allclose(curve[at - 1], left_out(K, y, at, 0.05), rtol=0.02)


def test_left_out_refuses() -> None:
    K, y = uneven(10)
    with pytest.raises(KernregError, match=r"1…10"):
        left_out(K, y, [11])
    with pytest.raises(KernregError, match="10 rows but y has 9"):
        left_out_curve(K, y[:9])


def test_far_from_all_rows_it_is_eigenlearning() -> None:
    K, y = planted(60, 2.0, 1.5)
    found = spectrum(K, y)
    N, m = 60, np.array([1.0, 5.0, 29.5])
    empirical = eigenlearning(found.eigenvalues / N, found.energies / N, m)
    # The m rows themselves are fitted exactly: the others have all of the error.
    np.testing.assert_allclose(found.held_out(m), empirical.mse * N / (N - m), rtol=1e-9)


def test_prediction_meets_the_expectation_of_the_planted_spectrum() -> None:
    n, m = 256, np.array([32, 64, 128, 256])
    ratios = []
    for seed in range(6):
        K, y = planted(n, 2.0, 2.0, seed)
        ratios.append(spectrum(K, y).held_out(m) / eigenlearning(*spectra(2.0, 2.0, 2048), m).mse)
    np.testing.assert_allclose(np.mean(ratios, axis=0), 1, atol=0.1)


def test_float32_and_refusals() -> None:
    K, y = planted(30, 2.0, 1.5)
    single = spectrum(K.astype(np.float32), y, 1e-3)
    np.testing.assert_allclose(single.held_out([10, 30]), spectrum(K, y, 1e-3).held_out([10, 30]), rtol=1e-3)
    twins = np.ones((4, 4)) + np.diag([0, 0, 1.0, 1.0])
    with pytest.raises(KernregError, match=r"not positive definite.*is enough"):
        spectrum(twins, np.ones(4))
    spectrum(twins, np.ones(4), ridge=1e-10)
    with pytest.raises(KernregError, match="30 rows but y has 29"):
        spectrum(K, y[:29])
    with pytest.raises(KernregError, match="ridge"):
        spectrum(K, y, -1.0)
    for wrong in ([0], [31], [np.nan]):
        with pytest.raises(KernregError, match=r"in 1…30"):
            single.held_out(wrong)


@pytest.mark.parametrize(("a", "b"), [(2.0, 1.5), (1.5, 2.0), (3.5, 1.5)])
def test_planted_exponents_are_recovered(a: float, b: float) -> None:
    K, y = planted(320, a, b, d=4096)
    found = spectral_exponents(K, y, groups=4)
    assert found.b.value == pytest.approx(b, abs=0.08)
    assert found.a.value == pytest.approx(a, abs=0.25)
    assert found.beta == min(found.a.value - 1, 2 * found.b.value)
    for tail in (found.a, found.b):
        assert tail.interval is not None
        assert tail.interval[0] < tail.value < tail.interval[1]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["beta"] == found.beta
    assert spectral_exponents(K, y, groups=4) == found
    bare = spectral_exponents(K, y, groups=0)
    assert (bare.beta, bare.beta_interval) == (found.beta, None)


def test_saturated_exponent_is_read_from_the_kernel() -> None:
    K, y = planted(320, 5.0, 1.5, d=4096)
    found = spectral_exponents(K, y, groups=3)
    assert found.saturated
    assert found.a.interval is None
    assert found.beta_interval is not None
    assert found.beta_interval[0] < 3.0 < found.beta_interval[1]
    assert found.beta == 2 * found.b.value
    assert found.beta == pytest.approx(3.0, abs=0.2)
    assert any("lost in what larger modes leak" in w for w in found.warnings)


def test_warnings_say_why() -> None:
    slow = spectral_exponents(*planted(200, 1.1, 1.2), groups=0)
    assert any("slow targets are far" in w for w in slow.warnings)
    noise = np.random.default_rng(0).standard_normal(200)
    unaligned = spectral_exponents(planted(200, 2.0, 1.5)[0], noise, groups=0)
    assert any("noise" in w for w in unaligned.warnings)
    ridged = spectral_exponents(*planted(200, 2.0, 1.5), ridge=1.0, groups=0)
    assert any("the ridge takes up" in w for w in ridged.warnings)
    data = synthetic(200, 0, 2.0, 2.0, 2048)
    x = data.x_train * np.where(np.arange(2048) < 60, 1, 0.05)
    kinked = spectral_exponents(x @ x.T / 2048 + 1e-12 * np.eye(200), data.y_train, groups=0)
    assert any("b changes from" in w for w in kinked.warnings)
    assert spectral_exponents(*planted(200, 2.0, 2.0), groups=4).warnings == ()


def test_exponents_refuse_what_cannot_be_fitted() -> None:
    K, y = planted(100, 2.0, 1.5)
    with pytest.raises(KernregError, match="at least 64 rows"):
        spectral_exponents(K[:63, :63], y[:63])
    for wrong in (1, -2, 2.5, True):
        with pytest.raises(KernregError, match="groups"):
            spectral_exponents(K, y, groups=wrong)  # type: ignore[arg-type]
    with pytest.raises(KernregError, match="confidence"):
        spectral_exponents(K, y, confidence=95)
    with pytest.raises(KernregError, match="no energy of the targets"):
        spectral_exponents(K, np.zeros(100))
