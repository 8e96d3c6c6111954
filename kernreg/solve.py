"""solve(operator, Y, solver, ridge) → Solution: one door for every solver, which checks, chooses and never stays silent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kernreg import cholesky
from kernreg.cg import ConjugateGradients
from kernreg.cholesky import Matrix, NotPositiveDefiniteError
from kernreg.duplicates import duplicates_sentence
from kernreg.errors import KernregError
from kernreg.iterations import Report
from kernreg.lanczos import extreme_eigenvalues
from kernreg.operators import Dense, Operator, Shifted, Stored
from kernreg.plan import PROCESS_BYTES, parse_bytes, show_bytes
from kernreg.preconditioner import BLOCK, default_rank
from kernreg.ridge import RidgeMode
from kernreg.solution import Solution, Solver, Stats, Status, relative_residuals, relative_ridge
from kernreg.store import GramStore
from kernreg.streaming import streaming_bytes
from kernreg.targets import targets

LANCZOS_STEPS = 12  # each as dear as reading the factor twice


@dataclass(frozen=True)
class Cholesky:
    """LAPACK's factor of the whole matrix in memory: n³/3 operations, one n² float64 array beside the operator's own."""

    name: ClassVar[str] = "cholesky"

    def solve(
        self,
        K: Operator,
        B: Matrix,
        ridge: float,
        *,
        start: Matrix | None = None,
        progress: bool | Report = False,
    ) -> Solution:
        """(K + ridge·I)⁻¹B, see `kernreg.solution.Solver`; it needs no start and is silent."""
        began = time.perf_counter()
        n, c = B.shape

        def stats(residuals: Matrix, **known: object) -> Stats:
            facts = Stats(
                self.name, n, ridge, relative_ridge(K, ridge), residuals, np.zeros(c, dtype=np.int64)
            )
            return replace(facts, seconds=time.perf_counter() - began, **known)  # type: ignore[arg-type]

        try:
            L = cholesky.factor(K.columns(np.arange(n)), ridge, overwrite=True)
        except NotPositiveDefiniteError as failure:
            return Solution(
                np.zeros_like(B),
                Status.NOT_POSITIVE_DEFINITE,
                str(failure),
                stats((np.abs(B).max(axis=0) > 0).astype(np.float64), enough_ridge=failure.ridge),
            )
        X = cholesky.solve(L, B)
        v = np.random.default_rng(0).standard_normal((n,))
        _, largest = extreme_eigenvalues(Shifted(K, ridge).matmul, v, LANCZOS_STEPS)
        _, inverse = extreme_eigenvalues(lambda V: cholesky.solve(L, V), v, LANCZOS_STEPS)
        residuals = relative_residuals(K, X, B, ridge)
        message = f"solved by a Cholesky factor: largest relative residual {residuals.max():.1e}"
        return Solution(
            X,
            Status.CONVERGED,
            message,
            stats(residuals, eigenvalues=(1 / inverse, largest), products=LANCZOS_STEPS + 1),
        )


# By the name that --solver takes. A solver of any other kind joins here with a frozen dataclass of the same face
# (`kernreg.solution.Solver`), and in `choose` with the case that it is best for.
SOLVERS: Mapping[str, Callable[[], Solver]] = {"cholesky": Cholesky, "cg": ConjugateGradients}


def choose(n: int, memory: int | str | None = None, beside: int = 0) -> tuple[str, str]:
    """The name of the solver that suits n rows, and why.

    Args:
        memory: most bytes that the process may use, or "4GiB"; None: half of what this machine has.
        beside: bytes that are in use beside the factor, such as those of the matrix itself.
    """
    allowed = allowed_bytes(memory)
    needed = PROCESS_BYTES + 8 * n**2 + beside
    budget = f"{show_bytes(allowed)} {'allowed' if memory is not None else '(half of this machine)'}"
    if needed <= allowed:
        return "cholesky", f"cholesky: n = {n} takes {show_bytes(needed)} of memory, within the {budget}"
    return "cg", f"cg: a factor of n = {n} in memory takes {show_bytes(needed)}, more than the {budget}"


def allowed_bytes(memory: int | str | None) -> int:
    """The budget as a number; None is half of the memory of this machine."""
    if memory is not None:
        return parse_bytes(memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def solve(
    operator: Operator,
    Y: npt.ArrayLike,
    solver: Solver | str = "auto",
    ridge: float = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    memory: int | str | None = None,
    start: npt.ArrayLike | None = None,
    progress: bool | Report = False,
) -> Solution:
    """(K + λI)⁻¹Y with its residual, or a status that says why not.

    Args:
        operator: K, for instance `Dense(K)`, `Stored(store)` or `MatrixFree(x, architecture)`.
        Y: (n,) or (n, c) targets.
        solver: a solver such as `ConjugateGradients(rtol=1e-10)`, or "cholesky", "cg" or "auto", see `choose`.
        ridge: λ ≥ 0.
        ridge_mode: "absolute" (default) or "relative" to the mean diagonal of K.
        memory: what "auto" may use.
        start: where an iteration starts, of the shape of Y.
        progress: True for a line on stderr, or a function of (iterations, expected iterations, residual).

    Returns:
        A `Solution`. A matrix that is not positive definite, too few iterations and stagnation are statuses of it;
        `.require()` turns them into an error.

    Raises:
        KernregError: shapes, NaN, an unknown solver, a ridge out of range, a checkpoint of another problem.
    """
    Y = np.asarray(Y)
    B = targets(Y, "Y")
    if len(B) != operator.n:
        raise KernregError(f"the operator has {operator.n} rows but Y has {len(B)}")
    λ = absolute(operator, ridge, ridge_mode)
    X0 = None if start is None else targets(start, "start")
    if X0 is not None and X0.shape != B.shape:
        raise KernregError(f"start must be of the shape of Y, {Y.shape}, not {X0.shape}")
    chosen, why = solver, ""
    if isinstance(chosen, str):
        if chosen == "auto":
            beside = operator.K.nbytes if isinstance(operator, Dense) else 0
            chosen, why = choose(operator.n, memory, beside)
        if chosen not in SOLVERS:
            raise KernregError(f"unknown solver {chosen!r}; use auto, {', '.join(SOLVERS)}")
        chosen = SOLVERS[chosen]()
    # Powers of two: the squares of very small or large targets would leave the range, and scaling is exact.
    scale = np.exp2(np.frexp(np.abs(B).max(axis=0))[1].clip(-1000, 1000))
    X0 = None if X0 is None else X0 / scale
    solution = chosen.solve(operator, B / scale, λ, start=X0, progress=progress)
    message = solution.message
    if solution.status is Status.NOT_POSITIVE_DEFINITE and isinstance(operator, Stored):
        message = "; ".join(filter(None, (message, duplicates_sentence(operator.store, operator.n))))
    value = (solution.value * scale).reshape(Y.shape)
    if not np.isfinite(value).all():
        raise KernregError("the solution overflows float64: rescale the targets, or use a larger ridge")
    return Solution(value, solution.status, message, replace(solution.stats, why=why))


def absolute(operator: Operator, ridge: float, mode: RidgeMode = "absolute") -> float:
    """λ in the units of K.

    Raises:
        KernregError: unknown mode, a number out of range, a diagonal that is not finite.
    """
    if mode not in ("absolute", "relative"):
        raise KernregError(f'ridge_mode must be "absolute" or "relative", not {mode!r}')
    if not (np.isfinite(ridge) and ridge >= 0):
        raise KernregError(f"the ridge must be a finite number ≥ 0, not {ridge!r}")
    if mode == "absolute":
        return float(ridge)
    mean = float(operator.diagonal().mean())
    if not (np.isfinite(mean) and mean > 0):
        raise KernregError(f"a relative ridge needs a positive mean diagonal; that of K is {mean:.3g}")
    return float(ridge) * mean


def solve_store(
    store: GramStore,
    kernel: str | None = None,
    n: int | None = None,
    solver: str = "auto",
    ridge: float = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    memory: int | str | None = None,
    iteration: ConjugateGradients | None = None,
    progress: bool | Report = False,
) -> Solution:
    """The coefficients of the first n training rows of a store within a memory budget.

    Args:
        store: the tiles of these rows must be there.
        kernel: "nngp" or "ntk"; default: the NTK if the store has it.
        n: default all rows.
        solver: "auto", "cholesky" or "cg".
        ridge, ridge_mode, progress: as in `solve`.
        memory: most bytes that the process may use, or "4GiB"; None: half of what this machine has.
        iteration: the tolerances of "cg".

    Raises:
        KernregError: a budget that the solver cannot keep, by amount; and as `solve` and `kernreg.operators.Stored`.
    """
    kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    tiles = store.tiles("train", kernel, n)
    n, c = n or store.n, store.y_train.shape[1]
    least, allowed = streaming_bytes(store, tiles), allowed_bytes(memory)
    name, why = choose(n, memory, least) if solver == "auto" else (solver, "")
    if name not in SOLVERS:
        raise KernregError(f"unknown solver {name!r}; use auto, {', '.join(SOLVERS)}")
    cg = iteration or ConjugateGradients()
    rank = default_rank(n) if cg.rank is None else min(cg.rank, n)
    # iterates, residuals, directions, targets and products; F and a block of columns beside it
    beside = 8 * n * (12 * c + rank + 2 * BLOCK[1]) if name == "cg" else 8 * n**2
    needed = PROCESS_BYTES + beside + least
    if needed > allowed:
        remedy = "a lower --rank, a store of smaller tiles" if name == "cg" else "--solver cg"
        raise KernregError(
            f"{name} of n = {n} needs about {show_bytes(needed)} of memory and {show_bytes(allowed)} are allowed: "
            f"use --memory {-(-needed // 2**20)}MiB, {remedy} or fewer rows (--n)"
        )
    kept = allowed - PROCESS_BYTES - beside if name == "cg" else least
    K = Stored(store, kernel, n, kept)
    chosen: Solver | str = cg if name == "cg" else name
    solution = solve(K, store.y_train[:n], chosen, ridge, ridge_mode, progress=progress)
    return replace(solution, stats=replace(solution.stats, why=why))
