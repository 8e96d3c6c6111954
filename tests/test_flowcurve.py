"""Learning curves of training that stops: the ends are those of kernel regression, memory does not change the numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from grams import laplace
from matrices import problem, stored

from kernreg.curve import learning_curve
from kernreg.errors import KernregError
from kernreg.filters import GradientDescent, GradientFlow, Stop
from kernreg.flow import trained
from kernreg.flowcurve import beyond_memory, flow_curves, flow_from_store
from kernreg.measure import label
from kernreg.operators import Dense
from kernreg.plan import PROCESS_BYTES
from kernreg.predict import DenseRows
from kernreg.stopped import chosen, early_stopping, measure_stopped, series

N, T = 90, 25
FULL = laplace(N + T)
LABELS = np.random.default_rng(3).integers(0, 3, N + T)
Y = np.eye(3)[LABELS] - 1 / 3
K, K_TEST = FULL[:N, :N], FULL[N:, :N]
STOPS: list[Stop] = [GradientFlow(0.0), GradientFlow(5.0), GradientDescent(0.5, 30), GradientFlow(math.inf)]


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_the_end_is_kernel_regression_and_the_beginning_the_zero_predictor(ridge: float) -> None:
    found = flow_curves(K, Y[:N], K_TEST, Y[N:], STOPS, ridge, "relative")
    exact = learning_curve(K, Y[:N], K_TEST, Y[N:], ridge, "relative")
    first, last = found.curves[0], found.curves[-1]
    assert last.samples.tolist() == [m for m in exact.anchors.tolist() if m >= 8]
    at = last.samples - 1
    for ours, theirs in ((last.loss, exact.loss), (last.mse, exact.mse), (last.gcv, exact.gcv)):
        assert ours is not None
        assert theirs is not None
        # condition of K: about N²
        np.testing.assert_allclose(ours, theirs[at], rtol=1e-8)
    assert last.error is not None
    assert exact.error is not None
    np.testing.assert_array_equal(last.error, exact.error[at])
    np.testing.assert_allclose(last.squared_errors, exact.squared_errors[-len(at) :], rtol=1e-6, atol=1e-10)
    assert (last.ridge, last.relative_ridge) == (exact.ridge, exact.relative_ridge)
    np.testing.assert_allclose(first.loss, 1.0, rtol=1e-12)
    assert (found.method, found.products, found.bound) == ("eigendecomposition", 0, 0.0)


def test_every_point_is_one_training() -> None:
    found = flow_curves(K, Y[:N], K_TEST, Y[N:], STOPS[:3], 0.1, anchors=[1, 7, 40])
    for j, m in enumerate((1, 7, 40)):
        alone = trained(K[:m, :m], Y[:m], STOPS[:3], 0.1)
        for i, α in enumerate(alone.coefficients):
            f = K_TEST[:, :m] @ α
            error = np.square(f - Y[N:]).sum(axis=1)
            curve = found.curves[i]
            np.testing.assert_allclose(curve.squared_errors[j], error, rtol=1e-9)
            np.testing.assert_allclose(curve.loss[j], error.sum() / np.square(Y[N:]).sum(), rtol=1e-9)
            assert curve.error is not None
            assert curve.error[j] == np.mean(f.argmax(axis=1) != LABELS[N:])
            train = np.square(Y[:m] - K[:m, :m] @ α).sum() / m / (np.square(Y[:N]).sum() / N)
            np.testing.assert_allclose(found.train[i, j], train, rtol=1e-9)


def test_products_give_the_same_curves() -> None:
    stops = STOPS[:3]
    exact = flow_curves(K.astype(np.float32), Y[:N], K_TEST, Y[N:], stops)
    found = flow_curves(Dense(K.astype(np.float32)), Y[:N], DenseRows(K_TEST), Y[N:], stops)
    assert found.method == "chebyshev"
    assert found.products > 0
    assert max(found.bound, found.defect) < 1e-7
    np.testing.assert_allclose(found.train, exact.train, rtol=1e-6, atol=1e-8)
    for ours, theirs in zip(found.curves, exact.curves, strict=True):
        assert ours.gcv is None
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-6)
        np.testing.assert_array_equal(ours.samples, theirs.samples)


def test_a_store_within_memory_and_beyond(tmp_path: Path) -> None:
    given = problem(300)
    store = stored(tmp_path / "a.gram", given)
    stops = [GradientFlow(4.0), GradientFlow(100.0)]
    little = PROCESS_BYTES + (1 << 20)
    assert beyond_memory(300, store.t, None) == ""
    assert "eigendecomposition of 300 rows" in beyond_memory(300, store.t, little)
    exact = flow_from_store(store, None, stops)
    found = flow_from_store(store, None, stops, memory=little)
    assert (exact.method, found.method) == ("eigendecomposition", "chebyshev")
    for ours, theirs in zip(found.curves, exact.curves, strict=True):
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-6)
        assert ours.error is not None
        np.testing.assert_array_equal(ours.error, theirs.error)
    flow_from_store(store, None, stops, memory=little, checkpoint=tmp_path / "state")
    assert not list(tmp_path.glob("state*"))
    fewer = flow_from_store(store, "ntk", stops, n=50)
    np.testing.assert_allclose(fewer.curves[0].loss[0], exact_at(given, 50, stops[0], 8), rtol=1e-9)


def exact_at(given: object, n: int, stop: Stop, m: int) -> float:
    p = given
    alone = trained(p.K[:m, :m], p.y[:m], [stop])  # type: ignore[attr-defined]
    f = p.K_test[:, :m] @ alone.coefficients[0]  # type: ignore[attr-defined]
    return float(np.square(f - p.y_test).sum() / np.square(p.y_test).sum())  # type: ignore[attr-defined]


def test_a_curve_that_dies_goes_on(tmp_path: Path) -> None:
    class Dying(Dense):
        def leading(self, m: int) -> Dense:
            if m > 40:
                raise MemoryError
            return super().leading(m)

    given = (Y[:N], DenseRows(K_TEST), Y[N:], STOPS[:3])
    with pytest.raises(MemoryError):
        flow_curves(Dying(K), *given, checkpoint=tmp_path / "state")
    assert {p.name for p in tmp_path.iterdir()} == {"state-11", "state-15", "state-22", "state-31"}
    found = flow_curves(Dense(K), *given, checkpoint=tmp_path / "state")
    exact = flow_curves(Dense(K), *given)
    for ours, theirs in zip(found.curves, exact.curves, strict=True):
        np.testing.assert_array_equal(ours.loss, theirs.loss)
    assert not list(tmp_path.iterdir())


def test_measurements_of_a_series(tmp_path: Path) -> None:
    store = stored(tmp_path / "a.gram", problem(120))
    stops = [GradientFlow(t) for t in (100.0, 1.0, 1e4, 1.0)]
    made = measure_stopped(store, None, stops, model="power")
    assert [m.stop for m in made] == [GradientFlow(t) for t in (1.0, 100.0, 1e4)]
    assert [label(m, made) for m in made] == ["fcn, t = 1", "fcn, t = 100", "fcn, t = 10000"]
    facts = made[1].to_dict()
    assert facts["stop"] == {"time": 100.0, "step": None, "steps": None}
    assert 0 < facts["train_loss"] < 1
    assert made[1].fit is not None
    (group,) = series(made)
    at = chosen(group)
    scores = [float(m.curve.gcv[-1]) for m in made if m.curve.gcv is not None]
    assert at == int(np.argmin(scores))
    (sentence,) = early_stopping(made)
    assert str(made[at].stop) in sentence
    assert early_stopping(made[:1]) == []


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(KernregError, match="rows and outputs must agree"):
        flow_curves(K, Y[:N], K_TEST[:3], Y[N:], STOPS)
    with pytest.raises(KernregError, match="at least one time"):
        flow_curves(K, Y[:N], K_TEST, Y[N:], [])
    with pytest.raises(KernregError, match="nothing to learn"):
        flow_curves(K, 0 * Y[:N], K_TEST, Y[N:], STOPS)
    with pytest.raises(KernregError, match=r"m = \d+: a step of 50 .* rows"):
        flow_curves(K, Y[:N], K_TEST, Y[N:], [GradientDescent(50.0, 2)])
    with pytest.raises(KernregError, match="anchors"):
        flow_curves(K, Y[:N], K_TEST, Y[N:], STOPS, anchors=[0])
    store = stored(tmp_path / "a.gram", problem(30))
    with pytest.raises(KernregError, match=r"streamed, and 1 MiB are allowed: use --memory 32\dMiB"):
        flow_from_store(store, None, [GradientFlow(1.0)], memory=1 << 20)
    with pytest.raises(KernregError, match=r"a\.gram.*step"):
        measure_stopped(store, None, [GradientDescent(50.0, 2)])
