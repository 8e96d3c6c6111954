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
from kernreg.plan import PROCESS_BYTES, show_bytes
from kernreg.preconditioner import BLOCK, default_rank
from kernreg.ridge import RidgeMode, ridge_in_units
from kernreg.solution import Solution, Solver, Stats, Status, relative_residuals, relative_ridge
from kernreg.store import GramStore
from kernreg.streaming import streaming_bytes
from kernreg.targets import targets
from kernreg.tiled import TiledCholesky, tiled_solve

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
        try:
            L = cholesky.factor(K.columns(np.arange(n)), ridge, overwrite=True)
        except NotPositiveDefiniteError as failure:
            return _without_factor(self.name, K, B, ridge, failure, began)
        X = cholesky.solve(L, B)
        v = np.random.default_rng(0).standard_normal((n,))
        _, largest = extreme_eigenvalues(Shifted(K, ridge).matmul, v, LANCZOS_STEPS)
        _, inverse = extreme_eigenvalues(lambda V: cholesky.solve(L, V), v, LANCZOS_STEPS)
        residuals = relative_residuals(K, X, B, ridge)
        stats = Stats(
            solver=self.name,
            n=n,
            ridge=ridge,
            relative_ridge=relative_ridge(K, ridge),
            residuals=residuals,
            iterations=np.zeros(c, dtype=np.int64),
            eigenvalues=(1 / inverse, largest),
            products=LANCZOS_STEPS + 1,
            seconds=time.perf_counter() - began,
        )
        message = f"solved by a Cholesky factor: largest relative residual {residuals.max():.1e}"
        return Solution(X, Status.CONVERGED, message, stats)


@dataclass(frozen=True)
class Tiled:
    """The factor by tiles on disk of a stored Gram, see `kernreg.tiled`: n³/3 operations in any memory, n²/2 numbers of disk.

    Attributes:
        memory, scratch: as in `kernreg.tiled.TiledCholesky`.
    """

    name: ClassVar[str] = "tiled"

    memory: int | str | None = None
    scratch: str | os.PathLike[str] | None = None

    def solve(
        self,
        K: Operator,
        B: Matrix,
        ridge: float,
        *,
        start: Matrix | None = None,
        progress: bool | Report = False,
    ) -> Solution:
        """(K + ridge·I)⁻¹B, see `kernreg.solution.Solver`; it needs no start. Raises KernregError unless K is stored."""
        if not isinstance(K, Stored):
            raise KernregError(
                "the tiled factorisation reads a Gram store: use cholesky or cg for other operators"
            )
        began = time.perf_counter()
        how = TiledCholesky(self.memory, self.scratch, progress=progress is True)
        try:
            found = tiled_solve(K.store, K.kernel, ridge, how, B, K.n)
        except NotPositiveDefiniteError as failure:
            return _without_factor(self.name, K, B, ridge, failure, began)
        v = np.random.default_rng(0).standard_normal((K.n,))
        eigenvalues = extreme_eigenvalues(Shifted(K, ridge).matmul, v, LANCZOS_STEPS)
        stats = Stats(
            solver=self.name,
            n=K.n,
            ridge=ridge,
            relative_ridge=relative_ridge(K, ridge),
            residuals=found.residual,
            iterations=np.full(B.shape[1], found.refinements, dtype=np.int64),
            eigenvalues=eigenvalues,
            products=LANCZOS_STEPS + 1 + found.refinements,
            seconds=time.perf_counter() - began,
        )
        message = f"solved by a factor on disk: largest relative residual {found.residual.max():.1e}"
        return Solution(found.value, Status.CONVERGED, message, stats)


def _without_factor(
    name: str, K: Operator, B: Matrix, ridge: float, failure: NotPositiveDefiniteError, began: float
) -> Solution:
    """Zeros, whose relative residual is 1, and what LAPACK said."""
    stats = Stats(
        solver=name,
        n=K.n,
        ridge=ridge,
        relative_ridge=relative_ridge(K, ridge),
        residuals=np.asarray(B.any(axis=0), dtype=np.float64),
        iterations=np.zeros(B.shape[1], dtype=np.int64),
        seconds=time.perf_counter() - began,
        enough_ridge=failure.ridge,
    )
    return Solution(np.zeros_like(B), Status.NOT_POSITIVE_DEFINITE, str(failure), stats)


# By name. A solver of any other kind joins here with a frozen dataclass of the same face (`kernreg.solution.Solver`),
# and in `choose` with the case that it is best for.
SOLVERS: Mapping[str, Callable[[], Solver]] = {
    "cholesky": Cholesky,
    "tiled": Tiled,
    "cg": ConjugateGradients,
}


