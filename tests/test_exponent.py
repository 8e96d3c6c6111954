"""Power laws, their fits, the scatter behind the intervals, and the warnings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from kernreg.curve import LearningCurve, learning_curve
from kernreg.data.synthetic import synthetic
from kernreg.errors import KernregError
from kernreg.exponent import fit_exponent
from kernreg.fitwarnings import find_peak
from kernreg.powerlaws import PARAMETERS, PowerLaw, aicc, fit_law
from kernreg.scatter import points_of_arrays, points_of_curve

Array = NDArray[np.float64]
M = np.unique(np.round(2 ** (np.arange(6, 22) / 2)))
LAWS = [
    PowerLaw("power", {"A": 3.0, "beta": 0.7}),
    PowerLaw("power", {"A": 0.5, "beta": -0.2}),
    PowerLaw("offset", {"A": 2.0, "beta": 0.9, "E": 0.02}),
    PowerLaw("broken", {"A": 1.0, "c0": 0.2, "c1": 0.8, "d": 120.0, "f": 0.3}),
    PowerLaw("broken+offset", {"A": 1.0, "c0": 0.2, "c1": 1.5, "d": 90.0, "f": 0.2, "E": 0.003}),
]
EARLY = PowerLaw("broken", {"A": 1.0, "c0": 0.0, "c1": 0.5, "d": 11.0, "f": 0.02})


def curve_of(n: int, t: int, seed: int = 0, a: float = 2.0, noise: float = 0.0) -> LearningCurve:
    data = synthetic(n, t, a, 2.0, dimension=1024, seed=seed)
    rng = np.random.default_rng(seed)
    K = data.x_train @ data.x_train.T / 1024
    y = data.y_train + noise * rng.standard_normal(data.y_train.shape)
    y_test = data.y_test + noise * rng.standard_normal(data.y_test.shape)
    K_test = data.x_test @ data.x_train.T / 1024
    return learning_curve((K + K.T) / 2, y, K_test, y_test, ridge=noise**2, loo=False)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.model)
def test_exact_laws_are_recovered(law: PowerLaw) -> None:
    found, residual = fit_law(law.model, M, np.log(law.predict(M)), np.eye(len(M)))
    assert residual < 1e-6
    assert found.exponent == pytest.approx(law.exponent, rel=0.02)
    np.testing.assert_allclose(found.predict(M), law.predict(M), rtol=1e-3)


def test_broken_law_has_its_two_slopes_and_the_published_form() -> None:
    law = LAWS[3]
    p = law.parameters
    literal = p["A"] * M ** -p["c0"] * (1 + (M / p["d"]) ** (1 / p["f"])) ** (-p["c1"] * p["f"])
    np.testing.assert_allclose(law.predict(M), literal, rtol=1e-12)
    early, late = (np.log(law.predict(m) / law.predict(2 * m)) / np.log(2) for m in (1e-3, 1e7))
    assert early == pytest.approx(p["c0"], rel=1e-6)
    assert late == pytest.approx(law.exponent, rel=1e-6)


def test_power_law_is_generalised_least_squares() -> None:
    rng = np.random.default_rng(1)
    y, G = rng.standard_normal(len(M)), rng.standard_normal((len(M), len(M))) + 5 * np.eye(len(M))
    C: Array = np.linalg.inv(G).astype(np.float64)
    law, residual = fit_law("power", M, y, C)
    X = np.stack([np.ones_like(M), -np.log(M)], axis=1)
    expected, rest = np.linalg.lstsq(C @ X, C @ y, rcond=None)[:2]
    assert law.exponent == pytest.approx(expected[1], rel=1e-6)
    assert residual == pytest.approx(rest[0], rel=1e-6)


@pytest.mark.parametrize("law", LAWS[2:4], ids=lambda law: law.model)
def test_auto_finds_the_law_that_made_the_curve(law: PowerLaw) -> None:
    noise = 0.005 * np.random.default_rng(0).standard_normal(len(M))
    fit = fit_exponent(M, law.predict(M) * np.exp(noise), window=(8, 2000))
    assert fit.model == law.model
    assert min(fit.scores, key=fit.scores.__getitem__) == law.model
    assert fit.exponent == pytest.approx(law.exponent, rel=0.15)
    assert fit.interval[0] < fit.exponent < fit.interval[1]


def test_auto_keeps_the_plain_law_on_a_plain_law() -> None:
    models = []
    for seed in range(20):
        noise = 0.02 * np.random.default_rng(seed).standard_normal(len(M))
        models.append(fit_exponent(M, 3 * M**-0.7 * np.exp(noise), window=(8, 2000), draws=100).model)
    assert models.count("power") >= 17


def test_aicc_refuses_models_with_too_many_parameters() -> None:
    assert aicc(1.0, 6, "broken", known_scale=True) == np.inf
    assert aicc(1.0, 20, "power", known_scale=True) == pytest.approx(1 + 4 + 12 / 17)


def test_arrays_use_points_apart_and_the_last_decade() -> None:
    m = np.arange(1, 1001)
    fit = fit_exponent(m, 2.0 * m**-0.4)
    assert fit.exponent == pytest.approx(0.4, abs=1e-6)
    assert fit.model == "power"
    assert fit.interval_from == "scatter around the fit"
    assert fit.window[1] == 1000
    assert 100 <= fit.window[0] < 150
    steps = np.diff(np.log2(fit.points.samples[fit.points.samples > 50]))
    np.testing.assert_allclose(steps, 0.5, atol=0.05)
    np.testing.assert_allclose(fit.predict(m), 2.0 * m**-0.4, rtol=1e-6)
    assert fit.predict(np.ones((2, 3))).shape == (2, 3)


def test_interval_of_arrays_covers_under_its_own_noise() -> None:
    shape = points_of_arrays(M, np.ones(len(M))).training
    G = np.linalg.cholesky(shape)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        loss = 3 * M**-0.6 * np.exp(0.3 * G @ rng.standard_normal(len(M)))
        low, high = fit_exponent(M, loss, model="power", draws=400).interval
        covered += low <= 0.6 <= high
    # Binomial(100, 0.95): 88 or less has probability 0.4 %, 100 has 0.6 %.
    assert 89 <= covered <= 99


def test_scatter_predicted_from_one_curve_is_the_scatter_of_many() -> None:
    points = [points_of_curve(curve_of(64, 100, seed)) for seed in range(60)]
    at = points[0].samples >= 8
    measured = np.var([np.log(p.loss[at]) for p in points], axis=0)
    predicted = np.mean([np.diag(p.covariance)[at] for p in points], axis=0)
    assert points[0].replicates[at].tolist() == [8, 4, 4, 2, 2, 1, 1]
    # The variance of 60 draws has a relative deviation of 0.18; the model is one of first order.
    assert np.all((predicted / measured > 0.5) & (predicted / measured < 2.2))


def test_curve_gives_the_known_exponent_and_is_reproducible() -> None:
    curve = curve_of(256, 200)
    fit = fit_exponent(curve)
    assert fit.interval_from == "replicates and test rows"
    assert fit.interval[0] <= 1.0 <= fit.interval[1]
    assert fit.interval[1] - fit.interval[0] < 0.5
    assert fit_exponent(curve).to_dict() == fit.to_dict()
    assert fit_exponent(curve, seed=1).interval != fit.interval
    assert json.loads(json.dumps(fit.to_dict(), allow_nan=False))["exponent"] == fit.exponent
    wide, narrow = (fit_exponent(curve, confidence=c).interval for c in (0.99, 0.5))
    assert wide[0] < fit.interval[0] < narrow[0] < narrow[1] < fit.interval[1] < wide[1]
    s = fit.slopes
    assert np.all((s.low < s.slope) & (s.slope < s.high))


def test_test_rows_take_part_in_the_interval() -> None:
    curve = curve_of(128, 400, seed=2)
    spread = [points_of_curve(curve_of(128, t, seed=2)).test.trace() for t in (50, 400)]
    assert spread[0] > 3 * spread[1]
    points = points_of_curve(curve)
    draws = points.deviations(4000, np.random.default_rng(0))
    np.testing.assert_allclose(draws.var(axis=0)[-6:], np.diag(points.covariance)[-6:], rtol=0.5)


def test_noise_floor_is_an_offset_or_said() -> None:
    fit = fit_exponent(curve_of(256, 200, noise=0.3), window=(8, 256))
    assert fit.model == "offset" or any("floor" in w or "miss the fitted law" in w for w in fit.warnings)


def peaked() -> tuple[Array, Array]:
    m = np.arange(1.0, 1025.0)
    return m, m**-0.5 * (1 + 8 * np.exp(-((np.log(m / 300) / 0.15) ** 2)))


def test_warnings_say_why() -> None:
    m, loss = peaked()
    cases = {
        "loss peaks at 256 samples": fit_exponent(m, loss),
        "spans a factor": fit_exponent(M, M**-0.5, window=(400, 1500)),
        "only 4 points": fit_exponent(M, M**-0.5, window=(500, 1500)),
        "worse than predicting zero": fit_exponent(M, 100 * M**-0.5),
        "not distinguishable from 0": fit_exponent(M, 1 + 0.1 * np.cos(7 * M), model="power"),
        "grows": fit_exponent(M, 1e-3 * M**0.5),
        "read steep": fit_exponent(M, M**-0.1),
        "is the offset E": fit_exponent(M, 0.5 + 3 * M**-1.0, model="offset"),
        "a floor is reached": fit_exponent(M, 0.05 + 3 * M**-1.0, model="power", window=(8, 2000)),
        "within rounding": fit_exponent(M, M**-0.5, model="offset"),
        "edge of the window": fit_exponent(M, EARLY.predict(M), model="broken"),
        "only 30 test rows": fit_exponent(curve_of(64, 30)),
    }
    for words, fit in cases.items():
        assert any(words in sentence for sentence in fit.warnings), (words, fit.warnings, fit.model)


def test_a_clean_law_has_no_warnings() -> None:
    assert fit_exponent(M, 0.9 * M**-0.5).warnings == ()


def test_default_window_begins_after_a_peak_where_enough_is_left() -> None:
    m = np.arange(1.0, 1025.0)
    loss = m**-0.5 * (1 + 3 * np.exp(-((np.log(m / 120) / 0.1) ** 2)))
    fit = fit_exponent(m, loss)
    assert fit.window[0] > 120
    assert fit.exponent == pytest.approx(0.5, abs=0.05)
    assert not any("peak" in w for w in fit.warnings)


def test_peaks_and_where_they_end() -> None:
    m, loss = np.arange(1.0, 8.0), np.array([1.0, 0.8, 1.6, 1.2, 0.7, 0.6, 0.5])
    peak = find_peak(m, loss, np.full(7, 0.01))
    assert peak is not None
    assert (peak.samples, peak.over) == (3.0, 5.0)
    assert peak.height == pytest.approx(2.0)
    assert find_peak(m, loss, np.full(7, 0.5)) is None
    assert find_peak(m, 1 / m, np.full(7, 0.01)) is None


def test_refusals() -> None:
    with pytest.raises(KernregError, match="unknown model"):
        fit_exponent(M, M**-0.5, model="cubic")
    with pytest.raises(KernregError, match="give the losses"):
        fit_exponent(M)
    with pytest.raises(KernregError, match="equally long"):
        fit_exponent(M, M[:-1])
    with pytest.raises(KernregError, match="increasing"):
        fit_exponent(M[::-1], M)
    with pytest.raises(KernregError, match="loss at 8 samples is 0"):
        fit_exponent(M, np.where(M == 8, 0.0, 1.0))
    with pytest.raises(KernregError, match="is nan"):
        fit_exponent(M, np.where(M == 8, np.nan, 1.0))
    with pytest.raises(KernregError, match=r"2 points .* widen"):
        fit_exponent(M, M**-0.5, window=(1000, 1500))
    with pytest.raises(KernregError, match="window 9:8 is empty"):
        fit_exponent(M, M**-0.5, window=(9, 8))
    with pytest.raises(KernregError, match="confidence"):
        fit_exponent(M, M**-0.5, confidence=95)
    with pytest.raises(KernregError, match="draws"):
        fit_exponent(M, M**-0.5, draws=3)
    with pytest.raises(KernregError, match=r"0 points"):
        fit_exponent(M, M**-0.5, window=(1e6, 2e6))
    assert set(PARAMETERS) == {"power", "offset", "broken", "broken+offset"}


def test_curve_without_replicates_is_fitted_as_arrays() -> None:
    data = synthetic(100, 50, dimension=512)
    x, z = data.x_train, data.x_test
    K = x @ x.T / 512
    curve = learning_curve((K + K.T) / 2, data.y_train, z @ x.T / 512, data.y_test, replicates=0)
    fit = fit_exponent(curve)
    assert fit.interval_from == "scatter around the fit"
    assert fit.interval == fit_exponent(curve.samples, curve.loss).interval
