"""Preconditioned conjugate gradients for (K + λI)X = B with many right-hand sides.

Each column has its own step length and leaves when it is done; what the columns share is the product with K, the only
expensive thing. The recursive residual is replaced by the true one, B − (K + λI)X, every ten steps, and a column counts
as converged by its true residual alone; both ride in the product that the next step needs anyway, so that they cost no
pass over the matrix (Hestenes and Stiefel, J. Res. NBS 49 (1952); van der Vorst and Ye, SIAM J. Sci. Comput. 22 (2000),
for the replacement).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from kernreg.cgstate import CONVERGED, INDEFINITE, RUNNING, STAGNATED, Integers, State, load
from kernreg.cholesky import EPS, Matrix, round_up
from kernreg.durable import sweep_file
from kernreg.errors import KernregError
from kernreg.iterations import Iterations, Report
from kernreg.lanczos import Probe, extreme_eigenvalues, extremes_of_steps
from kernreg.operators import Operator, Shifted
from kernreg.preconditioner import Preconditioner, default_rank, preconditioner
from kernreg.progress import Interruption
from kernreg.provenance import checksum
from kernreg.solution import Solution, Stats, Status, relative, relative_ridge

REFRESH = 10  # steps between two true residuals
STUCK = 3  # measurements without progress after which a column has stagnated
PROBE_STEPS = 50  # of the vector that estimates eigenvalues: the largest is right long before
DIAGNOSIS = 60  # Lanczos steps that look for the smallest eigenvalue of a matrix with negative curvature


@dataclass(frozen=True)
class ConjugateGradients:
    """Tolerances of the iteration.

    Attributes:
        rtol: a column is done when ‖b − (K + λI)x‖ ≤ rtol·‖b‖, measured in float64.
        max_iterations: of the block.
        rank: of the preconditioner; None: 8·√n, at most n/2 and 2,000; 0: none.
        seed: of its pivots, and of the probe that estimates eigenvalues.
        checkpoint: a file that holds the state, replaced atomically; a solve that finds its own state there goes on from
            it. The file stays: whoever has put the solution away removes it. None: no checkpoints.
        checkpoint_seconds: at least so long between two of them.
    """

    name: ClassVar[str] = "cg"

    rtol: float = 1e-8
    max_iterations: int = 10_000
    rank: int | None = None
    seed: int = 0
    checkpoint: Path | None = None
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1 or self.max_iterations < 1 or (self.rank is not None and self.rank < 0):
            raise KernregError(
                f"conjugate gradients need 0 < rtol < 1, max_iterations ≥ 1 and rank ≥ 0, not {self.rtol}, "
                f"{self.max_iterations} and {self.rank}"
            )

    def prepare(self, K: Operator, ridge: float) -> Preconditioner | None:
        """The preconditioner that `solve` would build; it serves every right-hand side."""
        rank = default_rank(K.n) if self.rank is None else min(self.rank, K.n)
        return preconditioner(K, ridge, rank, self.seed) if rank else None

    def solve(
        self,
        K: Operator,
        B: Matrix,
        ridge: float,
        *,
        start: Matrix | None = None,
        progress: bool | Report = False,
        prepared: Preconditioner | None = None,
    ) -> Solution:
        """(K + ridge·I)⁻¹B, see `kernreg.solution.Solver`.

        Args:
            K: symmetric, positive semidefinite; B: (n, c) float64; ridge: λ ≥ 0, absolute.
            start: (n, c), for instance the solution for fewer rows padded with zeros; default zeros.
            progress: True for a line on stderr, or a function of (iterations, expected iterations, residual).
            prepared: what `prepare` gave for this K and ridge.

        Raises:
            KernregError: a product that is not finite, a checkpoint of another problem, or the disk refuses.
            KeyboardInterrupt: SIGINT or SIGTERM, after the state is saved.
        """
        began = time.perf_counter()
        A, diagonal = Shifted(K, ridge), K.diagonal()
        problem = self._problem(diagonal, B, ridge) if self.checkpoint else ""
        floor = EPS * float(np.abs(diagonal).mean() + ridge)
        with (
            Iterations(self.name, self.rtol, self.max_iterations, progress) as meter,
            Interruption(
                lambda _: meter.note("stopping after this iteration; once more stops at once")
            ) as interruption,
        ):
            s = None
            if self.checkpoint is not None:
                sweep_file(self.checkpoint)
                s = load(self.checkpoint, problem)
            if prepared is None and self.rank != 0:
                meter.note("computing columns for the preconditioner")
            M = prepared or self.prepare(K, ridge)
            if s is None:
                s = _begin(A, B, M, start, self.seed)
            else:
                _require_own(s, A, B, float(diagonal.max()) + ridge, self.checkpoint)
                s.judge_again(self.rtol)
            saved = time.perf_counter()
            while s.running.size and s.iteration < self.max_iterations:
                meter.show(s.iteration, float(s.residual[s.running].max()), s.running.size)
                _advance(s, A, B, M, self.rtol, floor)
                late = time.perf_counter() - saved >= self.checkpoint_seconds
                if self.checkpoint and (late or interruption.requested):
                    s.save(self.checkpoint, problem)
                    saved = time.perf_counter()
                if interruption.requested:
                    raise KeyboardInterrupt
            if self.checkpoint:
                s.save(self.checkpoint, problem)
            _measure(s, A, B, self.rtol)
            meter.show(s.iteration, float(s.residual.max()), s.running.size)
        return self._solution(s, A, M, began)

    def _problem(self, diagonal: Matrix, B: Matrix, ridge: float) -> str:
        return f"{checksum(diagonal)} {checksum(B)} {ridge!r} {self.rank} {self.seed}"

    def _solution(self, s: State, A: Shifted, M: Preconditioner | None, began: float) -> Solution:
        ritz = extremes_of_steps(*s.coefficients())
        eigenvalues, preconditioned = ritz, None
        if M is not None:
            eigenvalues = s.probe.extremes if s.probe else None
            preconditioned = None if ritz is None else (ritz[0] / M.μ, ritz[1] / M.μ)
        enough, status, message = None, Status.CONVERGED, ""
        worst = int(s.residual.argmax())
        where = f"column {worst} of {len(s.residual)}" if len(s.residual) > 1 else "the solution"
        at = f"{where} has relative residual {s.residual[worst]:.1e} after {s.iteration} iterations"
        if (s.outcome == INDEFINITE).any():
            status = Status.NOT_POSITIVE_DEFINITE
            least, enough = _remedy(A, s.P[:, int(np.argmax(s.outcome == INDEFINITE))])
            eigenvalues = (least, eigenvalues[1] if eigenvalues else abs(least))
            message = (
                f"K + ridge·I with ridge = {A.ridge:.3g} is not positive definite in float64: negative curvature in "
                f"iteration {s.iteration}, smallest eigenvalue of K about {least - A.ridge:.2g} by Lanczos; "
                f"ridge = {enough:.2g} should be enough"
            )
        elif (s.outcome == STAGNATED).any():
            status = Status.STAGNATED
            message = f"stagnated: {at}, and rounding keeps it there: use rtol ≥ {2 * s.residual[worst]:.0e}, or a larger ridge"
        elif s.running.size:
            status = Status.MAX_ITERATIONS
            message = f"not converged: {at}, {self.rtol:.0e} is asked for: allow more iterations, a higher rank or a larger ridge"
        else:
            message = (
                f"converged: largest relative residual {s.residual.max():.1e} after {s.iteration} iterations"
            )
        stats = Stats(
            solver=self.name,
            n=A.n,
            ridge=A.ridge,
            relative_ridge=relative_ridge(A.K, A.ridge),
            residuals=s.residual,
            iterations=s.taken,
            eigenvalues=eigenvalues,
            preconditioned=preconditioned,
            rank=M.rank if M else 0,
            products=s.products,
            seconds=time.perf_counter() - began,
            enough_ridge=enough,
        )
        return Solution(s.X, status, message, stats)


def _begin(A: Shifted, B: Matrix, M: Preconditioner | None, start: Matrix | None, seed: int) -> State:
    (n, c), norms = B.shape, np.linalg.norm(B, axis=0)
    X = np.zeros((n, c)) if start is None else np.where(norms > 0, start, 0.0)
    R = B.copy() if start is None else B - A @ X
    P = M.apply(R) if M else R.copy()
    residual = relative(np.linalg.norm(R, axis=0), norms)
    outcome = np.where(norms > 0, RUNNING, CONVERGED).astype(np.int64)
    zeros = np.zeros(c, dtype=np.int64)
    probe = Probe(np.random.default_rng(seed).standard_normal((n,))) if M else None
    products = 0 if start is None else 1
    best = np.full(c, np.inf)
    return State(X, R, P, residual, best, zeros, outcome, zeros.copy(), probe=probe, products=products)


def _require_own(s: State, A: Operator, B: Matrix, largest: float, path: Path | None) -> None:
    """What a state calls done is measured again: two matrices may have one diagonal. Raises KernregError.

    `largest` bounds the entries of A, so that n·ε·largest·|x| bounds the rounding of a residual.
    """
    done = np.flatnonzero(s.outcome == CONVERGED)
    if not done.size:
        return
    X, norms = s.X[:, done], np.linalg.norm(B[:, done], axis=0)
    residual = relative(np.linalg.norm(B[:, done] - A @ X, axis=0), norms)
    rounding = A.n * EPS * largest * relative(np.linalg.norm(X, axis=0), norms)
    if not (residual <= 2 * s.residual[done] + rounding).all():
        raise KernregError(
            f"{path} is the state of another problem: a column that it calls done has relative residual "
            f"{residual.max():.1e}; remove it to begin anew, or give another file"
        )


def _advance(s: State, A: Operator, B: Matrix, M: Preconditioner | None, rtol: float, floor: float) -> None:
    """One step of every running column; those that claim to be done, and every tenth time all, are measured first."""
    active = s.running
    tenth = s.iteration and s.iteration % REFRESH == 0
    check = active if tenth else active[s.residual[active] <= rtol]
    parts = [s.P[:, active], s.X[:, check]]
    riding = s.probe if s.probe is not None and s.probe.running and s.iteration < PROBE_STEPS else None
    product = A @ np.hstack(parts if riding is None else [*parts, riding.v])
    s.products += 1
    if not np.isfinite(product).all():
        row = int(np.argmin(np.isfinite(product).all(axis=1)))
        raise KernregError(
            f"row {row} of the product with K is not finite: check the Gram, or rescale the targets"
        )
    if riding is not None:
        riding.step(product[:, -1:])
    if check.size:
        _judge(s, check, B[:, check] - product[:, active.size : active.size + check.size], B, rtol)
    going = np.flatnonzero(s.outcome[active] == RUNNING)
    active, AP = active[going], product[:, going]
    P = s.P[:, active]
    curvature = _inner(P, AP)
    size = _inner(P, P)
    positive = curvature > floor * size
    s.outcome[active[~positive]] = np.where(size[~positive] > 0, INDEFINITE, STAGNATED)
    active, P, AP, curvature = active[positive], P[:, positive], AP[:, positive], curvature[positive]
    if not active.size:
        return
    # p·r and −z·Ap in place of r·z and its growth: the same in exact arithmetic, but a step along p never raises
    # the energy, and p stays conjugate to the one before, whatever a replaced residual has perturbed
    step = _inner(P, s.R[:, active]) / curvature
    s.X[:, active] += step * P
    R = s.R[:, active] - step * AP
    Z = M.apply(R) if M else R
    turn = -_inner(Z, AP) / curvature
    s.R[:, active], s.P[:, active] = R, Z + turn * P
    s.residual[active] = np.linalg.norm(R, axis=0) / np.linalg.norm(B[:, active], axis=0)
    for history, values in ((s.steps, step), (s.turns, turn)):
        entries: Matrix = np.full(s.X.shape[1], np.nan)
        entries[active] = values
        history.append(entries)
    s.taken[active] += 1
    s.iteration += 1


def _judge(s: State, check: Integers, true: Matrix, B: Matrix, rtol: float) -> None:
    """Replace the residuals of some columns by the true ones, and let columns leave.

    The difference between the two is rounding. Where it makes up most of the residual, several times without
    progress, float64 has no more to give.
    """
    norms = np.linalg.norm(B[:, check], axis=0)
    rounding = np.linalg.norm(true - s.R[:, check], axis=0) / norms
    residual = np.linalg.norm(true, axis=0) / norms
    progress = (residual < s.best[check] / 2) | (rounding < residual / 4)
    stuck = np.where(progress, 0, s.stuck[check] + 1)
    s.R[:, check], s.residual[check], s.stuck[check] = true, residual, stuck
    s.best[check] = np.minimum(s.best[check], residual)
    s.outcome[check[stuck >= STUCK]] = STAGNATED
    s.outcome[check[residual <= rtol]] = CONVERGED


def _measure(s: State, A: Operator, B: Matrix, rtol: float) -> None:
    """The true residuals of columns that have not converged."""
    left = np.flatnonzero(s.outcome != CONVERGED)
    if left.size:
        s.residual[left] = relative(
            np.linalg.norm(B[:, left] - A @ s.X[:, left], axis=0), np.linalg.norm(B[:, left], axis=0)
        )
        s.products += 1
        done = (s.residual <= rtol) & (s.outcome != INDEFINITE)
        s.outcome[done] = CONVERGED


def _remedy(A: Shifted, direction: Matrix) -> tuple[float, float]:
    """The smallest eigenvalue of K + λI that Lanczos finds from a direction of negative curvature, and a ridge for it."""
    least, largest = extreme_eigenvalues(A.matmul, direction, DIAGNOSIS)
    enough = A.ridge + 2 * max(-least, 0.0) + A.n * EPS * abs(largest)
    return least, round_up(enough)


def _inner(U: Matrix, V: Matrix) -> Matrix:
    return np.asarray(np.einsum("nc,nc->c", U, V))
