"""TiledCholesky: the solver for a K + λI that memory does not hold, from a Gram store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kernreg.blocks import PROCESS_BYTES, Blocks, choose_blocks
from kernreg.cholesky import EPS, Matrix, NotPositiveDefiniteError, round_up
from kernreg.durable import Lock, refusal
from kernreg.errors import KernregError
from kernreg.plan import parse_bytes, require_memory
from kernreg.progress import Meter, Progress
from kernreg.provenance import checksum, text_checksum
from kernreg.scratch import Scratch
from kernreg.store import GramStore
from kernreg.storedgram import StoredGram, twin
from kernreg.targets import targets
from kernreg.tiledfactor import PivotError, TiledFactor

# Of the machine's memory, where no budget is given.
DEFAULT_SHARE = 0.75
RAISE = 4.0  # a ridge that fails is followed by one so many times larger
REFINEMENTS = 20


@dataclass(frozen=True)
class TiledCholesky:
    """How to factor K + λI out of core.

    Attributes:
        memory: most bytes that the process may use, or text such as "4GiB"; None: three quarters of what the
            machine has. It decides the rows of a panel, see `kernreg.blocks`.
        scratch: folder for the factor's folder; None: beside the store.
        keep_factor: leave the factor there when all is done.
        keep_curve: leave the finished curve there, a small file, until `Traffic.discard`: for whoever has yet to save it.
        dtype: "float64", or "float32": half the disk and memory, for `tiled_solve` only, which refines.
        progress: True for a bar on stderr, or a function of (operations done, in all).
    """

    memory: int | str | None = None
    scratch: str | os.PathLike[str] | None = None
    keep_factor: bool = False
    keep_curve: bool = False
    dtype: str = "float64"
    progress: bool | Progress = False

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise KernregError(f"dtype is float32 or float64, not {self.dtype!r}")

    @property
    def bytes_allowed(self) -> int:
        """`memory` in bytes. Raises KernregError if it is no amount of memory."""
        if self.memory is not None:
            return parse_bytes(self.memory)
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * DEFAULT_SHARE)


@dataclass(frozen=True)
class Traffic:
    """Bytes that one run moved; a run that was resumed counts its own only.

    Attributes:
        factor_read, factor_written: tiles of L.
        store_read: tiles of the Gram.
        blocks: the cut that they follow from, see `kernreg.blocks`.
        folder: where the factor was, or is.
    """

    factor_read: int
    factor_written: int
    store_read: int
    blocks: Blocks
    folder: Path | None = None

    def discard(self) -> None:
        """Delete what `keep_factor` or `keep_curve` left in the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class TiledSolution:
    """What `tiled_solve` found.

    Attributes:
        value: (n, c) float64, (K + λI)⁻¹Y.
        residual: (c,) |Y − (K + λI)·value|/|Y| in float64, per column (0 for a column of zeros).
        refinements: how often the value was corrected by its residual.
        traffic: bytes moved.
    """

    value: Matrix
    residual: Matrix
    refinements: int
    traffic: Traffic


class Work:
    """The folder in which one K + λI is factored, locked; see `folder_of`.

    Attributes:
        gram, y, λ, solver: what, and how.
        folder: with `rows-START-STOP` for the factor of each block of rows.
    """

    def __init__(self, gram: StoredGram, y: Matrix, λ: float, solver: TiledCholesky) -> None:
        self.gram, self.y, self.λ, self.solver = gram, y, λ, solver
        self.identity = {
            "gram": gram.digest(),
            "kernel": gram.kernel,
            "ridge": λ,
            "targets": checksum(y),
            "dtype": solver.dtype,
        }
        base = gram.store.path.parent if solver.scratch is None else Path(solver.scratch)
        digest = text_checksum(repr(sorted(self.identity.items())))[:12]
        self.folder = base / f"{gram.store.path.stem}-{gram.kernel}-{digest}.factor"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise refusal(error, self.folder) from error
        self._lock = Lock(self.folder, "--scratch")

    def factor(self, start: int, stop: int, meter: Meter, others: int) -> TiledFactor:
        """The factor of a block of rows, finished.

        Args:
            start, stop: the rows.
            meter: advanced by what it costs.
            others: bytes of what else is in memory.

        Raises:
            PivotError: as `TiledFactor.make`; of the block's own rows.
            KernregError: memory or disk do not suffice.
        """
        solver, gram = self.solver, self.gram.part(start, stop)
        item = np.dtype(solver.dtype).itemsize
        self.others = others
        others += gram.tile_bytes + 8 * self.y.size * 3
        blocks = choose_blocks(stop - start, solver.bytes_allowed, item, others)
        identity = {**self.identity, "rows": [start, stop]}
        scratch = Scratch.begin(self.place(start, stop), identity, blocks, solver.dtype, self.y.shape[1])
        factor = TiledFactor(scratch)
        try:
            require_memory(PROCESS_BYTES + others + scratch.blocks.bytes(item), solver.bytes_allowed)
            factor.make(gram, self.y[start:stop], self.λ, meter)
        except BaseException:
            factor.close()
            raise
        finally:
            self.gram.read_bytes += gram.read_bytes
        return factor

    def place(self, start: int, stop: int) -> Path:
        """Folder of the factor of a block of rows."""
        return self.folder / f"rows-{start}-{stop}"

    def close(self, remove: bool = False) -> None:
        """Give the lock back; the folder goes, or stays for the next run."""
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()


