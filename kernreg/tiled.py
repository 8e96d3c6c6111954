"""TiledCholesky: the solver for a K + λI that memory does not hold, from a Gram store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from traceback import clear_frames

import numpy as np

from kernreg.blocks import GPU_PROCESS_BYTES, PROCESS_BYTES, Blocks, choose_blocks, require_gpu_memory
from kernreg.cholesky import EPS, Matrix, NotPositiveDefiniteError, round_up
from kernreg.duplicates import twin
from kernreg.durable import Lock, refusal
from kernreg.errors import KernregError
from kernreg.gputiles import Gpu, GpuTiles
from kernreg.operators import Stored
from kernreg.plan import parse_bytes, require_memory, show_bytes
from kernreg.progress import Meter, Progress
from kernreg.provenance import checksum, text_checksum
from kernreg.scratch import Scratch
from kernreg.store import GramStore
from kernreg.storedgram import StoredGram
from kernreg.tiledfactor import PivotError, TiledFactor

# Of the machine's memory, and of a GPU's that is free, where no budget is given.
DEFAULT_SHARE = 0.75
DEFAULT_GPU_SHARE = 0.9
RAISE = 4.0  # a ridge that fails is followed by one so many times larger


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
        gpus: that compute, as `kernreg.device.gpus` finds them; none: the host.
        device_memory: most bytes of each GPU's memory, or text; None: nine tenths of what is free.
    """

    memory: int | str | None = None
    scratch: str | os.PathLike[str] | None = None
    keep_factor: bool = False
    keep_curve: bool = False
    dtype: str = "float64"
    progress: bool | Progress = False
    gpus: tuple[Gpu, ...] = ()
    device_memory: int | str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise KernregError(f"dtype is float32 or float64, not {self.dtype!r}")

    @property
    def bytes_allowed(self) -> int:
        """`memory` in bytes. Raises KernregError if it is no amount of memory."""
        if self.memory is not None:
            return parse_bytes(self.memory)
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * DEFAULT_SHARE)

    @property
    def gpu_bytes_allowed(self) -> int:
        """`device_memory` in bytes; 0 without a GPU. Raises KernregError if a GPU has not as much free."""
        if not self.gpus:
            return 0
        free = min(gpu.free_bytes for gpu in self.gpus)
        if self.device_memory is None:
            return int(free * DEFAULT_GPU_SHARE)
        allowed = parse_bytes(self.device_memory)
        if allowed > free:
            raise KernregError(
                f"--device-memory allows {show_bytes(allowed)} and {show_bytes(free)} of the GPU are free: "
                "allow less, or end other programs on it"
            )
        return allowed


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


class Work:
    """The folder in which one K + λI is factored, locked.

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
            KernregError: memory, of the host or a GPU, or disk do not suffice.
        """
        solver, gram = self.solver, self.gram.part(start, stop)
        item, gpus = np.dtype(solver.dtype).itemsize, solver.gpus
        self.others = others
        others += gram.tile_bytes + 8 * self.y.size * 3 + bool(gpus) * GPU_PROCESS_BYTES
        allowed, gpu_allowed = solver.bytes_allowed, solver.gpu_bytes_allowed
        blocks = choose_blocks(stop - start, allowed, item, others, len(gpus), gpu_allowed)
        identity = {**self.identity, "rows": [start, stop]}
        scratch = Scratch.begin(self.place(start, stop), identity, blocks, solver.dtype, self.y.shape[1])
        blocks = scratch.blocks  # of a factor that was begun
        try:
            require_memory(PROCESS_BYTES + others + blocks.bytes(item), allowed)
            if gpus:
                require_gpu_memory(blocks.gpu_bytes(item, len(gpus)), gpu_allowed)
            factor = TiledFactor(scratch, GpuTiles(gpus, blocks, solver.dtype) if gpus else None)
        except BaseException:
            scratch.close()
            raise
        try:
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
        clear_frames(failure.__traceback__)  # which hold the panel, and the next factor needs its memory
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
    return factored(StoredGram(store, kernel, 0, n), λ, solver, 0)


def factored(gram: StoredGram, λ: float, solver: TiledCholesky, others: int) -> TiledFactor:
    """As `tiled_factor`, with so many bytes of what else is in memory."""
    n = len(gram)
    y = gram.store.y_train[:n]
    with (
        working(gram, y, λ, replace(solver, keep_factor=True)) as work,
        Meter(0, n**3 // 3, solver.progress, "FLOP", "cholesky") as meter,
    ):
        return work.factor(0, n, meter, others)


def _diagnosis(work: Work, row: int) -> NotPositiveDefiniteError:
    """The error, once a larger ridge has been found by factoring with it; that factor is kept for the user."""
    gram, solver, n = work.gram, replace(work.solver, keep_factor=True), len(work.gram)
    mean = float(np.abs(Stored.streamed(gram.store, gram.kernel, n).diagonal()).mean()) or 1.0
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
    other = "; or use a float64 factor (--factor-dtype float64)" if solver.dtype == "float32" else ""
    message = (
        f"{said}; ridge = {enough:.3g} ({round_up(enough / mean):.3g} of the mean diagonal) is enough: the "
        f"whole factorisation was tried with it, and goes on from {attempt.folder} when asked for again{other}"
    )
    return NotPositiveDefiniteError(message, row + 1, row, enough)
