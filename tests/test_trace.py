"""XTrace against traces: exact where it must be, unbiased, an error that is its own; degrees of freedom and GCV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grams import digits_ntk, laplace, with_eigenvalues

from kernreg.cg import ConjugateGradients
from kernreg.curve import learning_curve
from kernreg.errors import KernregError
from kernreg.operators import Dense
from kernreg.trace import Estimate, degrees_of_freedom, gcv, trace_of_inverse, xtrace


def test_the_estimate_is_unbiased_and_knows_its_error() -> None:
    A = with_eigenvalues(1 / np.arange(1.0, 61) ** 0.7)
    runs = [xtrace(lambda V: A @ V, 60, 12, seed) for seed in range(200)]
    errors = np.array([run.value - np.trace(A) for run in runs])
    claimed = np.array([run.error for run in runs])
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(len(runs))
    assert 0.5 < np.sqrt(np.square(errors).mean() / np.square(claimed).mean()) < 2


def test_it_is_exact_for_few_rows_and_nearly_for_low_rank() -> None:
    A = laplace(9)
    assert xtrace(lambda V: A @ V, 9, 12) == Estimate(float(np.trace(A)), 0.0)
    low = with_eigenvalues(np.r_[np.ones(5), np.full(95, 1e-9)])
    estimate = xtrace(lambda V: low @ V, 100, 12)
    np.testing.assert_allclose(estimate.value, np.trace(low), rtol=1e-8)
    with pytest.raises(KernregError, match="at least 2 probes"):
        xtrace(lambda V: V, 9, 1)


def test_it_beats_plain_averaging_of_as_many_products() -> None:
    A = with_eigenvalues(np.exp(-np.arange(80.0) / 4))
    exact = np.trace(A)
    ours, plain = [], []
    for seed in range(40):
        ours.append(xtrace(lambda V: A @ V, 80, 20, seed).value - exact)
        Z = np.random.default_rng(1000 + seed).choice([-1.0, 1.0], size=(80, 40))
        plain.append(np.einsum("nk,nk->", Z, A @ Z) / 40 - exact)
    assert np.square(ours).mean() < np.square(plain).mean() / 10


@pytest.mark.parametrize("rank", [0, None])
def test_trace_of_inverse_degrees_of_freedom_and_gcv_of_a_real_kernel(
    rank: int | None, tmp_path: Path
) -> None:
    K, Y = digits_ntk(200)
    ridge = 1e-2 * float(K.diagonal().mean())
    A = K + ridge * np.eye(200)
    exact = float(np.trace(np.linalg.inv(A)))
    solver = ConjugateGradients(rank=rank, checkpoint=tmp_path / "unused")
    trace = trace_of_inverse(Dense(K), ridge, solver, probes=30)
    assert not (tmp_path / "unused").exists()
    assert abs(trace.value - exact) < 5 * trace.error
    assert trace.error < 0.05 * exact
    dof = degrees_of_freedom(200, ridge, trace)
    assert abs(dof.value - np.trace(K @ np.linalg.inv(A))) < 5 * dof.error
    curve = learning_curve(K, Y, K[:5], Y[:5], ridge)
    assert curve.gcv is not None
    score = gcv(np.linalg.solve(A, Y), trace)
    energy = np.square(Y).sum() / 200
    assert abs(score.value / energy - curve.gcv[-1]) < 5 * score.error / energy


def test_a_solve_that_fails_is_not_a_trace() -> None:
    with pytest.raises(KernregError, match="not converged"):
        trace_of_inverse(Dense(laplace(50)), 1e-9, ConjugateGradients(rank=0, max_iterations=2), probes=4)
