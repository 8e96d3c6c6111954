"""The GPU's solve on NumPy arrays, with cuBLAS and cuSOLVER imitated by their documentation, against the host's."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import columnmajor
import numpy as np
import pytest
from stores import images

from kernreg import cuda as cuda_module
from kernreg import device as devices
from kernreg import running
from kernreg.architecture import Architecture
from kernreg.cholesky import EPS, NotPositiveDefiniteError, factor
from kernreg.curve import LearningCurve, curve_from_store, learning_curve
from kernreg.device import HOST, choose, curve_bytes
from kernreg.errors import KernregError
from kernreg.gram import build
from kernreg.refine import refined_solve
from kernreg.ridge import ridge_path
from kernreg.rightlooking import factor_lower

AGREE = 1e-8  # of two ways to a curve, as in test_curve


@pytest.fixture(params=[(5, 3, 4), (16, 64, 2048), (61, 1, 7)], ids=str)
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of the factorisation, panels of sums, rows at once: ragged ones among them."""
    block, panel, rows = request.param
    monkeypatch.setattr(cuda_module, "PANEL_ROWS", block)
    monkeypatch.setattr(running, "PANEL", panel)
    monkeypatch.setattr(running, "ROWS_AT_ONCE", rows)


def problem(n: int, t: int = 23, c: int = 3, seed: int = 0) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n + t, 4))
    K = np.exp(-np.sqrt(np.square(x[:, None] - x[None]).sum(-1)))
    y = np.eye(c)[rng.integers(0, c, n + t)] - 1 / c
    return SimpleNamespace(K=K[:n, :n].copy(), K_test=K[n:, :n].copy(), y=y[:n], y_test=y[n:])


def assert_same(ours: LearningCurve, theirs: LearningCurve) -> None:
    assert ours.ridge == theirs.ridge
    for name in ("loss", "mse", "loo", "gcv", "squared_errors"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=AGREE, err_msg=name)
    for name in ("samples", "error", "anchors"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert len(ours.replicates) == len(theirs.replicates)
    for a, b in zip(ours.replicates, theirs.replicates, strict=True):
        assert (a.start, a.size) == (b.start, b.size)
        np.testing.assert_allclose(a.loss, b.loss, rtol=AGREE)
        np.testing.assert_array_equal(a.error, b.error)
        np.testing.assert_allclose(a.squared_errors, b.squared_errors, rtol=AGREE)


@pytest.mark.parametrize("block", [1, 2, 7, 16, 61, 100])
@pytest.mark.parametrize("n", [1, 2, 16, 17, 61])
def test_the_right_looking_factor_is_that_of_lapack_and_leaves_the_upper_triangle(n: int, block: int) -> None:
    A = problem(n).K + 1e-3 * np.eye(n)
    L = np.tril(A) + np.triu(np.full((n, n), np.nan), 1)
    assert factor_lower(L, block, columnmajor.cuda().routines) == 0
    np.testing.assert_allclose(np.tril(L), np.linalg.cholesky(A), atol=10 * n * EPS)
    assert np.isnan(L[np.triu_indices(n, 1)]).all()


@pytest.mark.parametrize("row", [0, 4, 5, 9, 16])
def test_the_right_looking_factor_names_the_pivot_that_fails(row: int) -> None:
    A = problem(17).K
    A[row, row] = -1.0
    assert factor_lower(A, 5, columnmajor.cuda().routines) == row + 1


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("n", "c"), [(1, 2), (2, 1), (17, 3), (61, 3), (64, 10)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_curve_is_that_of_the_host(n: int, c: int, dtype: type) -> None:
    p = problem(n, c=c)
    arguments = (
        p.K.astype(dtype),
        p.y if c > 1 else p.y + 1,
        p.K_test.astype(dtype),
        p.y_test if c > 1 else p.y_test + 1,
    )
    before = arguments[0].copy()
    columnmajor.calls.clear()
    ours = learning_curve(*arguments, ridge=1e-3, device=columnmajor.cuda())
    np.testing.assert_array_equal(arguments[0], before)
    assert columnmajor.calls["potrf"]
    assert columnmajor.calls["trsm"]
    assert_same(ours, learning_curve(*arguments, ridge=1e-3))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "settings", [{"loo": False}, {"replicates": 0}, {"anchors": [40, 4, 61]}, {"ridge": 0.0}]
)
def test_its_settings_are_those_of_the_host(settings: dict[str, Any]) -> None:
    p = problem(61)
    arguments = (p.K, p.y, p.K_test, p.y_test)
    ours, theirs = (learning_curve(*arguments, device=d, **settings) for d in (columnmajor.cuda(), HOST))
    for name in ("loss", "squared_errors", "loo"):
        if getattr(theirs, name) is None:
            assert getattr(ours, name) is None
        else:
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=AGREE)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rule", ["loo", "gcv"])
def test_a_ridge_is_chosen_as_on_the_host(rule: str) -> None:
    p = problem(61)
    noisy = p.y + 0.3 * np.random.default_rng(3).standard_normal(p.y.shape)
    ours, theirs = (
        learning_curve(p.K, noisy, p.K_test, p.y_test, ridge=rule, device=d)
        for d in (columnmajor.cuda(), HOST)
    )
    assert_same(ours, theirs)


