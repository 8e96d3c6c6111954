"""The curve by conjugate gradients against the curve by one factorisation, in memory and from a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import stores
from grams import laplace

from kernreg.cg import ConjugateGradients
from kernreg.curve import curve_from_store, learning_curve
from kernreg.curvebycg import curve_by_cg, curve_by_cg_from_store
from kernreg.errors import KernregError
from kernreg.exponent import fit_exponent
from kernreg.gram import build
from kernreg.operators import Dense
from kernreg.predict import DenseRows
from kernreg.store import GramStore

N, T = 90, 25
FULL = laplace(N + T)
LABELS = np.random.default_rng(3).integers(0, 3, N + T)
Y = np.eye(3)[LABELS] - 1 / 3
SOLVER = ConjugateGradients(rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_points_are_those_of_the_factor(dtype: type) -> None:
    K: np.ndarray = FULL[:N, :N].astype(dtype)
    K_test: np.ndarray = FULL[N:, :N].astype(dtype)
    exact = learning_curve(K, Y[:N], K_test, Y[N:], 1e-4, "relative")
    found = curve_by_cg(Dense(K), Y[:N], DenseRows(K_test), Y[N:], 1e-4, "relative", solver=SOLVER)
    curve = found.curve
    at = curve.samples - 1
    assert curve.samples.tolist() == [m for m in exact.anchors.tolist() if m >= 8]
    assert len(found.solutions) == len(at)
    assert (curve.ridge, curve.loo, curve.gcv, found.gcv_error) == (exact.ridge, None, None, None)
    np.testing.assert_allclose(curve.loss, exact.loss[at], rtol=1e-7)
    np.testing.assert_allclose(curve.mse, exact.mse[at], rtol=1e-7)
    assert curve.error is not None
    assert exact.error is not None
    np.testing.assert_array_equal(curve.error, exact.error[at])
    np.testing.assert_allclose(curve.squared_errors, exact.squared_errors[-len(at) :], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(curve.relative_ridge, 1e-4)


def test_gcv_has_an_error_that_covers_the_exact_one() -> None:
    K, K_test = FULL[:N, :N], FULL[N:, :N]
    exact = learning_curve(K, Y[:N], K_test, Y[N:], 1e-2)
    found = curve_by_cg(K, Y[:N], K_test, Y[N:], 1e-2, solver=SOLVER, probes=16, anchors=[10, 40, N])
    assert found.curve.gcv is not None
    assert found.gcv_error is not None
    assert exact.gcv is not None
    assert found.gcv_error[0] == 0  # ten rows, sixteen probes: exact
    difference = np.abs(found.curve.gcv - exact.gcv[[9, 39, N - 1]])
    assert (difference <= 6 * found.gcv_error + 1e-8 * found.curve.gcv).all()


def test_the_predecessor_is_a_better_start_than_zero() -> None:
    K, K_test = FULL[:N, :N], FULL[N:, :N]
    plain = ConjugateGradients(rtol=1e-3, rank=0)
    both = curve_by_cg(K, Y[:N], K_test, Y[N:], 1e-1, solver=plain, anchors=[N - 1, N])
    alone = curve_by_cg(K, Y[:N], K_test, Y[N:], 1e-1, solver=plain, anchors=[N])
    assert both.solutions[1].stats.iterations.sum() < alone.solutions[0].stats.iterations.sum()
    np.testing.assert_allclose(both.curve.loss[-1], alone.curve.loss[-1], rtol=1e-2)


def test_a_store_is_streamed_and_its_labels_count(tmp_path: Path) -> None:
    data = stores.images(21, 10)
    store = build(tmp_path / "a.gram", data, stores.ARCHITECTURE, backend="reference")
    exact = curve_from_store(store, ridge=1e-2)
    found = curve_by_cg_from_store(store, ridge=1e-2, memory="1GiB", anchors=[1, 8, 20, 21], solver=SOLVER)
    np.testing.assert_allclose(found.curve.loss, exact.loss[[0, 7, 19, 20]], rtol=1e-6)
    part = curve_by_cg_from_store(store, ridge=1e-2, n=20, anchors=[20], solver=SOLVER)
    np.testing.assert_allclose(part.curve.loss, exact.loss[[19]], rtol=1e-6)
    (tmp_path / "b").mkdir()
    blind = GramStore.create(
        tmp_path / "b" / "b.gram",
        architecture=stores.ARCHITECTURE,
        kernels=("ntk",),
        dtype="float64",
        backend="reference",
        tile=8,
        x_train=data.x_train,
        y_train=data.y_train,
    )
    with pytest.raises(KernregError, match="no test rows"):
        curve_by_cg_from_store(blind)


def test_an_exponent_can_be_fitted_to_it() -> None:
    x = np.random.default_rng(0).uniform(size=(300, 1))
    K = np.exp(-5 * np.abs(x - x.T))
    y = np.sin(6 * x)
    found = curve_by_cg(
        K[:200, :200], y[:200], K[200:, :200], y[200:], 1e-9, solver=ConjugateGradients(rtol=1e-10)
    )
    exact = learning_curve(K[:200, :200], y[:200], K[200:, :200], y[200:], 1e-9)
    fit = fit_exponent(found.curve, model="power", window=(8, 200))
    reference = fit_exponent(
        found.curve.samples, exact.loss[found.curve.samples - 1], model="power", window=(8, 200)
    )
    np.testing.assert_allclose(fit.exponent, reference.exponent, rtol=1e-3)


def test_checkpoints_of_anchors_are_gone_when_they_are_done(tmp_path: Path) -> None:
    K, K_test = FULL[:N, :N], FULL[N:, :N]
    solver = ConjugateGradients(checkpoint=tmp_path / "cg.state", checkpoint_seconds=0)
    curve_by_cg(K, Y[:N], K_test, Y[N:], 1e-2, solver=solver, anchors=[20, N])
    assert list(tmp_path.iterdir()) == []


def test_refusals() -> None:
    K, K_test = FULL[:N, :N], FULL[N:, :N]
    with pytest.raises(KernregError, match="rows and outputs must agree"):
        curve_by_cg(K, Y[: N - 1], K_test, Y[N:])
    with pytest.raises(KernregError, match="rows and outputs must agree"):
        curve_by_cg(K, Y[:N], K_test[:-1], Y[N:])
    with pytest.raises(KernregError, match="zero everywhere"):
        curve_by_cg(K, Y[:N], K_test, 0 * Y[N:])
    with pytest.raises(KernregError, match="anchors"):
        curve_by_cg(K, Y[:N], K_test, Y[N:], anchors=[0])
    few = ConjugateGradients(rank=0, max_iterations=1)
    with pytest.raises(KernregError, match=r"m = 50: not converged"):
        curve_by_cg(K, Y[:N], K_test, Y[N:], solver=few, anchors=[50, N])
    with pytest.raises(KernregError, match="finite"):
        curve_by_cg(K, Y[:N], np.full_like(K_test, np.nan), Y[N:])