@contextmanager
def working(gram: StoredGram, y: Matrix, λ: float, solver: TiledCholesky) -> Iterator[Work]:
    """A `Work`, whose folder goes when all went well, unless it is to be kept.

    Raises:
        NotPositiveDefiniteError: in place of a PivotError, with a ridge that is enough.
    """
    work = Work(gram, y, λ, solver)
    try:
        yield work
    except PivotError as failure:
        work.close(remove=True)
        raise _diagnosis(work, failure.row) from None
    except BaseException:
        work.close()
        raise
    work.close(remove=not (solver.keep_factor or solver.keep_curve))


def tiled_factor(
    store: GramStore, kernel: str, λ: float, solver: TiledCholesky, n: int | None = None
) -> TiledFactor:
    """The factor of K + λI of the first n rows of a store, on disk; `solve` of it takes any right-hand sides.

    Its folder stays: delete it, or give it to `TiledFactor.open`. The caller closes the factor.

    Raises:
        NotPositiveDefiniteError: names the pivot, its row, a twin of that row, and a ridge that is enough.
        KernregError: tiles missing, memory or disk do not suffice.
    """
    return _factored(StoredGram(store, kernel, 0, n), λ, solver)


def tiled_solve(
    store: GramStore,
    kernel: str,
    λ: float,
    solver: TiledCholesky,
    Y: npt.ArrayLike | None = None,
    n: int | None = None,
    rtol: float = 1e-10,
) -> TiledSolution:
    """(K + λI)⁻¹Y of the first n rows of a store, with the residual measured in float64 on the store.

    The value is refined, v ← v + (L·Lᵀ)⁻¹(Y − (K + λI)v), until the residual is at most rtol or ceases to
    halve (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 12); that is what gives a
    float32 factor float64 accuracy. Each residual reads the store once, each correction the factor twice.

    Args:
        store, kernel, λ, solver, n: as in `tiled_factor`.
        Y: (n, c) right-hand sides; default the store's targets.
        rtol: of |Y − (K + λI)v|/|Y|, per column.

    Raises:
        KernregError: as `tiled_factor`; the refinement of a float32 factor stops above rtol.
    """
    gram = StoredGram(store, kernel, 0, n)
    right = targets(store.y_train[: len(gram)] if Y is None else Y, "Y")
    if len(right) != len(gram):
        raise KernregError(f"Y has {len(right)} rows, K has {len(gram)}")
    scale = np.sqrt(np.square(right).sum(axis=0))
    scale[scale == 0] = 1.0

    def residual_of(value: Matrix) -> tuple[Matrix, Matrix]:
        rest = right - gram.matmul(value) - λ * value
        return rest, np.sqrt(np.square(rest).sum(axis=0)) / scale

    with _factored(gram, λ, solver) as factor:
        value = factor.solve(right)
        rest, residual = residual_of(value)
        refinements = 0
        while residual.max() > rtol and refinements < REFINEMENTS:
            better = value + factor.solve(rest)
            rest, now = residual_of(better)
            if not now.max() <= residual.max() / 2:
                break
            value, residual, refinements = better, now, refinements + 1
        scratch = factor.scratch
        traffic = Traffic(scratch.read_bytes, scratch.written_bytes, gram.read_bytes, factor.blocks)
    if not solver.keep_factor:
        shutil.rmtree(scratch.folder.parent, ignore_errors=True)
    if solver.dtype == "float32" and not residual.max() <= rtol:
        raise KernregError(
            f"refinement of the float32 factor stopped at a residual of {residual.max():.1e} after "
            f"{refinements} steps, {rtol:.1e} was asked for: use dtype float64, or a larger ridge or rtol"
        )
    return TiledSolution(value, residual, refinements, traffic)


def _factored(gram: StoredGram, λ: float, solver: TiledCholesky) -> TiledFactor:
    n = len(gram)
    y = gram.store.y_train[:n]
    with (
        working(gram, y, λ, replace(solver, keep_factor=True)) as work,
        Meter(0, n**3 // 3, solver.progress, "FLOP", "cholesky") as meter,
    ):
        return work.factor(0, n, meter, 0)


def _diagnosis(work: Work, row: int) -> NotPositiveDefiniteError:
    """The error, once a larger ridge has been found by factoring with it; that factor is kept for the user."""
    gram, solver, n = work.gram, replace(work.solver, keep_factor=True), len(work.gram)
    mean = float(np.abs(gram.diagonal()).mean()) or 1.0
    said = (
        f"{gram.store.path}: K + ridge·I with ridge = {work.λ:.3g} is not positive definite in {solver.dtype}: "
        f"pivot {row + 1} (counting from 1; row {row} counting from 0) fails"
    )
    if also := twin(gram.store, row):
        said = f"{said}; {also}"
    # Rounding of the stored numbers moves eigenvalues by about √n·ε, that of the factorisation by less than n·ε.
    rounding = max(np.sqrt(n) * float(np.finfo(gram.store.dtype).eps), 4 * n * EPS)
    enough = round_up(max(RAISE * work.λ, mean * rounding))
    while True:
        attempt = Work(gram, work.y, enough, solver)
        try:
            with Meter(0, n**3 // 3, solver.progress, "FLOP", f"trying ridge {enough:.2g}") as meter:
                meter.note(said)
                attempt.factor(0, n, meter, work.others).close()
            break
        except PivotError:
            attempt.close(remove=True)
            enough = round_up(RAISE * enough)
        except BaseException:
            attempt.close()
            raise
    attempt.close()
    message = (
        f"{said}; ridge = {enough:.3g} ({round_up(enough / mean):.3g} of the mean diagonal) is enough: the "
        f"whole factorisation was tried with it, and goes on from {attempt.folder} when asked for again"
    )
    return NotPositiveDefiniteError(message, row + 1, row, enough)
