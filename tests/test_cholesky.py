"""The factor against NumPy, and what it says when there is none."""

import re

import numpy as np
import pytest

from kernreg import cholesky
from kernreg.cholesky import EPS, NotPositiveDefiniteError, factor, factor_in_place, forward, invert, solve
from kernreg.errors import KernregError

SIZES = [1, 2, 31, 511, 513]


def laplace(n: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, 3))
    return np.asarray(np.exp(-np.sqrt(np.square(x[:, None] - x[None]).sum(-1))))


def with_eigenvalues(e: np.ndarray, seed: int = 0) -> np.ndarray:
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(e), len(e))))
    K = (Q * e) @ Q.T
    return np.asarray((K + K.T) / 2)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factor_solve_and_inverse(n: int, dtype: type) -> None:
    K: np.ndarray = laplace(n).astype(dtype)
    A = K.astype(np.float64) + 1e-3 * np.eye(n)
    B = np.random.default_rng(1).standard_normal((n, 3))
    L = factor(K, 1e-3)
    lower = np.tril(L)
    tolerance = 10 * n * EPS * np.linalg.cond(A)
    assert L.dtype == np.float64
    assert L.flags.c_contiguous
    np.testing.assert_allclose(lower @ lower.T, A, atol=10 * n * EPS)
    np.testing.assert_allclose(lower @ forward(L, B), B, atol=tolerance)
    np.testing.assert_allclose(A @ solve(L, B), B, atol=tolerance)
    np.testing.assert_allclose(np.tril(invert(L)) @ lower, np.eye(n), atol=tolerance)
    np.testing.assert_array_equal(np.triu(L, 1), np.triu(K, 1))


@pytest.mark.parametrize("n", SIZES)
def test_overwrite_works_in_the_callers_array_and_only_then(n: int) -> None:
    K = laplace(n)
    before = K.copy()
    assert not np.shares_memory(factor(K, 0.1), K)
    np.testing.assert_array_equal(K, before)
    L = factor(K, 0.1, overwrite=True)
    assert np.shares_memory(L, K)
    assert np.shares_memory(invert(L), K)
    fixed = laplace(n)
    fixed.flags.writeable = False
    np.testing.assert_array_equal(np.tril(factor(fixed, 0.1, overwrite=True)), np.tril(factor(before, 0.1)))


@pytest.mark.parametrize("lanczos", [False, True])
@pytest.mark.parametrize(
    ("smallest", "scale"), [(-1e-9, 1.0), (-0.3, 1.0), (-2.0, 1e6), (-1e-7, 1e-6), (-5.0, 1e-3), (0.0, 1.0)]
)
def test_the_ridge_that_is_named_is_enough(
    smallest: float, scale: float, lanczos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cholesky, "DENSE_EIGENVALUE_ROWS", 0 if lanczos else 4000)
    e = np.geomspace(1e-3, 1.0, 40) * scale
    e[:2] = smallest * scale, smallest * scale / 2
    K = with_eigenvalues(e)
    with pytest.raises(NotPositiveDefiniteError, match="not positive definite") as caught:
        factor(K, 0.0)
    absolute, relative = (
        float(m) for m in re.findall(r"ridge = ([\d.e+-]+) \(([\d.e+-]+) of the mean", str(caught.value))[0]
    )
    assert absolute == caught.value.ridge
    assert absolute <= max(8 * abs(smallest) * scale, 1e-12 * scale)
    for ridge in (absolute, relative * np.abs(K.diagonal()).mean()):
        lower = np.tril(factor(K, ridge))
        np.testing.assert_allclose(lower @ lower.T, K + ridge * np.eye(40), atol=1e-12 * (scale + ridge))


def test_a_ridge_that_was_too_small_is_answered_by_a_larger_one() -> None:
    K = with_eigenvalues(np.r_[-1.0, np.ones(9)])
    with pytest.raises(NotPositiveDefiniteError) as caught:
        factor(K, 0.5)
    assert caught.value.ridge > 0.5
    factor(K, caught.value.ridge)


@pytest.mark.parametrize(("first", "second"), [(3, 20), (0, 1), (0, 39)])
def test_a_repeated_row_is_named_both_ways(first: int, second: int) -> None:
    K = laplace(40)
    K[second], K[:, second] = K[first], K[:, first]
    K[second, second] = K[first, first]
    with pytest.raises(
        NotPositiveDefiniteError, match=rf"pivot {second + 1} \(counting from 1; row {second}"
    ) as caught:
        factor(K)
    assert (caught.value.pivot, caught.value.row) == (second + 1, second)


def test_a_pivot_below_rounding_is_refused_though_lapack_accepts_it() -> None:
    K = np.array([[1.0, 1.0], [1.0, 1.0 + 2 * EPS]])
    assert np.isfinite(np.linalg.cholesky(K)).all()
    assert factor_in_place(K.copy(), K.diagonal().copy()) == 2


def test_a_zero_matrix_needs_only_some_ridge() -> None:
    np.testing.assert_allclose(factor(np.zeros((3, 3)), 4.0), 2 * np.eye(3))
    with pytest.raises(NotPositiveDefiniteError) as caught:
        factor(np.zeros((3, 3)))
    factor(np.zeros((3, 3)), caught.value.ridge)


def changed(row: int, column: int, value: float) -> np.ndarray:
    K = laplace(600)
    K[row, column] = value
    return K


@pytest.mark.parametrize(
    ("K", "message"),
    [
        (np.ones((3, 4)), r"square \(n, n\).*\(3, 4\)"),
        (np.ones(3), "square"),
        (np.ones((0, 0)), "square"),
        (changed(599, 2, np.nan), r"K\[599, 2\] is nan"),
        (changed(5, 550, -np.inf), r"K\[5, 550\] is -inf"),
        (changed(550, 5, 3.0), r"not symmetric: K\[5, 550\] and K\[550, 5\] differ by"),
        (changed(530, 599, 3.0), r"not symmetric: K\[530, 599\] and K\[599, 530\]"),
        (np.eye(3) * 1j, "real numbers"),
        (np.array([["a"]]), "real numbers"),
    ],
)
def test_what_is_not_a_gram_matrix_is_refused(K: np.ndarray, message: str) -> None:
    with pytest.raises(KernregError, match=message) as caught:
        factor(K, 1.0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ridge", [-1e-9, np.nan, np.inf])
def test_a_ridge_out_of_range_is_refused(ridge: float) -> None:
    with pytest.raises(KernregError, match="finite number ≥ 0"):
        factor(np.eye(2), ridge)


def test_the_asymmetry_of_float32_arithmetic_is_no_error() -> None:
    K = laplace(50)
    K[3, 7] *= 1 + 3e-7
    factor(K, 1e-3)
