"""What a worker of a cluster does with one tile: rows beside the store → values → a committed shard. Knows nothing of Dask.

The rows lie in files beside the store, on the file system that workers share with it: who can write tiles can read rows, however
late it comes. They are there as long as tiles may be begun; without them a task ends at once.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, NamedTuple

import numpy as np

from kernreg import gramfile
from kernreg.architecture import Architecture
from kernreg.durable import PARTIAL
from kernreg.errors import KernregError
from kernreg.kernels import backends
from kernreg.kernels.lanes import Lane, lane_bytes, lanes
from kernreg.plan import Workers, seconds_per_pair
from kernreg.provenance import Array, require_hashes, row_hashes
from kernreg.seal import read_seal
from kernreg.shards import Shards

SIGHT_SECONDS = 30.0  # until a network file system shows what another machine has written: acdirmin of NFS
TIMED_ROWS = 2048


@dataclass(frozen=True)
class TileTask:
    """What all tiles of one fill have in common.

    Attributes:
        store: its folder, absolute, the same on all machines.
        main: checksum of its main file, as the client sees it.
        token: of this fill, in the names of the files of its rows.
    """

    store: str
    main: str
    token: str

    def rows_path(self, part: str) -> Path:
        """The x_train or x_test of the store, as .npy; removed by the next writer if the client cannot."""
        return Path(self.store) / f"rows-{part}-{self.token}.npy{PARTIAL}"


class Answer(NamedTuple):
    """How a task ended: the tile is committed; it was not begun, since the rows are gone; or why it cannot be computed."""

    state: Literal["committed", "not begun", "refused"]
    reason: str = ""


class Ability(NamedTuple):
    """What a worker computes with."""

    backend: str
    workers: Workers


def compute(task: TileTask, part: str, row_block: int, column_block: int) -> Answer:
    """Compute a tile and commit it, unless it is there. Anything a user can act on is an answer, not an exception."""
    try:
        return _compute(task, part, row_block, column_block)
    except (KernregError, NotImplementedError) as error:
        return Answer("refused", f"{here()}: {error}")
    except MemoryError:
        return Answer("refused", f"{here()} has not enough memory for a tile; use fewer workers there")


def _compute(task: TileTask, part: str, row_block: int, column_block: int) -> Answer:
    contents = _contents(task)
    settings, shards = contents.settings, Shards(Path(task.store), contents)
    place = (part, contents.grids[part].tile(row_block, column_block))
    tile = place[1]
    if not shards.missing([place]):
        shards.describe(*place)
        return Answer("committed")
    kernel = "both" if len(settings.kernels) == 2 else settings.kernels[0]
    with _lane(settings.backend):
        try:
            x = _rows(task, contents, part, tile.rows)
            z = None if tile.diagonal else _rows(task, contents, "train", tile.columns)
        except FileNotFoundError:
            return Answer("not begun")
        with np.errstate(all="ignore"):  # `write` refuses what is not finite, with a remedy
            values = backends.compute(x, z, settings.architecture, kernel, settings.backend, settings.dtype)
    shards.write(part, tile, values)
    return Answer("committed")


def ability(backend: str, architecture: Architecture, shape: tuple[int, ...]) -> Ability:
    """What this process computes the network with; "auto" is resolved here.

    Raises:
        KernregError: it has no such backend.
        NotImplementedError: a layer that the backend does not cover, by name.
    """
    name = backends.resolve(backend, architecture, shape)
    backends.covers(name, architecture, shape)
    count = len(lanes(name))
    return Ability(name, Workers(count, count, lane_bytes(name)))


def pace(
    shape: tuple[int, ...], rows: str, architecture: Architecture, kernel: str, backend: str, dtype: str
) -> float:
    """Seconds that one pair takes this process, see `seconds_per_pair`; of random rows of a shape and dtype."""
    x = np.random.default_rng(0).standard_normal((TIMED_ROWS, *shape)).astype(rows)
    with _lane(backend):
        return seconds_per_pair(x, architecture, kernel, backend, dtype)


def here() -> str:
    """This process, as one would look for it."""
    return f"worker on {socket.gethostname()} (pid {os.getpid()})"


@lru_cache(maxsize=1)
def _contents(task: TileTask) -> gramfile.Contents:
    """The main file as the client sees it, once this machine does."""
    folder = Path(task.store)
    deadline = time.monotonic() + SIGHT_SECONDS
    while True:
        try:
            if read_seal(folder / gramfile.MAIN)["checksum"] == task.main:
                return gramfile.read_main(folder)
        except (OSError, ValueError):  # not there, or half of it
            pass
        if time.monotonic() > deadline:
            raise KernregError(
                f"does not see {folder} as it is on the machine that runs the command: keep the store (--out) on a "
                "file system that all workers share, under one path"
            )
        time.sleep(0.5)


def _rows(task: TileTask, contents: gramfile.Contents, part: str, rows: slice) -> Array:
    """A copy of some rows, once they are what the store was made of. Raises FileNotFoundError."""
    path = task.rows_path(part)
    try:
        x = np.array(np.load(path, mmap_mode="r")[rows])
    except ValueError as error:
        raise KernregError(f"{path} cannot be read: {error}; run the same command again") from None
    require_hashes(contents.rows[part].hashes[rows], row_hashes(x), part, task.store)
    return x


_waiting: dict[str, SimpleQueue[Lane]] = {}  # lanes of this process that compute nothing, by backend
_making = threading.Lock()


@contextmanager
def _lane(backend: str) -> Iterator[None]:
    """A lane of this process to oneself: a worker of several threads computes no more tiles at once than it has lanes."""
    with _making:
        if backend not in _waiting:
            idle: SimpleQueue[Lane] = SimpleQueue()
            for lane in lanes(backend):
                idle.put(lane)
            _waiting[backend] = idle
    lane = _waiting[backend].get()
    try:
        with lane():
            yield
    finally:
        _waiting[backend].put(lane)
