"""The state of conjugate gradients on disk: kill −9, resume, the same answer; what does not belong is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grams import laplace
from tolerances import solved

from kernreg.cg import ConjugateGradients
from kernreg.cgstate import State, load
from kernreg.errors import KernregError
from kernreg.operators import Dense
from kernreg.solution import Status

CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from kernreg.cg import ConjugateGradients
from kernreg.operators import Dense
K, B = np.load(sys.argv[1]), np.load(sys.argv[2])
class Slow(Dense):
    def matmul(self, V):
        time.sleep(0.02)
        return super().matmul(V)
solver = ConjugateGradients(rtol=1e-10, rank=5, checkpoint=Path(sys.argv[3]), checkpoint_seconds=0)
print("ready", flush=True)
np.save(sys.argv[4], solver.solve(Slow(K), B, 1e-6).value)
"""
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "KERNREG_THREADS": "1", "OMP_NUM_THREADS": "1"}


def problem(n: int = 120, c: int = 3) -> tuple[np.ndarray, np.ndarray]:
    return laplace(n), np.random.default_rng(2).standard_normal((n, c))


def test_killed_and_resumed_gives_the_same_answer(tmp_path: Path) -> None:
    K, B = problem()
    np.save(tmp_path / "K.npy", K)
    np.save(tmp_path / "B.npy", B)
    state, out = tmp_path / "cg.state", tmp_path / "X.npy"
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(tmp_path / "K.npy"),
        str(tmp_path / "B.npy"),
        str(state),
        str(out),
    ]
    kills = 0
    while not out.exists():
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            if kills < 2:
                before = state.stat().st_mtime_ns if state.exists() else 0
                while (state.stat().st_mtime_ns if state.exists() else 0) == before:
                    assert child.poll() is None
                    time.sleep(0.005)
                time.sleep(0.1)
                child.kill()
                kills += 1
                assert child.wait() == -9
                assert not out.exists()
            else:
                assert child.wait() == 0
    uninterrupted = ConjugateGradients(rtol=1e-10, rank=5).solve(Dense(K), B, 1e-6)
    A = K + 1e-6 * np.eye(len(K))
    scale = np.linalg.norm(uninterrupted.value)
    assert np.linalg.norm(np.load(out) - uninterrupted.value) <= 2 * solved(A, 1e-10) * scale
    residual = np.linalg.norm(B - A @ np.load(out), axis=0) / np.linalg.norm(B, axis=0)
    assert residual.max() <= 1e-10


@pytest.mark.parametrize("rank", [0, 12])
@pytest.mark.parametrize("stop", [1, 10, 11, 25])
def test_going_on_is_the_same_to_the_bit(stop: int, rank: int, tmp_path: Path) -> None:
    K, B = problem()
    solver = ConjugateGradients(rtol=1e-9, rank=rank)
    whole = solver.solve(Dense(K), B, 1e-4)
    kept = replace(solver, checkpoint=tmp_path / "cg.state", checkpoint_seconds=0)
    first = replace(kept, max_iterations=stop).solve(Dense(K), B, 1e-4)
    assert first.status is Status.MAX_ITERATIONS
    rest = kept.solve(Dense(K), B, 1e-4)
    np.testing.assert_array_equal(rest.value, whole.value)
    np.testing.assert_array_equal(rest.stats.iterations, whole.stats.iterations)
    assert rest.stats.eigenvalues == whole.stats.eigenvalues
    again = kept.solve(Dense(K), B, 1e-4)
    np.testing.assert_array_equal(again.value, whole.value)
    assert again.stats.products == rest.stats.products


