"""Randomly pivoted Cholesky: interpolation, the law of its pivots, its error; the Woodbury form against the inverse."""

from __future__ import annotations

import numpy as np
import pytest
from grams import digits_ntk, laplace, with_eigenvalues
from hypothesis import given, settings
from hypothesis import strategies as st

from kernreg.errors import KernregError
from kernreg.operators import Dense
from kernreg.preconditioner import BLOCK, default_rank, pivoted_factor, preconditioner

EPS = float(np.finfo(np.float64).eps)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 90), rank=st.integers(0, 100), seed=st.integers(0, 5))
def test_the_factor_interpolates_at_its_pivots(n: int, rank: int, seed: int) -> None:
    K = laplace(n)
    F, pivots, left = pivoted_factor(Dense(K), rank, seed)
    assert F.shape == (n, min(rank, n))
    assert len(set(pivots.tolist())) == len(pivots) == F.shape[1]
    tolerance = 1e3 * n * EPS
    np.testing.assert_allclose((F @ F.T)[:, pivots], K[:, pivots], atol=tolerance)
    rest = K - F @ F.T
    assert np.linalg.eigvalsh(rest)[0] > -tolerance
    np.testing.assert_allclose(left, np.trace(rest), atol=tolerance * n)


def test_pivots_follow_the_diagonal_of_what_is_left() -> None:
    """All ordered pairs of pivots of a 4×4 matrix, against the law of the algorithm that draws one at a time."""
    K = with_eigenvalues(np.array([3.0, 1.0, 0.3, 0.1]))
    runs = 4000
    counts = np.zeros((4, 4))
    for seed in range(runs):
        _, (first, second), _ = pivoted_factor(Dense(K, checked=True), 2, seed)
        counts[first, second] += 1
    law = np.zeros((4, 4))
    for i in range(4):
        rest = np.maximum((K - np.outer(K[i], K[i]) / K[i, i]).diagonal(), 0)
        law[i] = K[i, i] / np.trace(K) * rest / rest.sum()
    off = ~np.eye(4, dtype=bool)
    deviations = (counts - runs * law)[off] / np.sqrt(runs * law[off])
    assert np.square(deviations).sum() < 11 + 6 * np.sqrt(22)  # χ² of 11 degrees, six standard deviations


def test_the_trace_error_is_near_that_of_the_best_rank() -> None:
    K, _ = digits_ntk(300)
    e = np.linalg.eigvalsh(K)[::-1]
    rank = 60
    _, _, left = pivoted_factor(Dense(K), rank)
    assert left < 3 * e[rank:].sum()
    assert left > e[rank:].sum()


def test_several_rounds_and_the_same_seed_give_the_same_factor() -> None:
    K = laplace(3 * BLOCK[0])
    rank = 2 * BLOCK[0] + 5
    one, two, other = (pivoted_factor(Dense(K), rank, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one[0], two[0])
    assert one[1].tolist() == two[1].tolist() != other[1].tolist()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rank_stops_where_nothing_is_left(dtype: type) -> None:
    G = np.random.default_rng(0).standard_normal((80, 7))
    K = np.vstack([G, G])  # rank 7, every row twice
    K = (K @ K.T).astype(dtype)
    F, pivots, left = pivoted_factor(Dense(K), 160, enough=80 * float(np.finfo(dtype).eps) * np.trace(K))
    assert 7 <= len(pivots) <= (7 if dtype is np.float64 else 40)
    assert np.isfinite(F).all()
    assert left <= 80 * np.finfo(dtype).eps * np.trace(K)


@pytest.mark.parametrize("ridge", [1e-1, 1e-6, 0.0])
@pytest.mark.parametrize("rank", [0, 1, 20, 70])
def test_woodbury_is_the_inverse(ridge: float, rank: int) -> None:
    K = laplace(70)
    P = preconditioner(Dense(K), ridge, rank, seed=3)
    F, pivots, _ = pivoted_factor(Dense(K), rank, seed=3, enough=max(0.1 * ridge, 70 * EPS * np.trace(K)))
    assert P.pivots.tolist() == pivots.tolist()
    R = np.random.default_rng(0).standard_normal((70, 3))
    if P.rank == 0:
        np.testing.assert_array_equal(P.apply(R), R)
        return
    exact = P.μ * np.linalg.solve(F @ F.T + P.μ * np.eye(70), R)
    condition = (P.largest + P.μ) / P.μ
    np.testing.assert_allclose(P.apply(R), exact, atol=70 * EPS * condition)
    assert P.μ >= ridge
    np.testing.assert_allclose(P.largest, np.linalg.norm(F, 2) ** 2)
    assert np.linalg.eigvalsh(P.D)[-1] < 1


def test_it_takes_the_condition_out_of_a_real_kernel() -> None:
    K, _ = digits_ntk(300)
    A = K + 1e-6 * K.diagonal().mean() * np.eye(300)
    P = preconditioner(Dense(K), 1e-6 * K.diagonal().mean(), 100)
    B = P.apply(A)
    e = np.linalg.eigvals(B).real
    assert e.max() / e.min() < np.linalg.cond(A) / 20


def test_zero_rank_deficient_and_broken_matrices() -> None:
    assert preconditioner(Dense(np.zeros((3, 3))), 1.0, 3).rank == 0
    indefinite = preconditioner(Dense(np.diag([1.0, -1.0, 2.0])), 0.1, 3)
    assert np.linalg.eigvalsh(indefinite.apply(np.eye(3)))[0] > 0
    broken = laplace(5)
    broken[0, 1] = broken[1, 0] = np.nan
    with pytest.raises(KernregError, match="is not finite"):
        preconditioner(Dense(broken, checked=True), 0.1, 5)
    broken[2, 2] = np.inf
    with pytest.raises(KernregError, match=r"K\[2, 2\] is inf"):
        preconditioner(Dense(broken, checked=True), 0.1, 5)


def test_default_rank() -> None:
    assert [default_rank(n) for n in (1, 2, 100, 10_000, 10**6)] == [0, 1, 50, 800, 2000]
