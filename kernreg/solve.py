"""solve(operator, Y, solver, ridge) → Solution: one door for every solver, which checks, chooses and never stays silent."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kernreg import device as devices
from kernreg.cg import ConjugateGradients
from kernreg.cholesky import Matrix
from kernreg.directsolvers import Cholesky, Tiled
from kernreg.duplicates import duplicates_sentence
from kernreg.errors import KernregError
from kernreg.iterations import Report
from kernreg.operators import Dense, Operator, Stored
from kernreg.plan import PROCESS_BYTES, parse_bytes, show_bytes
from kernreg.preconditioner import BLOCK, default_rank
from kernreg.ridge import RidgeMode, ridge_in_units
from kernreg.solution import Solution, Solver, Stats, Status
from kernreg.store import GramStore
from kernreg.streaming import streaming_bytes
from kernreg.targets import targets
from kernreg.tiled import TiledCholesky
from kernreg.trace import Estimate, degrees_of_freedom, gcv, trace_of_inverse

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
    probes: int = 0,
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
        probes: columns of two more solves that estimate tr (K + λI)⁻¹ for GCV and the degrees of freedom, at least 2; 0:
            no estimate.
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
    if probes and isinstance(chosen, Cholesky | Tiled):
        chosen = replace(chosen, probes=probes)
    # Powers of two: the squares of very small or large targets would leave the range, and scaling is exact.
    scale = np.exp2(np.frexp(np.abs(B).max(axis=0))[1].clip(-1000, 1000))
    X0 = None if X0 is None else X0 / scale
    solution = chosen.solve(operator, B / scale, λ, start=X0, progress=progress)
    message = solution.message
    singular = solution.status in (Status.NOT_POSITIVE_DEFINITE, Status.STAGNATED)
    store = getattr(operator, "store", None)
    if singular and "duplicate" not in message and isinstance(store, GramStore):
        message = "; ".join(filter(None, (message, duplicates_sentence(store, operator.n))))
    value = (solution.value * scale).reshape(Y.shape)
    if not np.isfinite(value).all():
        raise KernregError("the solution overflows float64: rescale the targets, or use a larger ridge")
    stats = replace(solution.stats, why=why)
    if probes and solution.ok:
        stats = _with_gcv(stats, operator, B, solution.value * scale, chosen, probes, progress)
    return Solution(value, solution.status, message, stats)


def _with_gcv(
    stats: Stats,
    K: Operator,
    Y: Matrix,
    α: Matrix,
    solver: Solver,
    probes: int,
    progress: bool | Report,
) -> Stats:
    """The trace, by the solver's own factor or by iterations, and the GCV that follows, divided by the mean of |y|²."""
    if stats.trace is None:
        iteration = solver if isinstance(solver, ConjugateGradients) else None
        try:
            trace = trace_of_inverse(K, stats.ridge, iteration, probes, progress=progress)
        except KernregError as error:
            raise KernregError(
                f"no trace for GCV, though the solution converged: {error}; or do without (--gcv)"
            ) from error
    else:
        trace = Estimate(*stats.trace)
    score, energy = gcv(α, trace), float(np.square(Y).sum() / len(Y))
    freedom = degrees_of_freedom(len(Y), stats.ridge, trace)
    return replace(
        stats,
        trace=(trace.value, trace.error),
        degrees_of_freedom=(freedom.value, freedom.error),
        gcv=(score.value / energy, score.error / energy) if energy else None,
    )


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
    factor_dtype: str = "float64",
    device: str = "cpu",
    device_memory: int | str | None = None,
    start: npt.NDArray[Any] | None = None,
    probes: int = 0,
    progress: bool | Report = False,
    said: Callable[[str], object] = lambda why: None,
) -> Solution:
    """The coefficients of the first n training rows of a store within a memory budget.

    Args:
        store: the tiles of these rows must be there.
        kernel: "nngp" or "ntk"; default: the NTK if the store has it.
        n: default all rows.
        solver: "auto", "cholesky" (its factor goes to disk where memory does not hold it), "tiled" (to disk in any case)
            or "cg".
        ridge, ridge_mode, probes, progress: as in `solve`.
        memory: most bytes that the process may use, or "4GiB"; None: three quarters of what this machine has.
        iteration: the tolerances of "cg"; its rtol is also that of a factor's refinement.
        scratch: folder for a factor on disk; default: beside the store.
        factor_dtype: "float64", or "float32": half the disk and memory, refined in float64.
        device: that factors: "cpu", "cuda", or "auto" for the GPU if there is one; conjugate gradients run on the host.
        device_memory: most bytes of a GPU, or "20GiB"; None: what is free.
        start: (m, c) coefficients of the first m ≤ n rows, where an iteration starts.
        said: called, before anything is computed, with why a solver was chosen.

    Raises:
        KernregError: a budget that the solver cannot keep, by amount; solver, dtype and device that do not go together;
            and as `solve` and `kernreg.operators.Stored`.
    """
    kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    tiles = store.tiles("train", kernel, n)
    n, c, cg = n or store.n, store.y_train.shape[1], iteration or ConjugateGradients()
    kept = least = streaming_bytes(store, tiles)
    name, why = choose(n, memory, least)
    if factor_dtype != "float64":
        _require_factor(solver, "a factor's dtype (--factor-dtype)")
        name, why = (
            "tiled",
            f"tiled: a factor in {factor_dtype} is made by tiles on disk and refined in float64",
        )
    elif solver == "cholesky" and name != "cholesky":
        name, why = "tiled", f"tiled: the factor goes to disk, {why.partition(': ')[2]}"
    elif solver != "auto":
        name, why = solver, ""
    on_gpu = devices.wanted(device)
    if device == "cuda" and name == "cg":
        _require_factor(solver, "device cuda (--device)")
        name, why = "tiled", f"tiled: the factor goes to disk, {why.partition(': ')[2]}"
    chosen = _named(name)
    if name == "cholesky" and on_gpu:
        limit = None if device_memory is None else parse_bytes(device_memory)
        needed = 8 * n**2 + devices.LIBRARY_BYTES
        if not (beyond := devices.beyond_gpu(f"the factor of n = {n}", needed, limit)):
            chosen, why = Cholesky(devices.cuda()), f"{why}, on the GPU" if why else ""
        elif device == "cuda":
            name, why = "tiled", f"tiled: the factor goes to disk, {beyond}"
    if name == "tiled":
        gpus = devices.gpus() if on_gpu else ()
        how = TiledCholesky(memory, scratch, dtype=factor_dtype, gpus=gpus, device_memory=device_memory)
        chosen = Tiled(how, cg.rtol)
    if name == "cg":
        chosen, kept = cg, tile_budget(n, max(c, probes), cg, memory, least)
    if why:
        said(why)
    if start is not None and name != "cg":
        said(f"a start is not needed: {name} solves directly")
    K, whole = Stored(store, kernel, n, kept), None
    if start is not None and name == "cg":
        whole = from_fewer(start, n)
    settings: dict[str, Any] = {"start": whole, "probes": probes, "progress": progress}
    solution = solve(K, store.y_train[:n], chosen, ridge, ridge_mode, **settings)
    return replace(solution, stats=replace(solution.stats, why=why))


