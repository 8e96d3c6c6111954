"""A store filled by the workers of a Dask cluster: a task for each tile that is missing; the workers write their own shards.

Here is the client's side: it holds the writer's lock, lays the rows beside the store, counts what is committed, and says in one
line what went wrong. A worker that is lost costs the tile that it had in hand, which another one computes; a client that is lost
costs nothing that is committed. What a task does: `kernreg.tiletask`.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernreg import gramfile, tiletask
from kernreg.architecture import Architecture
from kernreg.cluster import SchedulerLost, WorkersDied, asking, patience, result, worker_count
from kernreg.durable import replace
from kernreg.errors import KernregError
from kernreg.fill import remaining
from kernreg.gramfile import shard_name
from kernreg.plan import HOST, Workers
from kernreg.progress import Interruption, Meter, Progress
from kernreg.provenance import Array
from kernreg.seal import read_seal
from kernreg.shards import Place
from kernreg.store import GramStore
from kernreg.tiletask import Answer, TileTask

if TYPE_CHECKING:
    from distributed import Client

POLL_SECONDS = 0.1
CENSUS_SECONDS = 2.0
RETRIES = 2  # of a task that ends in an exception nobody foresaw, on whatever worker
SIGHT_SECONDS = 90.0  # until a network file system shows what workers have written: acdirmax of NFS, and some


def fill(
    client: Client,
    store: GramStore,
    x_train: Array,
    x_test: Array | None = None,
    progress: bool | Progress = False,
) -> None:
    """As `kernreg.fill.fill`, by all workers of a cluster, whichever come and go.

    Args:
        client: of `kernreg.cluster.connect`.
        store, x_train, x_test, progress: as in `kernreg.fill.fill`.

    Raises:
        KernregError: as in `kernreg.fill.fill`, from any worker, by its machine; the scheduler or all workers are lost; a tile
            whose workers died, by name, once all others are done.
        KeyboardInterrupt: SIGINT or SIGTERM; the tiles in hand are committed.
    """
    store._require_writer()
    x_test = x_train[:0] if x_test is None else x_test
    missing, done, total = remaining(store, x_train, x_test, int(x_train.nbytes + x_test.nbytes))
    with Meter(done, total, progress) as meter, Interruption(meter.note) as interruption:
        if not missing:
            return
        with _rows_beside(store, x_train, x_test) as task:
            run = _Run(client, store, task, meter)
            run.submit(missing)
            while run.pending:
                run.collect()
                if interruption.requested or run.failure:
                    run.withdraw()
                run.take_census()
                time.sleep(POLL_SECONDS)
        if run.failure:
            raise KernregError(run.failure)
        if interruption.requested:
            raise KeyboardInterrupt
        run.require_all()


@dataclass
class _Run:
    """The tasks of one fill.

    Attributes:
        client, store, task, meter: what it works with.
        pending: futures to their tiles.
        failure: why no further tile is begun, or "".
        given_up: tiles whose workers died, and the last of these.
        absent_since: when the last worker was seen to be gone.
    """

    client: Client
    store: GramStore
    task: TileTask
    meter: Meter
    pending: dict[Any, Place] = field(default_factory=dict)
    failure: str = ""
    given_up: list[tuple[Place, str]] = field(default_factory=list)
    absent_since: float | None = None
    _withdrawn: bool = False
    _counted_at: float = 0.0

    def submit(self, missing: Sequence[Place]) -> None:
        parts, tiles = zip(*missing, strict=True)
        blocks = [(tile.row_block, tile.column_block) for tile in tiles]
        name = f"tile-{self.task.token}"
        keys = [(name, part, *block) for part, block in zip(parts, blocks, strict=True)]
        compute = partial(tiletask.compute, self.task)
        settings = {"key": keys, "pure": False, "retries": RETRIES}
        with asking():
            futures = self.client.map(compute, parts, *map(list, zip(*blocks, strict=True)), **settings)
        self.pending = dict(zip(futures, missing, strict=True))

    def collect(self) -> None:
        """Count the tasks that have ended."""
        for future in [future for future in self.pending if future.done()]:
            place = self.pending[future]
            try:
                answer = result(future)
            except TimeoutError:
                continue
            except SchedulerLost:
                raise
            except WorkersDied as death:
                self.given_up.append((place, str(death)))
                self.meter.note(f"tile {_name(place)} is given up: its workers died; the others go on")
                answer = None
            except Exception as error:  # a task's own, after its retries
                said = " ".join(str(error).split())[:200]
                answer = Answer("refused", f"tile {_name(place)}: {type(error).__name__} on a worker: {said}")
            del self.pending[future]
            if answer is not None:
                self._count(answer, place)

    def _count(self, answer: Answer, place: Place) -> None:
        if answer.state == "committed":
            self.meter.advance(place[1].pairs)
        elif answer.state == "refused":
            self.failure = self.failure or answer.reason
        elif not self._withdrawn:
            self.failure = self.failure or (
                f"the rows beside the store are gone: {self.task.rows_path(place[0])}; run the same command again"
            )

    def withdraw(self) -> None:
        """Begin no further tile: tasks that find no rows end at once."""
        if not self._withdrawn:
            self._withdrawn = True
            for part in gramfile.PARTS:
                self.task.rows_path(part).unlink(missing_ok=True)

    def take_census(self) -> None:
        """Show how many workers there are; some must be there again before patience ends."""
        now = time.monotonic()
        if now - self._counted_at < CENSUS_SECONDS:
            return
        self._counted_at, count = now, worker_count(self.client)
        self.meter.describe(f"gram, {count} worker{'s' * (count != 1)}")
        if count:
            self.absent_since = None
            return
        self.absent_since = self.absent_since or now
        if self._withdrawn:
            self.pending.clear()
        elif now - self.absent_since > patience(self.client):
            raise KernregError(
                f"no worker was left for {now - self.absent_since:.0f} s, with {len(self.pending)} tiles not done; finished "
                "tiles are kept: start workers and run the same command again"
            )

    def require_all(self) -> None:
        """Every tile must be there, as seen from this machine."""
        if self.given_up:
            names = ", ".join(_name(place) for place, _ in self.given_up[:3])
            more = f" and {len(self.given_up) - 3} more" if len(self.given_up) > 3 else ""
            raise KernregError(
                f"given up: {names}{more}, whose workers died one after the other, the last one {self.given_up[-1][1]}: look at "
                "its log (memory?); all other tiles are done, and the same command tries again"
            )
        deadline = time.monotonic() + SIGHT_SECONDS
        while missing := self.store.missing():
            if time.monotonic() > deadline:
                raise KernregError(
                    f"workers have committed {len(missing)} tiles that this machine does not see in {self.store.path}: keep the "
                    "store (--out) on a file system that all workers share"
                )
            time.sleep(POLL_SECONDS)


@contextmanager
def _rows_beside(store: GramStore, x_train: Array, x_test: Array) -> Iterator[TileTask]:
    """The rows in files beside the store while tiles may be begun; a writer to come removes what a killed client left."""
    folder = store.path.resolve()
    task = TileTask(str(folder), read_seal(folder / gramfile.MAIN)["checksum"], secrets.token_hex(4))
    rows = {"train": x_train[: store.n], "test": x_test[: store.t]}
    try:
        for part, x in rows.items():
            if len(x):
                replace(task.rows_path(part), partial(_save, x))
        yield task
    finally:
        for part in rows:
            task.rows_path(part).unlink(missing_ok=True)


def _save(x: Array, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, x)


def backend_for(
    client: Client,
    path: str | os.PathLike[str],
    backend: str,
    architecture: Architecture,
    shape: tuple[int, ...],
    n: int,
    t: int,
) -> tuple[str, Workers]:
    """As `kernreg.fill.backend_for`, resolved by the workers, which must agree; and what the smallest of them has room for.

    Raises:
        KernregError: a worker has no such backend, by its address; or two of them resolve "auto" differently.
        NotImplementedError: a layer that the backend does not cover, by name.
    """
    folder = Path(path)
    if backend == "auto" and (folder / gramfile.MAIN).exists():
        store = GramStore.open(folder)
        backend = store.backend
        if n <= store.n and t <= store.t and not store.missing(n, t):
            return backend, HOST
    with asking():
        found = client.run(tiletask.ability, backend, architecture, shape, on_error="return")
    for address, able in found.items():
        if isinstance(able, NotImplementedError):
            raise able
        if isinstance(able, BaseException):
            raise KernregError(f"worker {address}: {able}")
    by_name = {able.backend: address for address, able in found.items()}
    if len(by_name) > 1:
        listed = ", ".join(f"{name} on {address}" for name, address in sorted(by_name.items()))
        raise KernregError(
            f"the workers do not agree on a backend ({listed}): name one (--backend), or use workers of one kind"
        )
    if not found:
        raise KernregError("no worker is left: start some and run the same command again")
    room = min(found.values(), key=lambda able: able.workers.lane_bytes or 0)
    return room.backend, room.workers


@lru_cache(maxsize=1)
def seconds_per_pair(
    client: Client,
    shape: tuple[int, ...],
    rows: str,
    architecture: Architecture,
    kernel: str,
    backend: str,
    dtype: str,
) -> float:
    """Of one worker, once measured; `rows` is the dtype of the rows, the others are as in `kernreg.gram.build`.

    Raises:
        KernregError: the scheduler is lost, or the workers that were asked died.
    """
    with asking():
        timed = client.submit(tiletask.pace, shape, rows, architecture, kernel, backend, dtype, pure=False)
        while not timed.done():
            time.sleep(POLL_SECONDS)
        try:
            return float(result(timed))
        except WorkersDied as death:
            raise KernregError(
                f"workers died while their speed was measured, the last one {death}: look at its log (memory?)"
            ) from None


def _name(place: Place) -> str:
    return shard_name(*place).removesuffix(".h5")