def test_a_finer_tolerance_goes_on_and_a_coarser_one_is_done(tmp_path: Path) -> None:
    K, B = problem()
    solver = ConjugateGradients(rtol=1e-4, rank=0, checkpoint=tmp_path / "cg.state")
    coarse = solver.solve(Dense(K), B, 1e-4)
    fine = replace(solver, rtol=1e-9).solve(Dense(K), B, 1e-4)
    assert fine.ok
    assert fine.stats.residuals.max() <= 1e-9 < coarse.stats.residuals.max()
    assert (fine.stats.iterations > coarse.stats.iterations).all()
    direct = ConjugateGradients(rtol=1e-9, rank=0).solve(Dense(K), B, 1e-4)
    assert fine.stats.iterations.max() <= direct.stats.iterations.max() + 2


@pytest.mark.parametrize("what", ["matrix", "targets", "ridge", "rank", "seed"])
def test_the_state_of_another_problem_is_refused(what: str, tmp_path: Path) -> None:
    K, B = problem()
    solver = ConjugateGradients(rank=3, checkpoint=tmp_path / "cg.state", max_iterations=2)
    solver.solve(Dense(K), B, 1e-4)
    other = {"rank": replace(solver, rank=4), "seed": replace(solver, seed=1)}.get(what, solver)
    ridge = 1e-3 if what == "ridge" else 1e-4
    K = K * 2 if what == "matrix" else K
    B = B + 1 if what == "targets" else B
    with pytest.raises(KernregError, match=r"another problem.*remove it"):
        other.solve(Dense(K), B, ridge)


def test_a_matrix_of_the_same_diagonal_is_another_problem(tmp_path: Path) -> None:
    K, B = problem()
    solver = ConjugateGradients(rank=0, checkpoint=tmp_path / "cg.state")
    solver.solve(Dense(K), B, 1e-4)
    turned = Dense(np.ascontiguousarray(K[::-1, ::-1]))
    with pytest.raises(KernregError, match=r"another problem: a column that it calls done.*remove it"):
        solver.solve(turned, B, 1e-4)


def test_a_damaged_state_is_refused_and_none_is_none(tmp_path: Path) -> None:
    path = tmp_path / "cg.state"
    assert load(path, "") is None
    K, B = problem()
    ConjugateGradients(rank=0, checkpoint=path, max_iterations=2).solve(Dense(K), B, 1e-4)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damage in (whole[:-50], b"", b"not a state", bytes(flipped)):
        path.write_bytes(damage)
        with pytest.raises(KernregError, match=r"cg.state is no state of a solve.*remove it"):
            ConjugateGradients(rank=0, checkpoint=path).solve(Dense(K), B, 1e-4)


def test_a_disk_that_refuses_is_one_line(tmp_path: Path) -> None:
    K, B = problem()
    solver = ConjugateGradients(rank=0, checkpoint=tmp_path / "absent" / "cg.state", checkpoint_seconds=0)
    with pytest.raises(KernregError, match="cannot write"):
        solver.solve(Dense(K), B, 1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_iteration_and_keeps_it(number: signal.Signals, tmp_path: Path) -> None:
    K, B = problem()
    solver = ConjugateGradients(rtol=1e-9, rank=0, checkpoint=tmp_path / "cg.state", checkpoint_seconds=3600)

    def interrupt(done: int, total: int, residual: float) -> None:
        if done == 7:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        solver.solve(Dense(K), B, 1e-4, progress=interrupt)
    calls: list[int] = []
    rest = solver.solve(Dense(K), B, 1e-4, progress=lambda done, *_: calls.append(done))
    assert calls[0] == 8
    whole = replace(solver, checkpoint=None).solve(Dense(K), B, 1e-4)
    np.testing.assert_array_equal(rest.value, whole.value)


def test_states_are_written_no_oftener_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    save = State.save

    def counted(state: State, path: Path, problem: str) -> None:
        written.append(state.iteration)
        save(state, path, problem)

    monkeypatch.setattr(State, "save", counted)
    K, B = problem()
    ConjugateGradients(rank=0, checkpoint=tmp_path / "cg.state", checkpoint_seconds=3600).solve(
        Dense(K), B, 1e-4
    )
    assert 1 <= len(written) <= 2
