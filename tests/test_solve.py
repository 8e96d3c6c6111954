"""solve: every solver against LAPACK, automatic choice, budgets, and statuses that name cause and remedy."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import columnmajor
import numpy as np
import pytest
import stores
from grams import laplace, with_eigenvalues
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import cho_factor, cho_solve
from tolerances import solved

from kernreg.cg import ConjugateGradients
from kernreg.device import HOST
from kernreg.directsolvers import Cholesky
from kernreg.duplicates import duplicate_rows, duplicates_sentence
from kernreg.errors import KernregError
from kernreg.operators import Dense, Stored
from kernreg.plan import PROCESS_BYTES
from kernreg.solution import Solver, Status
from kernreg.solve import SOLVERS, choose, solve, solve_store

TIGHT: dict[str, Solver] = {
    "cholesky": Cholesky(),
    "cg": ConjugateGradients(rtol=1e-11),
    "cg plain": ConjugateGradients(rtol=1e-11, rank=0),
}


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    c=st.integers(1, 3),
    exponent=st.floats(-4, 0),
    solver=st.sampled_from(sorted(TIGHT)),
    seed=st.integers(0, 3),
)
def test_every_solver_solves(n: int, c: int, exponent: float, solver: str, seed: int) -> None:
    K, Y = laplace(n, seed), np.random.default_rng(seed).standard_normal((n, c))
    ridge = 10.0**exponent
    solution = solve(Dense(K), Y, TIGHT[solver], ridge)
    A = K + ridge * np.eye(n)
    exact = cho_solve(cho_factor(A), Y)
    assert solution.ok
    assert np.linalg.norm(solution.value - exact) <= solved(A, 1e-11) * np.linalg.norm(exact)
    assert solution.stats.residuals.shape == (c,)
    assert solution.stats.residuals.max() <= max(1e-11, n * 1e-15)


@pytest.mark.parametrize("solver", TIGHT)
def test_shapes_follow_the_targets_and_scale_is_taken_out(solver: str) -> None:
    K, y = laplace(20), np.sin(np.arange(20.0))
    usual = solve(Dense(K), y, TIGHT[solver], 1e-2)
    assert usual.value.shape == (20,)
    assert usual.stats.iterations.shape == (1,)
    for scale in (1e-250, 1e250):
        scaled = solve(Dense(K), y * scale, TIGHT[solver], 1e-2)
        assert scaled.ok
        np.testing.assert_allclose(scaled.value / scale, usual.value, rtol=1e-9)
    nothing = solve(Dense(K), np.zeros((20, 2)), TIGHT[solver], 1e-2)
    assert nothing.ok
    np.testing.assert_array_equal(nothing.value, 0)
    np.testing.assert_array_equal(nothing.stats.residuals, 0)


@pytest.mark.parametrize("solver", TIGHT)
def test_the_ridge_is_absolute_or_relative_and_never_silent(solver: str) -> None:
    K, Y = 7 * laplace(20), np.ones((20, 1))
    relative = solve(Dense(K), Y, TIGHT[solver], 1e-2, "relative")
    absolute = solve(Dense(K), Y, TIGHT[solver], 0.07)
    np.testing.assert_allclose(relative.value, absolute.value, rtol=1e-8)
    for solution in (relative, absolute):
        np.testing.assert_allclose(solution.stats.ridge, 0.07)
        np.testing.assert_allclose(solution.stats.relative_ridge, 0.01)


def test_eigenvalues_of_a_direct_solve() -> None:
    K = with_eigenvalues(np.geomspace(1e-3, 2.0, 50))
    low, high = solve(Dense(K), np.ones(50), "cholesky", 0.0).stats.eigenvalues or (0.0, 0.0)
    np.testing.assert_allclose((low, high), (1e-3, 2.0), rtol=0.02)


@pytest.mark.parametrize("solver", TIGHT)
def test_indefinite_is_a_status_with_a_ridge_that_is_enough(solver: str) -> None:
    K, Y = with_eigenvalues(np.r_[-0.2, np.geomspace(1e-2, 1, 30)]), np.ones((31, 2))
    solution = solve(Dense(K), Y, TIGHT[solver], 0.0)
    assert solution.status is Status.NOT_POSITIVE_DEFINITE
    assert "not positive definite" in solution.message
    assert np.isfinite(solution.value).all()
    enough = solution.stats.enough_ridge
    assert enough is not None
    assert 0.2 <= enough < 2
    assert f"ridge = {enough:.2g}" in solution.message
    assert solve(Dense(K), Y, TIGHT[solver], enough).ok


def twins(folder: Path) -> Stored:
    every = stores.rows()
    x = every["x_train"].copy()
    x[[9, 20]] = x[4]
    x[11] = x[2]
    store = stores.made(folder / "twins.gram", kernels=("ntk",), **{**every, "x_train": x})
    for part, tile in store.missing():
        z = x if part == "train" else every["x_test"]
        store.write(part, tile, {"ntk": (np.einsum("id,jd->ij", z, x) ** 3)[tile.rows, tile.columns]})
    return Stored(store, "ntk")


def test_duplicate_rows_are_named(tmp_path: Path) -> None:
    operator = twins(tmp_path)
    store = operator.store
    assert duplicate_rows(store) == [[2, 11], [4, 9, 20]]
    assert duplicate_rows(store, 11) == [[4, 9]]
    assert duplicate_rows(store, 5) == []
    assert duplicates_sentence(store, 5) == ""
    named = "2 = 11 (of the data set: 1002 = 1011), 4 = 9 = 20 (of the data set: 1004 = 1009 = 1020)"
    assert f"training rows {named} are the same input" in duplicates_sentence(store)
    solution = solve(operator, store.y_train, "cholesky", 0.0)
    assert solution.status is Status.NOT_POSITIVE_DEFINITE
    assert "2 = 11" in solution.message
    assert solve(operator, store.y_train, "cholesky", 1e-3).ok


def test_many_duplicates_are_counted(tmp_path: Path) -> None:
    every = stores.rows()
    x = np.repeat(every["x_train"][:5], 4, axis=0)
    given = {key: value[:20] if key.endswith("train") else value for key, value in every.items()}
    store = stores.made(tmp_path / "many.gram", **{**given, "x_train": x})
    assert len(duplicate_rows(store)) == 5
    assert "0 = 1 = 2 = …" in duplicates_sentence(store)
    assert "and 2 groups more" in duplicates_sentence(store)


def test_auto_takes_a_factor_where_it_fits_and_says_why() -> None:
    K, Y = laplace(30), np.ones((30, 1))
    direct = solve(Dense(K), Y, "auto", 0.1, memory=PROCESS_BYTES + 4 * 8 * 900)
    assert direct.stats.solver == "cholesky"
    assert "within the" in direct.stats.why
    tight = solve(Dense(K), Y, "auto", 0.1, memory=PROCESS_BYTES + 8 * 900)
    assert tight.stats.solver == "cg"
    assert "more than the" in tight.stats.why
    np.testing.assert_allclose(tight.value, direct.value, atol=1e-7)  # cond 300, rtol 1e-8
    assert solve(Dense(K), Y, "cg", 0.1).stats.why == ""
    assert choose(10**7)[0] == "cg"
    assert choose(10)[0] == "cholesky"
    assert set(SOLVERS) >= {"cholesky", "cg"}


@pytest.mark.parametrize("solver", ["cholesky", "cg", "tiled"])
def test_a_store_is_solved_within_its_budget(solver: str, tmp_path: Path) -> None:
    store = stores.filled(stores.made(tmp_path / "a.gram", dtype="float32"))
    K = store.train("ntk", 17)
    solution = solve_store(store, "ntk", 17, solver, 0.5, memory=PROCESS_BYTES + 2**20)
    exact = np.linalg.solve(K + 0.5 * np.eye(17), store.y_train[:17])
    assert solution.ok
    np.testing.assert_allclose(solution.value, exact, rtol=1e-6)
    assert list(tmp_path.iterdir()) == [store.path]
    if solver == "cholesky":
        spilled = solve_store(store, "ntk", 17, solver, 0.5, memory=PROCESS_BYTES)
        assert spilled.stats.solver == "tiled"
        assert "goes to disk" in spilled.stats.why
        np.testing.assert_allclose(spilled.value, exact, rtol=1e-6)
    else:
        with pytest.raises(KernregError, match=r"needs about .* use --memory"):
            solve_store(store, "ntk", 17, solver, 0.5, memory=PROCESS_BYTES if solver == "cg" else 2**20)
    chosen = solve_store(store, n=17, ridge=0.5)
    assert chosen.stats.solver == "cholesky"
    assert "three quarters of this machine" in chosen.stats.why
    with pytest.raises(KernregError, match="unknown solver 'lu'"):
        solve_store(store, solver="lu")


def test_the_budget_of_conjugate_gradients_is_kept_and_spent(tmp_path: Path) -> None:
    """Arrays allocated during a solve, against what the budget leaves beside the interpreter and its libraries."""
    tile, n = 200, 1000
    x = np.random.default_rng(0).standard_normal((n, 3))
    K = np.exp(-np.sqrt(np.square(x[:, None] - x[None]).sum(-1))).astype(np.float32)
    given: dict[str, Any] = {"x_train": x, "y_train": x[:, :2], "x_test": x[:0], "y_test": x[:0, :2]}
    given |= dict.fromkeys(("labels_train", "labels_test", "rows_train", "rows_test"))
    store = stores.made(tmp_path / "a.gram", dtype="float32", kernels=("ntk",), tile=tile, **given)
    for part, place in store.missing():
        store.write(part, place, {"ntk": K[place.rows, place.columns]})
    iteration = ConjugateGradients(rank=40)
    allowed = 12 * 2**20
    solve_store(store, ridge=1e-2, solver="cg", memory=PROCESS_BYTES + 20 * 2**20, iteration=iteration)
    tracemalloc.start()
    solution = solve_store(
        store, ridge=1e-2, solver="cg", memory=PROCESS_BYTES + allowed, iteration=iteration
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert solution.ok
    assert allowed / 8 < peak <= allowed


@pytest.mark.parametrize(
    ("Y", "given", "message"),
    [
        (np.ones(4), {}, "3 rows but Y has 4"),
        (np.full(3, np.nan), {}, "Y has NaN or infinity at row 0"),
        (np.ones((3, 1, 1)), {}, "must have shape"),
        (np.array(["a", "b", "c"]), {}, "real numbers"),
        (np.ones(3), {"ridge": -1.0}, "finite number ≥ 0"),
        (np.ones(3), {"ridge": np.nan}, "finite number ≥ 0"),
        (np.ones(3), {"ridge_mode": "loose"}, "ridge_mode"),
        (np.ones(3), {"solver": "lu"}, "unknown solver 'lu'; use auto, cholesky, tiled, cg"),
        (np.ones(3), {"start": np.ones((3, 2))}, "of the shape of Y"),
        (np.ones(3), {"start": np.full(3, np.inf)}, "start has NaN"),
        (np.ones(3), {"memory": "lots", "solver": "auto"}, "no amount of memory"),
    ],
)
def test_what_does_not_fit_is_refused(Y: np.ndarray, given: dict[str, object], message: str) -> None:
    with pytest.raises(KernregError, match=message) as caught:
        solve(Dense(np.eye(3)), Y, **{"ridge": 0.1, **given})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_relative_ridge_needs_a_diagonal() -> None:
    with pytest.raises(KernregError, match="positive mean diagonal"):
        solve(Dense(np.zeros((2, 2))), np.ones(2), "cg", 0.1, "relative")
    assert solve(Dense(np.zeros((2, 2))), np.ones(2), "cg", 0.5).value.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("n", [1, 17, 61])
def test_a_factor_on_the_gpu_solves_as_one_on_the_host(n: int) -> None:
    K, Y = laplace(n), np.random.default_rng(0).standard_normal((n, 2))
    ours, theirs = (solve(Dense(K), Y, Cholesky(d), 1e-3, probes=4) for d in (columnmajor.cuda(), HOST))
    np.testing.assert_allclose(ours.value, theirs.value, rtol=solved(K + 1e-3 * np.eye(n)))
    for name in ("eigenvalues", "trace", "gcv", "degrees_of_freedom"):
        np.testing.assert_allclose(
            getattr(ours.stats, name), getattr(theirs.stats, name), rtol=1e-9, atol=1e-12
        )
    failed = solve(Dense(np.ones((n + 1, n + 1))), np.ones(n + 1), Cholesky(columnmajor.cuda()), 0.0)
    assert failed.status is Status.NOT_POSITIVE_DEFINITE
