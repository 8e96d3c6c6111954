"""Who of a cluster's workers holds which parts of a Gram; those of a lost one go to the others, who read them again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kernreg import actors
from kernreg.actors import Actors, Lost, Member
from kernreg.errors import KernregError
from kernreg.holding import Source
from kernreg.partition import Partition
from kernreg.peer import Peer
from kernreg.plan import PROCESS_BYTES, show_bytes
from kernreg.progress import Meter, Progress

if TYPE_CHECKING:
    from distributed import Client

PAUSE = 0.8  # of its memory limit, at which Dask pauses a worker


class Crew:
    """The workers of a client's cluster, each a `kernreg.peer.Peer`.

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
        self._source, self._device, self._note = source, device, note
        self._actors = Actors(client)
        self.members: dict[str, Member] = {}
        self.lost: list[str] = []
        self.generation = 0
        threads = [count for count, _ in self._actors.resources().values()]
        self.partition = partition(len(threads), max(threads))
        size = source.itemsize if source.keeps else 0
        self._sizes = [entries * size for entries in self.partition.entries]
        try:
            self.settle(progress)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of all tiles."""
        self._actors.dismiss([member.future for member in self.members.values()])
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
        return self._actors.call(member, method, *arguments)

    def answer(self, member: Member, call: Any, beside: Sequence[Member] = ()) -> Any:
        """As `kernreg.actors.Actors.answer`; whoever is lost is forgotten."""
        try:
            return self._actors.answer(member, call, beside)
        except Lost as loss:
            self._forget(str(loss))
            raise

    def bury(self, members: Sequence[Member], reason: str) -> None:
        """Forget those of some members that are gone, after one has failed another. Raises KernregError if none is."""
        until = time.monotonic() + actors.GRACE_SECONDS
        while all(member.address in self.members for member in members):
            alive = self._actors.alive()
            for member in members:
                if member.address not in alive:
                    self._forget(member.address)
            if time.monotonic() > until:
                raise KernregError(f"the workers cannot reach each other ({reason}): use exchange='client'")
            time.sleep(actors.POLL_SECONDS / 10)

    def _missing(self) -> list[int]:
        held = {part for member in self.members.values() for part in member.parts}
        return [part for part, tiles in enumerate(self.partition.parts) if tiles and part not in held]

    def _deal(self, missing: list[int]) -> list[tuple[Member, int]]:
        """Who is to hold which part. Waits for new workers where those that are left have no room."""
        until = time.monotonic() + actors.PATIENCE_SECONDS
        while (dealt := self._fitted(missing)) is None:
            if time.monotonic() > until:
                free = sum(_free(member) for member in self.members.values())
                raise KernregError(
                    f"{show_bytes(sum(self._sizes[part] for part in missing))} of tiles are to be held, and "
                    f"{len(self.members)} workers have room for {show_bytes(int(free))}: "
                    "start more workers, or give them more memory"
                )
            time.sleep(actors.POLL_SECONDS / 2)
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
            taker = next((m for m in asked if taken[m.address] + size <= _free(m)), None)
            if taker is None:
                return None
            taken[taker.address] += size
            dealt.append((taker, part))
        return dealt

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

        def arguments(threads: int, limit: int | None) -> tuple[Any, ...]:
            room = max(int(PAUSE * limit) - PROCESS_BYTES, 0) if limit else None
            return self._source, self._device, threads, room

        for member in self._actors.start(Peer, arguments, set(self.members)):
            self.members[member.address] = member
            self.generation += 1

    def _forget(self, address: str) -> None:
        if (member := self.members.pop(address, None)) is not None:
            self._actors.dismiss([member.future])
            self.lost.append(address)
            self.generation += 1
            self._note(
                f"lost worker {address}: the others read its {show_bytes(member.bytes_held)} of tiles again"
            )


def _free(member: Member) -> float:
    """Bytes that it has room for."""
    room = member.about["room"]
    return float("inf") if room is None else max(room - member.bytes_held, 0)
