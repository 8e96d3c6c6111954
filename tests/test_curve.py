"""The curve against refitting at every m by solvers that share no code; replicates, ridges, refusals."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy.linalg import cho_factor, cho_solve
from sklearn.kernel_ridge import KernelRidge

import kernreg
from kernreg import prefix
from kernreg.curve import HALVINGS, curve_from_store, learning_curve
from kernreg.device import Host
from kernreg.errors import KernregError
from kernreg.gram import fill
from kernreg.ridge import RELATIVE_GRID
from kernreg.store import GramStore

N, T, C = 61, 23, 3
AGREE = 1e-8


def problem(n: int = N, t: int = T, seed: int = 0) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + t, 4))
    K = np.exp(-np.sqrt(np.square(x[:, None] - x[None]).sum(-1)))
    labels = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.3)
    y = np.eye(C)[labels] - 1 / C
    return SimpleNamespace(
        x=x,
        K=K[:n, :n],
        K_test=K[n:, :n],
        y=y[:n],
        y_test=y[n:],
        labels=labels[n:],
        real=np.sin(x[:, 0] + x[:, 1]),
    )


P = problem()


def refit(K: np.ndarray, y: np.ndarray, K_test: np.ndarray, ridge: float) -> np.ndarray:
    m = len(K)
    return np.asarray(K_test[:, :m] @ cho_solve(cho_factor(K + ridge * np.eye(m), lower=True), y))


@pytest.mark.parametrize("ridge", [1e-6, 0.0, 0.1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_point_equals_a_refit(ridge: float, dtype: type) -> None:
    K, K_test = P.K.astype(dtype), P.K_test.astype(dtype)
    curve = learning_curve(K, P.y, K_test, P.y_test, ridge=ridge)
    K, K_test = K.astype(np.float64), K_test.astype(np.float64)
    assert curve.samples.tolist() == list(range(1, N + 1))
    assert curve.ridge == ridge
    assert curve.error is not None
    for m in curve.samples:
        f = refit(K[:m, :m], P.y[:m], K_test, ridge)
        squares = np.square(f - P.y_test).sum()
        np.testing.assert_allclose(curve.loss[m - 1], squares / np.square(P.y_test).sum(), rtol=AGREE)
        np.testing.assert_allclose(curve.mse[m - 1], squares / T, rtol=AGREE)
        assert curve.error[m - 1] == np.mean(f.argmax(axis=1) != P.labels)


def test_one_output_equals_sklearn() -> None:
    y, y_test = P.real[:N], P.real[N:]
    curve = kernreg.learning_curve(P.K, y, P.K_test, y_test, ridge=1e-4)
    assert curve.error is None
    for m in (1, 2, 17, N):
        f = KernelRidge(kernel="precomputed", alpha=1e-4).fit(P.K[:m, :m], y[:m]).predict(P.K_test[:, :m])
        np.testing.assert_allclose(curve.mse[m - 1], np.mean((f - y_test) ** 2), rtol=AGREE)


@pytest.mark.parametrize("m", [1, 2, 3, 20, N])
def test_leave_one_out_equals_leaving_each_one_out(m: int) -> None:
    ridge, energy = 1e-3, np.square(P.y).sum() / N
    curve = learning_curve(P.K, P.y, P.K_test, P.y_test, ridge=ridge)
    assert curve.loo is not None
    assert curve.gcv is not None
    squares = 0.0
    for i in range(m):
        kept = np.delete(np.arange(m), i)
        f = refit(P.K[np.ix_(kept, kept)], P.y[kept], P.K[[i]][:, kept], ridge) if m > 1 else np.zeros((1, C))
        squares += np.square(f - P.y[i]).sum()
    np.testing.assert_allclose(curve.loo[m - 1], squares / m / energy, rtol=AGREE)
    S = P.K[:m, :m] @ np.linalg.inv(P.K[:m, :m] + ridge * np.eye(m))
    train = np.square(P.y[:m] - S @ P.y[:m]).sum() / m
    np.testing.assert_allclose(curve.gcv[m - 1], train / (1 - np.trace(S) / m) ** 2 / energy, rtol=AGREE)


def test_blocks_of_test_rows_and_of_training_rows_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learning_curve(P.K, P.y, P.K_test, P.y_test)
    monkeypatch.setattr(prefix, "BLOCK_ROWS", (5, 5))
    blocked = learning_curve(P.K, P.y, P.K_test, P.y_test)
    for name in ("loss", "error", "loo", "gcv", "squared_errors"):
        np.testing.assert_allclose(getattr(blocked, name), getattr(whole, name), rtol=AGREE)


def test_replicates_are_curves_of_disjoint_blocks() -> None:
    curve = learning_curve(P.K, P.y, P.K_test, P.y_test, ridge=1e-3)
    assert sorted((r.start, r.size) for r in curve.replicates) == [(0, 61), (15, 15), (30, 30), (45, 15)]
    for r in curve.replicates:
        rows = slice(r.start, r.start + r.size)
        alone = learning_curve(P.K[rows, rows], P.y[rows], P.K_test[:, rows], P.y_test, 1e-3, replicates=0)
        np.testing.assert_allclose(r.loss, alone.loss, rtol=AGREE)
        np.testing.assert_allclose(r.mse, alone.mse, rtol=AGREE)
        np.testing.assert_array_equal(r.error, alone.error)
        np.testing.assert_array_equal(r.samples, alone.samples)


@pytest.mark.parametrize("n", [1, 7, 16, 33, 61])
def test_replicates_at_m_share_no_row(n: int) -> None:
    curve = learning_curve(P.K[:n, :n], P.y[:n], P.K_test[:, :n], P.y_test, ridge=1e-3)
    for m in range(1, n + 1):
        rows = np.concatenate([r.start + np.arange(m) for r in curve.replicates_at(m)])
        assert len(set(rows)) == len(rows)
        assert rows.max() < n
        halvings = min(j for j in range(HALVINGS + 1) if j == HALVINGS or n >> (j + 1) < max(m, 8))
        assert len(curve.replicates_at(m)) == 2**halvings


def test_a_block_that_rounding_spoils_is_named_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "factor_in_place", lambda self, A, diagonal: 3)
    with pytest.raises(KernregError, match="row 32 fails in a replicate; use a larger ridge"):
        learning_curve(P.K, P.y, P.K_test, P.y_test)
    assert len(learning_curve(P.K, P.y, P.K_test, P.y_test, replicates=0).replicates) == 1


def test_squared_errors_at_anchors_give_the_loss_again() -> None:
    curve = learning_curve(P.K, P.y, P.K_test, P.y_test, ridge=1e-3)
    assert curve.anchors.tolist() == [1, 2, 3, 5, 7, 10, 15, 21, 30, 43, 61]
    for r in curve.replicates:
        assert r.squared_errors.shape == (len(r.anchors), T)
        assert r.anchors.max() == r.size
        again = r.squared_errors.sum(axis=1) / curve.squared_targets.sum()
        np.testing.assert_allclose(again, r.loss[r.anchors - 1], rtol=AGREE)
    own = learning_curve(P.K, P.y, P.K_test, P.y_test, anchors=[40, 4])
    assert own.anchors.tolist() == [4, 40]
    np.testing.assert_allclose(own.squared_errors.sum(axis=1) / T, own.mse[[3, 39]], rtol=AGREE)


def test_relative_ridge_is_relative_to_the_mean_diagonal_of_all_rows() -> None:
    scale = np.geomspace(1, 4, N)
    K = P.K * np.outer(scale, scale)
    K_test = P.K_test * scale
    mean = K.diagonal().mean()
    relative = learning_curve(K, P.y, K_test, P.y_test, ridge=0.01, ridge_mode="relative")
    absolute = learning_curve(K, P.y, K_test, P.y_test, ridge=0.01 * mean)
    np.testing.assert_allclose(relative.ridge, 0.01 * mean)
    np.testing.assert_allclose(relative.relative_ridge, 0.01)
    np.testing.assert_allclose(relative.loss, absolute.loss, rtol=AGREE)


@pytest.mark.parametrize("rule", ["loo", "gcv"])
def test_a_chosen_ridge_has_the_smallest_training_score_and_never_sees_a_test_row(rule: str) -> None:
    noisy = P.y + 0.3 * np.random.default_rng(3).standard_normal(P.y.shape)
    curve = learning_curve(P.K, noisy, P.K_test, P.y_test, ridge=rule)
    other = learning_curve(P.K, noisy, P.K_test[:5] * -3, P.y_test[:5] + 2, ridge=rule)
    assert curve.ridge == other.ridge
    scores = []
    for ridge in RELATIVE_GRID:
        at = learning_curve(P.K, noisy, P.K_test, P.y_test, ridge=ridge, ridge_mode="relative", replicates=0)
        scores.append(getattr(at, rule)[-1])
    best = int(np.argmin(scores))
    assert 0 < best < len(scores) - 1
    np.testing.assert_allclose(curve.relative_ridge, RELATIVE_GRID[best])
    np.testing.assert_allclose(getattr(curve, rule)[-1], scores[best], rtol=AGREE)


def test_a_chosen_ridge_is_never_one_that_leaves_the_matrix_singular() -> None:
    x = P.x[:N, :2]
    K, K_test = x @ x.T, P.x[N:, :2] @ x.T
    curve = learning_curve(K, x[:, 0], K_test, P.x[N:, 0], ridge="loo", ridge_grid=[0.0, 1e-18, 1e-6, 1.0])
    np.testing.assert_allclose(curve.relative_ridge, 1e-6)
    with pytest.raises(KernregError, match="no candidate"):
        learning_curve(K, x[:, 0], K_test, P.x[N:, 0], ridge="gcv", ridge_grid=[0.0])


@pytest.mark.parametrize("shift", [0.0, -0.1])
@pytest.mark.parametrize("height", [1.0, 1e-3])
def test_labels_are_read_from_one_hot_targets_of_any_offset(shift: float, height: float) -> None:
    y, y_test = (height * (np.eye(C)[v.argmax(axis=1)] + shift) for v in (P.y, P.y_test))
    curve = learning_curve(P.K, y.astype(np.float32), P.K_test, y_test.astype(np.float32))
    f = refit(P.K, y, P.K_test, 1e-6)
    assert curve.error is not None
    assert curve.error[-1] == np.mean(f.argmax(axis=1) != P.labels)


def test_plain_regression_has_no_error_rate_unless_labels_are_given() -> None:
    y = P.y + 0.01 * np.random.default_rng(1).standard_normal(P.y.shape)
    assert learning_curve(P.K, y, P.K_test, P.y_test).error is None
    assert learning_curve(P.K, P.y[:, :1], P.K_test, P.y_test[:, :1]).error is None
    given = learning_curve(P.K, y, P.K_test, P.y_test, labels_test=P.labels).error
    assert given is not None
    assert given[-1] == np.mean(refit(P.K, y, P.K_test, 1e-6).argmax(axis=1) != P.labels)


def test_loo_can_be_left_out() -> None:
    curve = learning_curve(P.K, P.y, P.K_test, P.y_test, loo=False)
    assert curve.loo is None
    assert curve.gcv is None
    np.testing.assert_array_equal(curve.loss, learning_curve(P.K, P.y, P.K_test, P.y_test).loss)


def test_the_memory_budget_is_kept() -> None:
    n, t = 1200, 40
    x = np.random.default_rng(0).standard_normal((n + t, 3))
    K = x @ x.T
    K_test = K[n:, :n].copy()
    K = K[:n, :n].copy()
    y = x[:, :2]
    peaks = []
    for overwrite in (False, True):
        tracemalloc.start()
        learning_curve(K, y[:n], K_test, y[n:], ridge=1.0, overwrite=overwrite)
        peaks.append(tracemalloc.get_traced_memory()[1] / (8 * n * n))
        tracemalloc.stop()
    # The rest is K_test's block twice, and the strips of 512 rows in which K is looked through.
    strips = 2 * (2 * t + 512) / n
    assert peaks[0] < 1.25 + strips
    assert peaks[1] < 0.25 + strips


ARCHITECTURE = kernreg.Architecture.fcn(depth=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GramStore]:
    rows = {"x_train": P.x[:N], "y_train": P.y, "x_test": P.x[N:], "y_test": P.y_test}
    labels = {"labels_train": P.y.argmax(axis=1), "labels_test": P.labels}
    settings: Any = {"kernels": ("nngp", "ntk"), "dtype": "float32", "backend": "reference", "tile": 16}
    with GramStore.create(tmp_path / "s", architecture=ARCHITECTURE, **settings, **rows, **labels) as made:
        yield made


@pytest.mark.parametrize(("kernel", "n"), [(None, None), ("ntk", N), ("nngp", 20)])
def test_a_store_gives_the_curve_of_its_arrays(store: GramStore, kernel: str | None, n: int | None) -> None:
    fill(store, P.x[:N], P.x[N:])
    curve = curve_from_store(store, kernel, ridge=1e-2, n=n, loo=False)
    x, m = P.x[:N][:n], n or N
    K, K_test = (
        np.asarray(kernreg.gram(a, b, ARCHITECTURE, kernel or "ntk")) for a, b in ((x, None), (P.x[N:], x))
    )
    for i in (1, 7, m):
        f = refit(K[:i, :i], P.y[:i], K_test, 1e-2)
        assert curve.loss[i - 1] == pytest.approx(
            np.square(f - P.y_test).sum() / np.square(P.y_test).sum(), rel=1e-4
        )
    assert len(curve.samples) == m
    assert curve.error is not None
    assert curve.error[-1] == pytest.approx(np.mean(f.argmax(axis=1) != P.labels), abs=1.1 / T)


def test_a_store_that_cannot_make_a_curve_is_refused(store: GramStore) -> None:
    with pytest.raises(KernregError, match="not complete"):
        curve_from_store(store)
    fill(store, P.x[:N], P.x[N:])
    with pytest.raises(KernregError, match="rbf"):
        curve_from_store(store, "rbf")
    with pytest.raises(KernregError, match="62 rows are asked for"):
        curve_from_store(store, n=N + 1)
    with pytest.raises(KernregError, match="no test rows"):
        curve_from_store(cast(GramStore, SimpleNamespace(t=0)))


def but(values: np.ndarray, value: float) -> np.ndarray:
    changed = values.copy()
    changed[3, 1] = value
    return changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"K": P.K[:, :-1]}, "square"),
        ({"K": but(P.K, np.nan)}, r"K\[3, 1\] is nan"),
        ({"K": but(P.K, 9.0)}, "not symmetric"),
        ({"y": P.y[:-1]}, "K has 61 rows but y has 60"),
        ({"y": but(P.y, np.nan)}, "y has NaN or infinity at row 3"),
        ({"y": P.y[:, :2]}, "y has 2 outputs but y_test has 3"),
        ({"y": P.y[None]}, "must have shape"),
        ({"y": 0 * P.y}, "y is zero everywhere"),
        ({"y_test": 0 * P.y_test}, "y_test is zero everywhere"),
        ({"y_test": but(P.y_test, np.inf)}, "y_test has NaN or infinity at row 3"),
        ({"y_test": P.y_test[1:]}, "K_test has 23 rows but y_test has 22"),
        ({"K_test": P.K_test.T}, r"K_test must be \(test rows, 61 training rows\), not of shape \(61, 23\)"),
        ({"K_test": P.K_test[0]}, "K_test must be"),
        ({"K_test": but(P.K_test, np.nan)}, r"K_test\[3, 1\] is nan"),
        ({"ridge": -1.0}, "≥ 0"),
        ({"ridge": np.nan}, "≥ 0"),
        ({"ridge": "best"}, "unknown rule for the ridge 'best'"),
        ({"ridge_mode": "percent"}, "absolute"),
        ({"K": 0 * P.K, "ridge_mode": "relative"}, "positive mean diagonal"),
        ({"ridge": "loo", "ridge_grid": [-1.0]}, "ridge_grid"),
        ({"replicates": -1}, "halvings"),
        ({"anchors": [0, 3]}, "anchors"),
        ({"anchors": [62]}, "anchors"),
        ({"labels_test": P.labels[1:]}, "labels_test"),
        ({"labels_test": P.labels + 1}, "labels_test"),
        ({"K": -P.K}, "pivot 1 .*is enough"),
    ],
)
def test_what_makes_no_regression_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    arguments = {"K": P.K, "y": P.y, "K_test": P.K_test, "y_test": P.y_test} | changes
    with pytest.raises(KernregError, match=message) as caught:
        learning_curve(**arguments)
    assert "\n" not in str(caught.value)


def test_the_ridge_named_on_failure_makes_the_curve() -> None:
    K, K_test = P.x[:N] @ P.x[:N].T, P.x[N:] @ P.x[:N].T
    with pytest.raises(KernregError, match=r"pivot [5-9] \(counting from 1") as caught:
        learning_curve(K, P.y, K_test, P.y_test, ridge=0.0)
    assert np.isfinite(
        learning_curve(K, P.y, K_test, P.y_test, ridge=getattr(caught.value, "ridge", -1.0)).loss
    ).all()