@pytest.mark.usefixtures("small_blocks")
def test_the_path_of_ridges_by_factors_is_that_by_eigenvectors_and_restores_the_matrix() -> None:
    p, ridges = problem(37), np.array([0.0, 1e-6, 1e-2, 3.0])
    K = p.K.copy()
    for ours, theirs in zip(
        columnmajor.cuda().ridge_path(K, p.y, ridges), ridge_path(p.K, p.y, ridges), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=AGREE)
    np.testing.assert_array_equal(K, p.K)
    singular = np.ones((5, 5))
    loo, gcv = columnmajor.cuda().ridge_path(singular, p.y[:5], np.array([0.0, 1.0]))
    assert np.isinf([loo[0], gcv[0]]).all()
    assert np.isfinite([loo[1], gcv[1]]).all()


@pytest.mark.parametrize("smallest", [-1e-9, -0.3, 0.0])
def test_the_ridge_that_is_named_on_failure_is_enough(smallest: float) -> None:
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))
    K = (Q * np.r_[smallest, np.geomspace(1e-3, 1, 39)]) @ Q.T
    K = (K + K.T) / 2
    p = problem(40)
    with pytest.raises(
        NotPositiveDefiniteError, match=r"pivot \d+ \(counting from 1; row .* is enough"
    ) as caught:
        learning_curve(K, p.y, p.K_test, p.y_test, ridge=0.0, device=columnmajor.cuda())
    assert caught.value.row == caught.value.pivot - 1
    assert caught.value.ridge <= max(16 * abs(smallest), 1e-10)
    factor(K, caught.value.ridge)
    curve = learning_curve(K, p.y, p.K_test, p.y_test, ridge=caught.value.ridge, device=columnmajor.cuda())
    assert np.isfinite(curve.loss).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"K": np.full((61, 61), np.nan)}, "nan"),
        ({"K": np.arange(61.0**2).reshape(61, 61)}, "not symmetric"),
        ({"y": np.zeros((60, 3))}, "K has 61 rows but y has 60"),
        ({"ridge": -1.0}, "≥ 0"),
        ({"device": "tpu"}, "device is cpu, cuda, auto, not 'tpu'"),
    ],
)
def test_what_makes_no_regression_is_refused_as_on_the_host(changes: dict[str, Any], message: str) -> None:
    p = problem(61)
    arguments = {"K": p.K, "y": p.y, "K_test": p.K_test, "y_test": p.y_test, "device": columnmajor.cuda()}
    with pytest.raises(KernregError, match=message):
        learning_curve(**(arguments | changes))


def test_a_store_gives_the_curve_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernreg.plan.SMALLEST", 4)
    monkeypatch.setattr("kernreg.plan.LARGEST", 8)
    store = build(tmp_path / "a.gram", images(), Architecture.fcn(depth=1), "ntk", "reference", "float32")
    ours = curve_from_store(store, ridge=1e-3, device=columnmajor.cuda())
    theirs = curve_from_store(store, ridge=1e-3)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=AGREE)
    assert ours.gcv is not None
    assert theirs.gcv is not None
    np.testing.assert_allclose(ours.gcv, theirs.gcv, rtol=AGREE)


