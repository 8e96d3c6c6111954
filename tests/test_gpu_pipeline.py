"""On an NVIDIA GPU: the solve against the host's, and stores that its lanes fill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import images

from kernreg.architecture import Architecture
from kernreg.bench import Case, bench
from kernreg.cholesky import factor
from kernreg.curve import curve_from_store, learning_curve
from kernreg.device import choose, cuda
from kernreg.gram import build
from kernreg.kernels import backends, lanes
from kernreg.refine import refined_solve

pytestmark = pytest.mark.gpu
AGREE = 1e-8  # of two ways to a curve, as in test_curve


def problem(n: int, t: int = 123, c: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n + t, 8))
    squares = np.square(x).sum(1)
    K = np.exp(-np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0)))
    y = np.eye(c)[rng.integers(0, c, n + t)] - 1 / c
    return K[:n, :n].copy(), y[:n], K[n:, :n].copy(), y[n:]


@pytest.mark.parametrize("n", [1, 2, 61, 513, 4097, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_curve_is_that_of_the_host(n: int, dtype: type) -> None:
    K, y, K_test, y_test = problem(n)
    K, K_test = K.astype(dtype), K_test.astype(dtype)
    ours, theirs = (learning_curve(K, y, K_test, y_test, 1e-3, device=d) for d in ("cuda", "cpu"))
    for name in ("loss", "loo", "gcv", "squared_errors"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=AGREE, err_msg=name)
    for a, b in zip(ours.replicates, theirs.replicates, strict=True):
        np.testing.assert_allclose(a.loss, b.loss, rtol=AGREE)


@pytest.mark.parametrize("rule", ["loo", "gcv"])
def test_a_ridge_is_chosen_as_on_the_host(rule: str) -> None:
    arguments = problem(700)
    assert (
        learning_curve(*arguments, ridge=rule, device="cuda").ridge
        == learning_curve(*arguments, ridge=rule).ridge
    )


def test_a_matrix_that_is_not_positive_definite_names_a_ridge_that_is_enough() -> None:
    K, y, K_test, y_test = problem(5000)
    K[4500], K[:, 4500] = K[3], K[:, 3]
    K[4500, 4500] = K[3, 3]
    with pytest.raises(Exception, match=r"pivot 4501 \(counting from 1; row 4500") as caught:
        learning_curve(K, y, K_test, y_test, ridge=0.0, device="cuda")
    factor(K, getattr(caught.value, "ridge", -1.0))


def test_a_float32_factor_is_refined() -> None:
    K, y, *_ = problem(5000)
    solved = refined_solve(cuda().xp.asarray(K, dtype=np.float32), y, 1e-3, cuda())
    A = K.astype(np.float32).astype(np.float64) + 1e-3 * np.eye(5000)
    assert np.linalg.norm(A @ solved.value - y) <= 1e-9 * np.linalg.norm(y)


@pytest.mark.slow
def test_more_entries_than_32_bits_count_are_factored() -> None:
    n = 46_400
    choose("cuda", n, 10)  # says so if the memory does not suffice
    xp = cuda().xp
    u = xp.asarray(np.random.default_rng(0).standard_normal((n, 3)))
    A = u @ u.T
    A.reshape(-1)[:: n + 1] += n
    rows = np.r_[0, 1, n // 2, n - 2, n - 1]
    exact = cuda().get(A[rows])
    L = cuda().factor(A, 0.0, True)
    v = xp.asarray(np.random.default_rng(1).standard_normal((n, 2)))
    solved = cuda().solve(L, v)
    np.testing.assert_allclose(exact @ cuda().get(solved), cuda().get(v)[rows], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_lanes_fill_a_store_with_the_same_bits_again(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend not in backends.MODULES:
        pytest.skip(f"this version has no backend {backend}")
    monkeypatch.setattr("kernreg.plan.SMALLEST", 4)
    monkeypatch.setattr("kernreg.plan.LARGEST", 8)
    architecture = Architecture.vec(depth=2) if backend == "cuda" else Architecture.fcn(depth=2)
    numbers: list[Any] = []
    for name in ("a", "b"):
        store = build(tmp_path / f"{name}.gram", images(), architecture, "both", backend, "float32")
        numbers.append(store.train("ntk"))
    np.testing.assert_array_equal(*numbers)
    exact = build(tmp_path / "c.gram", images(), architecture, "both", "reference", "float64").train("ntk")
    np.testing.assert_allclose(numbers[0], exact, rtol=1e-5)
    assert len(lanes.lanes(backend)) >= 2
    on_gpu = curve_from_store(store, ridge=1e-3, device="cuda")
    np.testing.assert_allclose(on_gpu.loss, curve_from_store(store, ridge=1e-3).loss, rtol=AGREE)


@pytest.mark.parametrize("name", ["vec", "gap", "fcn"])
def test_bench_is_green_and_below_the_bound(name: str) -> None:
    architecture, shape = Architecture.preset(name, depth=3), (16, 16, 3)
    record = bench(
        Case(architecture, shape, "ntk", "float32", backends.resolve("auto", architecture, shape)), 1, 0.05
    )
    assert record.backend in lanes.GPUS
    assert record.share_of_bound is not None
    assert 0 < record.share_of_bound < 1.2
