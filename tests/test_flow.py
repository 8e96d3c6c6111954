"""Training that stops: against matrix exponentials, explicit steps and the limits t → 0 and t → ∞."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tolerances
from grams import digits_ntk, laplace, with_eigenvalues
from scipy.linalg import expm

from kernreg.errors import KernregError
from kernreg.filters import GradientDescent, GradientFlow, Stop, stop_at
from kernreg.flow import trained

EPS = float(np.finfo(np.float64).eps)


def problem(m: int, c: int) -> tuple[np.ndarray, np.ndarray]:
    return laplace(m), np.random.default_rng(m).standard_normal((m, c))


def by_exponential(K: np.ndarray, Y: np.ndarray, time: float, ridge: float) -> np.ndarray:
    """∫_0^t e^{−As} ds·Y/m, A = (K + λI)/m, as a corner of one larger exponential: no inverse, no eigenvalues."""
    m, c = Y.shape
    A = (K + ridge * np.eye(m)) / m
    whole = np.block([[-A, Y / m], [np.zeros((c, m + c))]])
    return np.asarray(expm(time * whole)[:m, m:])


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize(("m", "c"), [(1, 1), (2, 3), (13, 1), (40, 2)])
def test_gradient_flow_is_the_matrix_exponential(m: int, c: int, ridge: float) -> None:
    K, Y = problem(m, c)
    times = (0.0, 0.3, 7.0, 200.0)
    found = trained(K, Y, [GradientFlow(t) for t in times], ridge)
    A = (K + ridge * np.eye(m)) / m
    for t, α, left in zip(times, found.coefficients, found.left, strict=True):
        expected = by_exponential(K, Y, t, ridge)
        allowed = tolerances.followed(A, t) * np.linalg.norm(Y)
        assert np.linalg.norm(K @ (α - expected)) <= allowed
        assert np.linalg.norm(left - (Y - K @ expected)) <= allowed


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.1, 1.0, 1.99])  # of the step that is just stable, over 2
@pytest.mark.parametrize("m", [1, 3, 23])
def test_gradient_descent_is_its_steps(m: int, share: float, ridge: float) -> None:
    K, Y = problem(m, 2)
    A = (K + ridge * np.eye(m)) / m
    step = float(share / np.linalg.norm(A, 2))
    counts = (0, 1, 2, 57)
    found = trained(K, Y, [GradientDescent(step, k) for k in counts], ridge)
    α = np.zeros_like(Y)
    for k in range(counts[-1] + 1):
        if k in counts:
            allowed = tolerances.followed(A, k * step) * np.linalg.norm(Y)
            assert np.linalg.norm(K @ (found.coefficients[counts.index(k)] - α)) <= allowed
        α = α + step * (Y / m - A @ α)


def test_small_steps_are_the_flow() -> None:
    K, Y = problem(20, 1)
    flow, *descents = (
        K @ α
        for α in trained(
            K, Y, [GradientFlow(10.0), GradientDescent(0.1, 100), GradientDescent(0.01, 1000)]
        ).coefficients
    )
    coarse, fine = (np.linalg.norm(f - flow) for f in descents)
    # Euler's method is of first order: a tenth of the step, a tenth of the error
    assert 0.08 < fine / coarse < 0.12


def test_nothing_is_learned_at_time_0_and_all_at_the_end() -> None:
    K, Y = problem(30, 2)
    for ridge in (0.0, 0.3):
        begin, late, end = trained(K, Y, [GradientFlow(t) for t in (0.0, 1e9, math.inf)], ridge).coefficients
        exact = np.linalg.solve(K + ridge * np.eye(30), Y)
        size = np.linalg.norm(exact)
        assert not begin.any()
        assert np.linalg.norm(end - exact) <= tolerances.solved(K + ridge * np.eye(30)) * size
        assert np.linalg.norm(late - exact) <= tolerances.solved(K + ridge * np.eye(30)) * size


def test_early_training_is_one_gradient_step() -> None:
    K, Y = problem(11, 1)
    t = 1e-7
    (α,) = trained(K, Y, [GradientFlow(t)]).coefficients
    np.testing.assert_allclose(
        α, t * Y / 11, rtol=float(t * np.linalg.norm(K, 2) / 11 + 100 * EPS), atol=1e-3 * t
    )


def test_scores_are_gcv_of_the_smoother() -> None:
    K, Y = problem(17, 2)
    for stop in (GradientFlow(3.0), GradientDescent(0.5, 9)):
        for ridge in (0.0, 0.2):
            found = trained(K, Y, [stop], ridge)
            S = K @ trained(K, np.eye(17), [stop], ridge).coefficients[0]
            rest = np.eye(17) - S
            expected = 17 * np.square(rest @ Y).sum() / np.trace(rest) ** 2
            assert found.scores is not None
            np.testing.assert_allclose(found.scores[0], expected, rtol=1e4 * EPS)


def test_scores_survive_when_nothing_is_left_to_learn() -> None:
    K, Y = problem(9, 1)
    found = trained(K, Y, [GradientFlow(1e7), GradientFlow(2e7)])
    assert found.scores is not None
    assert not found.left.any()
    # what is left has the direction of the smallest eigenvalue alone
    _, U = np.linalg.eigh(K)
    np.testing.assert_allclose(found.scores, 9 * float((U[:, 0] @ Y)[0]) ** 2, rtol=1e5 * EPS)


def test_filters_agree_with_themselves() -> None:
    a = np.array([0.0, 1e-300, 1e-17, 1e-9, 0.3, 1.0, 1.9])
    stops: list[Stop] = [
        GradientFlow(0.7),
        GradientFlow(900.0),
        GradientDescent(1.0, 7),
        GradientDescent(0.01, 10**6),
    ]
    for stop in stops:
        # r(a) itself is good to as many roundings as there are steps
        rounding = 4 * EPS * (stop.steps if isinstance(stop, GradientDescent) else 1)
        np.testing.assert_allclose(a * stop.gain(a), 1 - stop.residual(a), atol=rounding)
        size, sign = stop.log_residual(a)
        np.testing.assert_allclose(sign * np.exp(size), stop.residual(a), rtol=1e5 * EPS, atol=1e-300)
        # a → 0: g = t, and what is subtracted from 1 must not be lost
        np.testing.assert_allclose(stop.gain(a[:3]), stop.time, rtol=1e-12)


def test_lost_eigenvalues_limit_the_time_and_say_so() -> None:
    K = with_eigenvalues(np.array([-1e-7, 1.0, 2.0, 3.0]))
    Y = np.ones((4, 1))
    early = trained(K, Y, [GradientFlow(1000.0)])
    assert np.isfinite(early.coefficients).all()
    for time in (1e8, math.inf):
        with pytest.raises(
            KernregError, match=r"smallest eigenvalue -1e-07.*times up to 4e\+06, or a ridge of 2\.\de-07"
        ):
            trained(K, Y, [GradientFlow(time)])
        assert np.isfinite(trained(K, Y, [GradientFlow(time)], 2.1e-7).coefficients).all()


def test_nothing_to_learn_from() -> None:
    found = trained(np.zeros((3, 3)), np.ones((3, 1)), [GradientFlow(2.0)])
    np.testing.assert_allclose(found.coefficients, 2 / 3)
    np.testing.assert_array_equal(found.left, 1.0)


def test_a_step_above_the_stability_limit_is_refused_with_the_limit() -> None:
    K, y = digits_ntk(30)
    limit = 2 * 30 / np.linalg.eigvalsh(K)[-1]
    trained(K, y, [GradientDescent(limit * (1 - 1e-9), 3)])
    with pytest.raises(KernregError, match=rf"stability limit.*2m/λmax = {limit:.6g}"):
        trained(K, y, [GradientDescent(limit * 1.001, 3)])
    with pytest.raises(KernregError, match="stability limit"):
        trained(K, y, [GradientDescent(2.5, 3)], ridge=100.0)


@pytest.mark.parametrize("time", [-1.0, math.nan, -math.inf])
def test_times_out_of_range(time: float) -> None:
    with pytest.raises(KernregError, match="a training time is a number ≥ 0"):
        stop_at(time)
    with pytest.raises(KernregError, match="a training time is a number ≥ 0"):
        stop_at(time, 0.1)


def test_steps_out_of_range() -> None:
    for step in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(KernregError, match="a learning rate"):
            stop_at(1.0, step)
    with pytest.raises(KernregError, match=r"3\.33333 steps of 0\.3: use 0\.9 or 1\.2"):
        stop_at(1.0, 0.3)
    with pytest.raises(KernregError, match="finite"):
        stop_at(math.inf, 0.3)
    for steps in (-1, 1.5, True):
        with pytest.raises(KernregError, match="whole number"):
            GradientDescent(0.1, steps)  # type: ignore[arg-type]
    assert stop_at(0.3, 0.1) == GradientDescent(0.1, 3)
    assert stop_at(0.0, 0.1) == GradientDescent(0.1, 0)


def test_refusals() -> None:
    K, Y = problem(5, 1)
    stops = [GradientFlow(1.0)]
    with pytest.raises(KernregError, match="at least one time"):
        trained(K, Y, [])
    with pytest.raises(KernregError, match="K has 5 rows but Y has 4"):
        trained(K, Y[:4], stops)
    with pytest.raises(KernregError, match="ridge"):
        trained(K, Y, stops, -1.0)
    with pytest.raises(KernregError, match="Y has NaN"):
        trained(K, np.full(5, math.nan), stops)
    with pytest.raises(KernregError, match="not symmetric"):
        trained(np.triu(K), Y, stops)