def test_an_array_of_the_host_is_copied_to_the_device() -> None:
    device = columnmajor.cuda()
    K = problem(9).K
    assert not np.shares_memory(device.gram(K, overwrite=True), K)  # of the host: it is sent to the device
    assert device.get(K) is K


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A GPU that is imitated; the free bytes of its memory."""
    free = [80 << 30]
    monkeypatch.setattr(devices, "cuda", columnmajor.cuda)
    monkeypatch.setattr(devices, "free_bytes", lambda: free[0])
    return free


def test_fifty_thousand_rows_fit_eighty_gigabytes_and_what_does_not_fit_is_refused_by_amount(
    gpu: list[int],
) -> None:
    assert curve_bytes(50_000, 10) < 80e9 * 0.5
    assert curve_bytes(90_000, 10) < 141e9 * 0.95
    assert curve_bytes(50_000, 10) > 50_000**2 * 8 * 5 / 4
    assert choose("cuda", 50_000, 10).name == "cuda"
    assert choose("auto", 50_000, 10).name == "cuda"
    assert choose("cpu", 50_000, 10) is HOST
    gpu[0] = 24 << 30
    assert choose("auto", 50_000, 10) is HOST
    with pytest.raises(
        KernregError, match=r"of 50000 rows needs 2\d\.\d GiB .* 24 GiB are free: use --device cpu"
    ):
        choose("cuda", 50_000, 10)


def test_the_curve_is_chosen_by_name(gpu: list[int]) -> None:
    p = problem(20)
    columnmajor.calls.clear()
    learning_curve(p.K, p.y, p.K_test, p.y_test, device="auto")
    assert columnmajor.calls["potrf"]


def test_a_missing_gpu_is_an_error_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    devices.cuda.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert choose("auto", 10, 1) is HOST
    with pytest.raises(
        KernregError, match=r"device cuda needs CuPy .*pip install 'kernreg\[cuda\]', or use --device cpu"
    ):
        choose("cuda", 10, 1)
    cupy: Any = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(CUDARuntimeError=RuntimeError)))
    monkeypatch.setitem(sys.modules, "cupy", cupy)

    def no_driver() -> int:
        raise RuntimeError("cudaErrorNoDevice")

    cupy.cuda.runtime.getDeviceCount = no_driver
    with pytest.raises(KernregError, match="finds no NVIDIA GPU here"):
        choose("cuda", 10, 1)
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert "finds no NVIDIA GPU" in devices.absence()
    cupy.cuda.runtime.getDeviceCount = lambda: 1
    assert "needs cuBLAS and cuSOLVER" in devices.absence()


@pytest.mark.parametrize("device", [HOST, columnmajor.cuda()], ids=["host", "cuda"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "c"), [(1, 1), (17, 3), (61, 3)])
def test_a_float32_factor_is_refined_to_float64(device: Any, dtype: type, n: int, c: int) -> None:
    p = problem(n, c=c)
    K: np.ndarray = p.K.astype(dtype)
    kept, y = K.copy(), p.y + 0.1
    solved = refined_solve(K, y, 1e-3, device)
    np.testing.assert_array_equal(K, kept)
    A = K.astype(np.float64) + 1e-3 * np.eye(n)
    np.testing.assert_allclose(solved.value, np.linalg.solve(A, y), rtol=1e-6)
    residual = np.linalg.norm(y - A @ solved.value, axis=0) / np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(solved.residuals, residual, atol=1e-14)
    assert residual.max() <= 1e-10
    assert 1 <= solved.steps < 20


@pytest.mark.parametrize("device", [HOST, columnmajor.cuda()], ids=["host", "cuda"])
def test_what_float32_cannot_factor_or_refine_is_refused(device: Any) -> None:
    p = problem(40)
    with pytest.raises(KernregError, match=r"no Cholesky factor in float32: pivot \d+ .*ridge of about"):
        refined_solve(np.ones((40, 40)), p.y, 1e-9, device)
    with pytest.raises(KernregError, match="give"):
        refined_solve(p.K, p.y[:-1], 1.0, device)
    with pytest.raises(KernregError, match="finite number"):
        refined_solve(p.K, p.y, -1.0, device)
    zero = refined_solve(p.K, 0 * p.y, 1.0, device)
    np.testing.assert_array_equal(zero.value, 0 * p.y)