def from_fewer(start: npt.NDArray[Any], n: int) -> Matrix:
    """(n, c) where an iteration starts from coefficients (m, c) of the first m ≤ n rows: those of the others are zero."""
    return np.vstack([start, np.zeros((n - len(start), start.shape[1]))])


def tile_budget(n: int, c: int, cg: ConjugateGradients, memory: int | str | None, least: int) -> int:
    """Bytes for tiles of a store that conjugate gradients with n rows and c columns leave of a budget.

    Args:
        memory: most bytes that the process may use, or "4GiB"; None: three quarters of what this machine has.
        least: bytes of tiles that must be left.

    Raises:
        KernregError: less is left, by amount.
    """
    allowed, rank = allowed_bytes(memory), default_rank(n) if cg.rank is None else min(cg.rank, n)
    # iterates, residuals, directions, targets and products; F and a block of columns
    needed = PROCESS_BYTES + 8 * n * (12 * c + rank + 2 * BLOCK[1])
    if allowed - needed < least:
        raise KernregError(
            f"cg of n = {n} needs about {show_bytes(needed + least)} of memory and {show_bytes(allowed)} are allowed: "
            f"use --memory {-(-(needed + least) // 2**20)}MiB, a lower --rank, or fewer rows (--n)"
        )
    return allowed - needed


def _require_factor(solver: str, what: str) -> None:
    if solver == "cg":
        raise KernregError(
            f"{what} is for a factor, and conjugate gradients have none: use --solver cholesky"
        )


def _named(name: str) -> Solver:
    if name not in SOLVERS:
        raise KernregError(f"unknown solver {name!r}; use auto, {', '.join(SOLVERS)}")
    return SOLVERS[name]()
