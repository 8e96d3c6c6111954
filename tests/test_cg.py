"""Conjugate gradients against LAPACK: columns, starts, statuses, eigenvalues, the preconditioner's gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from grams import digits_ntk, laplace, with_eigenvalues
from scipy.sparse.linalg import cg as scipy_cg
from tolerances import solved

from kernreg.cg import REFRESH, ConjugateGradients
from kernreg.cholesky import Matrix
from kernreg.errors import KernregError
from kernreg.operators import Dense, Rows
from kernreg.solution import Solution, Status

EPS = float(np.finfo(np.float64).eps)
RTOL = 1e-10
PLAIN, RANKED = ConjugateGradients(rtol=RTOL, rank=0), ConjugateGradients(rtol=RTOL, rank=15)


def right_hand_sides(n: int, c: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, c))


def residuals(K: np.ndarray, X: np.ndarray, B: np.ndarray, ridge: float) -> np.ndarray:
    R = B - K @ X - ridge * X
    return np.asarray(np.linalg.norm(R, axis=0) / np.linalg.norm(B, axis=0))


@pytest.mark.parametrize("solver", [PLAIN, RANKED], ids=["plain", "preconditioned"])
@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize(("n", "c"), [(1, 1), (2, 3), (31, 1), (60, 4)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_solution_is_that_of_lapack(
    solver: ConjugateGradients, ridge: float, n: int, c: int, dtype: type
) -> None:
    K: np.ndarray = laplace(n).astype(dtype)
    B = right_hand_sides(n, c)
    solution = solver.solve(Dense(K), B, ridge)
    A = K.astype(np.float64) + ridge * np.eye(n)
    exact = np.linalg.solve(A, B)
    assert solution.ok, solution.message
    assert solution.value.shape == (n, c)
    assert np.linalg.norm(solution.value - exact) <= solved(A, RTOL) * np.linalg.norm(exact)
    measured = residuals(K.astype(np.float64), solution.value, B, ridge)
    assert measured.max() <= RTOL
    np.testing.assert_allclose(solution.stats.residuals, measured, atol=n * EPS * np.linalg.cond(A))
    assert solution.stats.ridge == ridge
    np.testing.assert_allclose(solution.stats.relative_ridge, ridge / K.diagonal().mean(dtype=np.float64))


def test_columns_converge_each_in_its_own_time() -> None:
    e = np.geomspace(1e-4, 1, 50)
    K = with_eigenvalues(e)
    vectors = np.linalg.eigh(K)[1]
    B = np.column_stack(
        [vectors[:, 0], right_hand_sides(50, 1)[:, 0], np.zeros(50), vectors[:, 3] + vectors[:, 40]]
    )
    solution = PLAIN.solve(Dense(K), B, 0.0)
    one, many, zero, two = solution.stats.iterations
    assert solution.ok
    assert (one, zero) == (1, 0)
    assert 2 <= two < many
    np.testing.assert_array_equal(solution.value[:, 2], 0)
    assert solution.stats.residuals[2] == 0


def test_a_column_does_not_depend_on_its_company() -> None:
    K, B = laplace(40), right_hand_sides(40, 3)
    together = PLAIN.solve(Dense(K), B, 1e-3)
    for j in range(3):
        alone = PLAIN.solve(Dense(K), B[:, j : j + 1], 1e-3)
        assert alone.stats.iterations[0] == together.stats.iterations[j]
        np.testing.assert_allclose(alone.value[:, 0], together.value[:, j], rtol=1e-6)


def test_plain_iterations_are_those_of_scipy() -> None:
    K, B = laplace(60), right_hand_sides(60, 1)
    steps = 0

    def count(_: object) -> None:
        nonlocal steps
        steps += 1

    scipy_cg(K + 1e-2 * np.eye(60), B[:, 0], rtol=RTOL, callback=count)
    assert abs(int(PLAIN.solve(Dense(K), B, 1e-2).stats.iterations[0]) - steps) <= 1


def test_the_preconditioner_saves_four_iterations_of_five_on_digits() -> None:
    K, Y = digits_ntk(1437)
    ridge = 1e-6 * float(K.diagonal().mean())
    plain, ranked = (ConjugateGradients(rtol=1e-8, rank=rank).solve(Dense(K), Y, ridge) for rank in (0, None))
    assert plain.ok
    assert ranked.ok
    assert max(residuals(K, ranked.value, Y, ridge)) <= 1e-8
    assert ranked.stats.iterations.max() * 5 <= plain.stats.iterations.max()
    low, high = ranked.stats.preconditioned or (0.0, np.inf)
    assert high / low < 50
    assert (plain.stats.eigenvalues or (1.0, 0.0))[1] > 1e3


def test_a_start_at_the_solution_is_done_and_one_nearby_is_nearer() -> None:
    K, B = laplace(80), right_hand_sides(80, 2)
    cold = PLAIN.solve(Dense(K), B, 1e-3)
    at = PLAIN.solve(Dense(K), B, 1e-3, start=cold.value)
    assert at.ok
    assert at.stats.iterations.max() == 0
    near = PLAIN.solve(Dense(K), B, 1e-3, start=cold.value * (1 + 1e-6))
    assert near.ok
    assert near.stats.iterations.max() < cold.stats.iterations.max()


def test_too_few_iterations_say_how_far_they_came() -> None:
    K, B = laplace(60), right_hand_sides(60, 2)
    solution = replace(PLAIN, max_iterations=3).solve(Dense(K), B, 1e-6)
    assert solution.status is Status.MAX_ITERATIONS
    measured = residuals(K, solution.value, B, 1e-6)
    np.testing.assert_allclose(solution.stats.residuals, measured, rtol=1e-6)
    assert f"{measured.max():.1e} after 3 iterations" in solution.message
    assert "allow more iterations" in solution.message
    with pytest.raises(KernregError, match="not converged"):
        solution.require()


def test_enough_iterations_that_were_not_confirmed_count() -> None:
    """The last iteration reaches the tolerance, and its true residual is measured although the limit is reached."""
    K, B = laplace(30), right_hand_sides(30, 1)
    whole = PLAIN.solve(Dense(K), B, 0.1)
    exactly = replace(PLAIN, max_iterations=int(whole.stats.iterations[0])).solve(Dense(K), B, 0.1)
    assert exactly.ok


def test_more_than_float64_has_is_stagnation() -> None:
    K, B = with_eigenvalues(np.geomspace(1e-5, 1, 40)), right_hand_sides(40, 2)
    solution = ConjugateGradients(rtol=1e-15, rank=0, max_iterations=3000).solve(Dense(K), B, 0.0)
    assert solution.status is Status.STAGNATED
    assert "rounding keeps it there" in solution.message
    assert 1e-15 < solution.stats.residuals.max() < 1e-4
    assert np.isfinite(solution.value).all()


@pytest.mark.parametrize("rank", [0, 10])
@pytest.mark.parametrize("smallest", [-0.3, -1e-4])
def test_negative_curvature_is_named_with_a_ridge_that_is_enough(rank: int, smallest: float) -> None:
    e = np.geomspace(1e-3, 1.0, 40)
    e[0] = smallest
    K, B = with_eigenvalues(e), right_hand_sides(40, 2)
    solution = ConjugateGradients(rank=rank).solve(Dense(K), B, 0.0)
    assert solution.status is Status.NOT_POSITIVE_DEFINITE
    assert "negative curvature" in solution.message
    assert "\n" not in solution.message
    enough = solution.stats.enough_ridge
    assert enough is not None
    assert abs(smallest) < enough < 10 * abs(smallest)
    assert np.isfinite(solution.value).all()
    assert np.isfinite(solution.stats.residuals).all()
    low, _ = solution.stats.eigenvalues or (0.0, 0.0)
    np.testing.assert_allclose(low, smallest, rtol=0.1)
    assert ConjugateGradients(rank=rank).solve(Dense(K), B, enough).ok


@pytest.mark.parametrize("rank", [0, 3])
def test_a_singular_matrix_and_a_target_outside_its_range(rank: int) -> None:
    K = np.ones((12, 12))
    solution = ConjugateGradients(rank=rank, max_iterations=500).solve(Dense(K), np.eye(12)[:, :1], 0.0)
    assert not solution.ok
    assert np.isfinite(solution.value).all()


@pytest.mark.parametrize("rank", [0, 30])
def test_eigenvalues_are_estimated_from_inside(rank: int) -> None:
    K, B = laplace(90), right_hand_sides(90, 2)
    e = np.linalg.eigvalsh(K + 1e-2 * np.eye(90))
    low, high = ConjugateGradients(rtol=RTOL, rank=rank).solve(Dense(K), B, 1e-2).stats.eigenvalues or (
        0.0,
        0.0,
    )
    np.testing.assert_allclose(high, e[-1], rtol=1e-3)
    assert e[0] * (1 - 1e-6) <= low <= (1.2 * e[0] if rank == 0 else e[-1])


def test_tiny_and_huge_matrices_are_as_good_as_others() -> None:
    K, B = laplace(30), right_hand_sides(30, 1)
    usual = RANKED.solve(Dense(K), B, 1e-3)
    for scale in (1e-100, 1e100):
        scaled = RANKED.solve(Dense(K * scale), B, 1e-3 * scale)
        assert scaled.ok
        np.testing.assert_allclose(scaled.value * scale, usual.value, rtol=1e-5)


class Noisy:
    """An operator that rounds its products to float32, as a device might."""

    def __init__(self, K: np.ndarray) -> None:
        self._K, self.n = Dense(K), len(K)

    def matmul(self, V: Matrix) -> Matrix:
        return (self._K @ V).astype(np.float32).astype(np.float64)

    def __matmul__(self, V: Matrix) -> Matrix:
        return self.matmul(V)

    def diagonal(self) -> Matrix:
        return self._K.diagonal()

    def columns(self, rows: Rows) -> Matrix:
        return self._K.columns(rows)


def test_products_of_low_precision_stagnate_where_they_must_and_converge_where_they_can() -> None:
    K, B = laplace(60), right_hand_sides(60, 2)
    fine = replace(RANKED, rtol=1e-4).solve(Noisy(K), B, 1e-2)
    assert fine.ok
    assert residuals(K, fine.value, B, 1e-2).max() < 1e-3
    coarse = replace(RANKED, rtol=1e-12).solve(Noisy(K), B, 1e-2)
    assert coarse.status is Status.STAGNATED


class Broken(Noisy):
    def matmul(self, V: Matrix) -> Matrix:
        out = self._K @ V
        out[7] = np.nan
        return out


def test_a_product_that_is_not_finite_is_named() -> None:
    with pytest.raises(KernregError, match="row 7 of the product"):
        PLAIN.solve(Broken(laplace(20)), right_hand_sides(20, 1), 0.1)


def test_progress_counts_iterations_and_expects_an_end() -> None:
    calls: list[tuple[int, int, float]] = []
    K, B = laplace(80), right_hand_sides(80, 2)
    solution = PLAIN.solve(Dense(K), B, 1e-2, progress=lambda *seen: calls.append(seen))
    done = [seen[0] for seen in calls]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == solution.stats.iterations.max()
    assert all(first <= total <= PLAIN.max_iterations for first, total, _ in calls)
    middle = calls[len(calls) // 2]
    assert middle[0] < middle[1] < 10 * done[-1]
    assert len(calls) > REFRESH


@pytest.mark.parametrize("wrong", [{"rtol": 0.0}, {"rtol": 2.0}, {"max_iterations": 0}, {"rank": -1}])
def test_tolerances_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(KernregError, match="conjugate gradients need"):
        ConjugateGradients(**wrong)  # type: ignore[arg-type]


def test_solution_as_json() -> None:
    import json

    solution: Solution = RANKED.solve(Dense(laplace(9)), right_hand_sides(9, 2), 0.1)
    facts = json.loads(json.dumps(solution.stats.to_dict()))
    assert facts["solver"] == "cg"
    assert len(facts["residuals"]) == 2
