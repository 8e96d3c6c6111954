"""The workers of a Dask cluster and which parts of a Gram each of them holds; those of a lost one go to the others.

Each worker has one actor, a `kernreg.peer.Peer`, which is called directly, without a task of the scheduler. Whether a worker
is lost is for the scheduler to say: it drops one whose connection ends at once, and one that is silent after its `worker-ttl`.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kernreg.errors import KernregError
from kernreg.holding import Source
from kernreg.partition import Partition
from kernreg.peer import Peer, RoundLost
from kernreg.plan import PROCESS_BYTES, show_bytes
from kernreg.progress import Meter, Progress

if TYPE_CHECKING:
    from distributed import Client

POLL_SECONDS = 1.0  # between two questions whether a worker that has not answered is still there
GRACE_SECONDS = 5.0  # in which the scheduler notices that a worker whose connection failed is gone
PATIENCE_SECONDS = 60.0  # for new workers, where those that are left cannot hold the tiles
REACH_SECONDS = 3.0  # to connect to a worker; clients behind a firewall wait so long once
PAUSE = 0.8  # of its memory limit, at which Dask pauses a worker

_numbers = itertools.count()


class Lost(Exception):
    """A worker that the scheduler has dropped."""


@dataclass(eq=False)
class Member:
    """A worker.

    Attributes:
        address: of the worker.
        future, actor: Dask's; its tiles live as long as the future.
        about: what `kernreg.holding.Holder.about` says.
        parts: held, to their bytes.
    """

    address: str
    future: Any
    actor: Any
    about: dict[str, Any] = field(default_factory=dict)
    parts: dict[int, int] = field(default_factory=dict)

    @property
    def bytes_held(self) -> int:
        return sum(self.parts.values())


class Crew:
    """The workers of a client's cluster.

    Attributes:
        partition: the parts.
        members: those at work, by address.
        lost: addresses of those that were lost.
        generation: another number whenever somebody else holds something.
    """

    def __init__(
        self,
        client: Client,
        source: Source,
        partition: Callable[[int, int], Partition],
        device: str,
        progress: bool | Progress,
        note: Callable[[str], object],
    ) -> None:
        """Start an actor on each worker, and load its share.

        Args:
            client: of a cluster with at least one worker, or one that is on its way.
            source: of the tiles.
            partition: (workers, most threads of one) → the parts.
            device: as in `kernreg.holding.Holder`.
            progress: of the loading, in bytes.
            note: is told of losses, a line each.

        Raises:
            KernregError: no worker, no room for the tiles, a worker cannot read them, or the scheduler is gone.
        """
        self._client, self._source, self._device, self._note = client, source, device, note
        self.members: dict[str, Member] = {}
        self.lost: list[str] = []
        self.generation = 0
        threads = self._workers()
        if not client.direct_to_workers and all(map(_reachable, threads)):
            client.direct_to_workers = (
                True  # else whatever is sent passes through the scheduler, twice on the wire
            )
        self.partition = partition(len(threads), max(threads.values()))
        self._sizes = [entries * source.itemsize for entries in self.partition.entries]
        try:
            self.settle(progress)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all tiles."""
        self._dismiss([member.future for member in self.members.values()])
        self.members.clear()

    def collect(
        self, parts: Sequence[int], ask: Callable[[Member, list[int]], tuple[Any, ...]]
    ) -> Iterator[tuple[list[int], Any]]:
        """Call every worker that holds some of these parts, and whoever takes over from one that is lost, until all are through.

        Args:
            parts: without repetition.
            ask: (member, its parts of these) → method of `kernreg.peer.Peer` and its arguments.

        Yields:
            (parts, what the method returned), in no particular order.
        """
        left = set(parts)
        while left:
            self.settle()
            calls = []
            for member in list(self.members.values()):
                if mine := sorted(left & member.parts.keys()):
                    calls.append((member, mine, self.call(member, *ask(member, mine))))
            for member, mine, call in calls:
                try:
                    answer = self.answer(member, call)
                except Lost:
                    continue
                left -= set(mine)
                yield mine, answer

    def settle(self, progress: bool | Progress = False) -> None:
        """Have every part held by somebody: at first a share each, later by whoever holds least."""
        if not self._missing():
            return
        total = sum(self._sizes)
        with Meter(0, total, progress, unit="B", title="tiles") as meter:
            meter.skip(total - sum(self._sizes[part] for part in self._missing()))
            while missing := self._missing():
                self._enlist()
                self._load(self._deal(missing), meter)

    def call(self, member: Member, method: str, *arguments: Any) -> Any:
        """Begin a call; `answer` takes what this returns."""
        try:
            return getattr(member.actor, method)(*arguments)
        except (OSError, ValueError, RuntimeError) as error:  # Dask knows already that the worker is gone
            return error

    def answer(self, member: Member, call: Any, beside: Sequence[Member] = ()) -> Any:
        """What a call returned.

        Args:
            beside: others without whom the worker may wait for ever.

        Raises:
            Lost: one of them is, and is forgotten.
            KernregError: in the worker's own words. RoundLost: as `Peer`.
        """
        try:
            return self._answer(call, {m.address: m.future for m in (member, *beside)})
        except Lost as loss:
            self._forget(str(loss))
            raise

    def bury(self, members: Sequence[Member], reason: str) -> None:
        """Forget those of some members that are gone, after one has failed another. Raises KernregError if none is."""
        until = time.monotonic() + GRACE_SECONDS
        while all(member.address in self.members for member in members):
            alive = self._alive()
            for member in members:
                if member.address not in alive:
                    self._forget(member.address)
            if time.monotonic() > until:
                raise KernregError(f"the workers cannot reach each other ({reason}): use exchange='client'")
            time.sleep(POLL_SECONDS / 10)

    def _missing(self) -> list[int]:
        held = {part for member in self.members.values() for part in member.parts}
        return [part for part, tiles in enumerate(self.partition.parts) if tiles and part not in held]

    def _deal(self, missing: list[int]) -> list[tuple[Member, int]]:
        """Who is to hold which part. Waits for new workers where those that are left have no room."""
        until = time.monotonic() + PATIENCE_SECONDS
        while (dealt := self._fitted(missing)) is None:
            if time.monotonic() > until:
                free = sum(self._free(member) for member in self.members.values())
                raise KernregError(
                    f"{show_bytes(sum(self._sizes[part] for part in missing))} of tiles are to be held, and "
                    f"{len(self.members)} workers have room for {show_bytes(free)}: start more workers, or give them more memory"
                )
            time.sleep(POLL_SECONDS / 2)
            self._enlist()
        return dealt

    def _fitted(self, missing: list[int]) -> list[tuple[Member, int]] | None:
        crew = [self.members[address] for address in sorted(self.members)]
        first = not any(member.parts for member in crew)
        taken = {member.address: 0 for member in crew}
        dealt = []
        for part in missing:
            share, size = part // self.partition.cuts, self._sizes[part]
            least = sorted(crew, key=lambda member: member.bytes_held + taken[member.address])
            asked = [*crew[share : share + 1], *least] if first else least
            taker = next((m for m in asked if taken[m.address] + size <= self._free(m)), None)
            if taker is None:
                return None
            taken[taker.address] += size
            dealt.append((taker, part))
        return dealt

    def _free(self, member: Member) -> float:
        room = member.about["room"]
        return float("inf") if room is None else max(room - member.bytes_held, 0)

    def _load(self, dealt: list[tuple[Member, int]], meter: Meter) -> None:
        calls = [(m, part, self.call(m, "load", part, self.partition.parts[part])) for m, part in dealt]
        for member, part, call in calls:
            if member.address in self.members:
                try:
                    member.parts[part] = self.answer(member, call)
                except Lost:
                    continue
                self.generation += 1
                meter.advance(self._sizes[part])

    def _enlist(self) -> None:
        """An actor on every worker that has none."""
        threads = self._workers()
        limits = self._client.run(_memory_limit, on_error="ignore")
        coming = {}
        for address in sorted(threads.keys() - self.members.keys()):
            limit = limits.get(address)
            room = max(int(PAUSE * limit) - PROCESS_BYTES, 0) if limit else None
            arguments = (self._source, self._device, threads[address], room)
            key = f"kernreg-peer-{next(_numbers)}-{time.time_ns()}"
            coming[address] = self._client.submit(Peer, *arguments, key=key, workers=[address], actor=True)
        try:
            for address, future in coming.items():
                with contextlib.suppress(Lost):
                    member = Member(address, future, self._answer(future, {address: future}))
                    member.about = self._answer(self.call(member, "about"), {address: future})
                    self.members[address] = member
                    self.generation += 1
        finally:
            self._dismiss([future for address, future in coming.items() if address not in self.members])

    def _workers(self) -> dict[str, int]:
        """Threads of every worker, once there is one."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (threads := self._alive()):
            if time.monotonic() > until:
                raise KernregError(
                    f"the cluster at {self._client.scheduler.address} has had no worker for {PATIENCE_SECONDS:.0f} s: "
                    "start some, and run the same command again"
                )
            time.sleep(POLL_SECONDS / 10)
        return threads

    def _alive(self) -> dict[str, int]:
        """Threads of every worker that the scheduler knows."""
        try:
            return dict(self._client.nthreads())
        except Exception as error:  # it says so in many ways
            raise KernregError(
                f"the scheduler is gone ({error}): run the same command on another cluster"
            ) from None

    def _answer(self, call: Any, actors: dict[str, Any]) -> Any:
        """What a call of the first of these actors, by address, returned."""
        until = None
        while True:
            try:
                if isinstance(call, Exception):
                    raise call
                return call.result(timeout=POLL_SECONDS)
            except (KernregError, RoundLost):
                raise
            except Exception as error:
                alive = self._alive()
                for address, actor in actors.items():
                    # a worker may have come back under the same address, without the actor
                    if address not in alive or actor.status in ("lost", "cancelled"):
                        raise Lost(address) from None
                if isinstance(error, TimeoutError) and not call.done():
                    continue
                # a connection that failed: the scheduler has to notice, too
                until = until or time.monotonic() + GRACE_SECONDS
                if not isinstance(error, OSError | ValueError | RuntimeError) or time.monotonic() > until:
                    raise KernregError(
                        f"worker {next(iter(actors))}: {type(error).__name__}: {error}"
                    ) from error
                time.sleep(POLL_SECONDS / 10)

    def _dismiss(self, futures: list[Any]) -> None:
        """End actors, even if some object here or on another worker still refers to them."""
        if not futures:
            return
        with contextlib.suppress(Exception):  # a scheduler that is gone has ended them
            self._client.cancel(futures, force=True)

    def _forget(self, address: str) -> None:
        if (member := self.members.pop(address, None)) is not None:
            self._dismiss([member.future])
            self.lost.append(address)
            self.generation += 1
            self._note(
                f"lost worker {address}: the others read its {show_bytes(member.bytes_held)} of tiles again"
            )


def _reachable(address: str) -> bool:
    """Whether this process can connect to a worker at tcp://host:port or the like."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _memory_limit(dask_worker: Any) -> int | None:
    limit: int | None = dask_worker.memory_manager.memory_limit
    return limit