def choose(n: int, memory: int | str | None = None, beside: int = 0) -> tuple[str, str]:
    """The name of the solver that suits n rows, and why.

    Args:
        memory: most bytes that the process may use, or "4GiB"; None: three quarters of what this machine has.
        beside: bytes that are in use beside the factor, such as those of the matrix itself.
    """
    allowed = allowed_bytes(memory)
    needed = PROCESS_BYTES + 8 * n**2 + beside
    budget = (
        f"{show_bytes(allowed)} {'allowed' if memory is not None else '(three quarters of this machine)'}"
    )
    if needed <= allowed:
        return "cholesky", f"cholesky: n = {n} takes {show_bytes(needed)} of memory, within the {budget}"
    return "cg", f"cg: a factor of n = {n} in memory takes {show_bytes(needed)}, more than the {budget}"


def allowed_bytes(memory: int | str | None) -> int:
    """The budget as a number; None is three quarters of the memory of this machine."""
    return TiledCholesky(memory).bytes_allowed


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
    λ = ridge_in_units(operator.diagonal(), ridge, ridge_mode)
    X0 = None if start is None else targets(start, "start")
    if X0 is not None and X0.shape != B.shape:
        raise KernregError(f"start must be of the shape of Y, {Y.shape}, not {X0.shape}")
    chosen, why = solver, ""
    if isinstance(chosen, str):
        if chosen == "auto":
            beside = operator.K.nbytes if isinstance(operator, Dense) else 0
            chosen, why = choose(operator.n, memory, beside)
        chosen = _named(chosen)
    # Powers of two: the squares of very small or large targets would leave the range, and scaling is exact.
    scale = np.exp2(np.frexp(np.abs(B).max(axis=0))[1].clip(-1000, 1000))
    X0 = None if X0 is None else X0 / scale
    solution = chosen.solve(operator, B / scale, λ, start=X0, progress=progress)
    message = solution.message
    singular = solution.status in (Status.NOT_POSITIVE_DEFINITE, Status.STAGNATED)
    store = getattr(operator, "store", None)
    if singular and isinstance(store, GramStore):
        message = "; ".join(filter(None, (message, duplicates_sentence(store, operator.n))))
    value = (solution.value * scale).reshape(Y.shape)
    if not np.isfinite(value).all():
        raise KernregError("the solution overflows float64: rescale the targets, or use a larger ridge")
    return Solution(value, solution.status, message, replace(solution.stats, why=why))


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
    scratch: str | os.PathLike[str] | None = None,
    progress: bool | Report = False,
) -> Solution:
    """The coefficients of the first n training rows of a store within a memory budget.

    Args:
        store: the tiles of these rows must be there.
        kernel: "nngp" or "ntk"; default: the NTK if the store has it.
        n: default all rows.
        solver: "auto", "cholesky" (its factor goes to disk where memory does not hold it), "tiled" (to disk in any case)
            or "cg".
        ridge, ridge_mode, progress: as in `solve`.
        memory: most bytes that the process may use, or "4GiB"; None: three quarters of what this machine has.
        iteration: the tolerances of "cg".
        scratch: folder for a factor on disk; default: beside the store.

    Raises:
        KernregError: a budget that the solver cannot keep, by amount; and as `solve` and `kernreg.operators.Stored`.
    """
    kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    tiles = store.tiles("train", kernel, n)
    n, c = n or store.n, store.y_train.shape[1]
    least = streaming_bytes(store, tiles)
    name, why = choose(n, memory, least)
    if solver == "cholesky" and name != "cholesky":
        name, why = "tiled", f"tiled: the factor goes to disk, {why.partition(': ')[2]}"
    elif solver != "auto":
        name, why = solver, ""
    kept, chosen = least, _named(name)
    if name == "tiled":
        chosen = Tiled(memory, scratch)
    if name == "cg":
        chosen = cg = iteration or ConjugateGradients()
        kept = require_cg_memory(cg, n, c, memory, least)
    K = Stored(store, kernel, n, kept)
    solution = solve(K, store.y_train[:n], chosen, ridge, ridge_mode, progress=progress)
    return replace(solution, stats=replace(solution.stats, why=why))


def _named(name: str) -> Solver:
    if name not in SOLVERS:
        raise KernregError(f"unknown solver {name!r}; use auto, {', '.join(SOLVERS)}")
    return SOLVERS[name]()


def cg_bytes(cg: ConjugateGradients, n: int, c: int) -> int:
    """Memory of conjugate gradients for n rows and c targets beside the operator's own."""
    rank = default_rank(n) if cg.rank is None else min(cg.rank, n)
    # iterates, residuals, directions, targets and products; F and a block of columns
    return PROCESS_BYTES + 8 * n * (12 * c + rank + 2 * BLOCK[1])


def require_cg_memory(
    cg: ConjugateGradients, n: int, c: int, memory: int | str | None, beside: int = 0
) -> int:
    """Bytes of the budget that are left for the operator, at least `beside`.

    Raises:
        KernregError: the budget is smaller, by amount.
    """
    needed, allowed = cg_bytes(cg, n, c), allowed_bytes(memory)
    if allowed < needed + beside:
        raise KernregError(
            f"cg of n = {n} needs about {show_bytes(needed + beside)} of memory and {show_bytes(allowed)} are allowed: "
            f"use --memory {-(-(needed + beside) // 2**20)}MiB, a lower --rank, or fewer rows (--n)"
        )
    return allowed - needed
