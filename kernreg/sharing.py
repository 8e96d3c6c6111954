"""Several processes fill one store, with no scheduler between them: a static partition of its tiles, then what others left.

Member I of N begins with its own part, in the order of the store. After that it takes, from the end of the others' parts, what
nobody has in hand; and when all that is left is in hand, it waits: the store is complete when a member ends without an error.
What is in hand is told by `kernreg.claims`, hints that cost double work at worst: a tile has the same bits whoever computes it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernreg import gramfile
from kernreg.claims import Claims, clear, tidy
from kernreg.durable import Busy
from kernreg.errors import KernregError
from kernreg.shards import Place
from kernreg.store import GramStore

POLL_SECONDS = 1.0
PREPARATION_SECONDS = 60.0
GRACE_SECONDS = (
    8.0  # of a tile in hand after SIGTERM: PBS kills after 10 s by default, Slurm and Kubernetes after 30
)


@dataclass(frozen=True)
class Member:
    """One of several processes that fill a store: number `index` of 1 … `count`.

    The count balances the first parts; more processes than that, or two of one index, do no harm.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise KernregError(f"member {self.index} of {self.count}: members are 1/N to N/N")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str]) -> Member:
        """Of "3/8"; or of "slurm", by the array task and the rank in its step that Slurm names in the environment.

        Raises:
            KernregError: neither, or no array task of Slurm.
        """
        if text == "slurm":
            return cls._in_slurm(environment)
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if match is None:
            raise KernregError(f"a member is I/N, such as 3/8, or slurm, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def _in_slurm(cls, environment: Mapping[str, str]) -> Member:
        def number(name: str, default: str) -> int:
            value = environment.get(name, default)
            if not value.isdecimal():
                raise KernregError(
                    f"--member slurm needs {name}, which Slurm gives to the steps of a job: start it with srun, "
                    "or number the members yourself, --member 3/8"
                )
            return int(value)

        ranks, rank = number("SLURM_STEP_NUM_TASKS", ""), number("SLURM_PROCID", "")
        first, last = number("SLURM_ARRAY_TASK_MIN", "1"), number("SLURM_ARRAY_TASK_MAX", "1")
        task = number("SLURM_ARRAY_TASK_ID", "1")
        return cls((task - first) * ranks + rank + 1, (last - first + 1) * ranks)


def partition(places: Sequence[Place], count: int) -> list[list[Place]]:
    """The places dealt to `count` members, each to the one with the fewest pairs so far, the first of those.

    Of all places of a store, not of those missing: so it is the same for members that begin at different times.
    """
    parts: list[list[Place]] = [[] for _ in range(count)]
    pairs = [0] * count
    for place in places:
        least = pairs.index(min(pairs))
        parts[least].append(place)
        pairs[least] += place[1].pairs
    return parts


class Alone:
    """All tiles that are missing, for the one process that fills a store."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def commit(self, place: Place, write: Callable[[], object]) -> None:
        """Write a tile."""
        write()

    def by_others(self) -> int:
        """Pairs in tiles that others have committed since the last call: none."""
        return 0

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class Share:
    """The tiles that one member computes, claimed one by one as they are asked for; in a `with` statement.

    Iterating waits for tiles that others have in hand, and ends when no tile is missing but those that this member holds, or
    when it is time to stop.
    """

    def __init__(
        self, store: GramStore, member: Member, stopping: Callable[[], bool], note: Callable[[str], None]
    ) -> None:
        self._store, self._stopping, self._note = store, stopping, note
        self._claims = Claims(store.path, str(member))
        parts = partition(store.shards.needed(store.n, store.t, store.n), member.count)
        own, others = parts[member.index - 1], parts[member.index :] + parts[: member.index - 1]
        self._order = own + [place for part in others for place in reversed(part)]
        self._mine: set[Place] = set()
        self._awaited = set(store.missing())

    def __iter__(self) -> Iterator[Place]:
        told = False
        while not self._stopping():
            missing = set(self._store.missing())
            left = [
                place for place in self._order if place in missing and not self._claims.holds(_name(place))
            ]
            if not left:
                return
            place = next(filter(self._take, left), None)
            if place is not None:
                yield place
                continue
            if not told:
                self._note(f"waiting for {len(left)} tiles that other members have in hand")
            told = True
            time.sleep(POLL_SECONDS)

    def _take(self, place: Place) -> bool:
        if not self._claims.take(_name(place)):
            return False
        if not self._store.shards.missing([place]):  # committed between the look and the claim
            self._claims.release(_name(place))
            return False
        self._mine.add(place)
        return True

    def commit(self, place: Place, write: Callable[[], object]) -> None:
        """Write a tile and give its claim back.

        Raises:
            KernregError: as `write`, unless another member has committed the same tile.
        """
        try:
            write()
        except KernregError:
            if self._store.shards.missing([place]):
                raise
        self._claims.release(_name(place))

    def by_others(self) -> int:
        """Pairs in tiles that others have committed since the last call."""
        missing = set(self._store.missing())
        theirs = self._awaited - missing - self._mine
        self._awaited &= missing
        return sum(tile.pairs for _, tile in theirs)

    def __enter__(self) -> Share:
        self._claims.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._claims.__exit__(*exception)
        if self._store.complete:
            clear(self._store.path)
            if self._store.alone():
                tidy(self._store.path)


def open_shared(
    path: Path, n: int, t: int, settings: Mapping[str, Any], prepare: Callable[[GramStore], None]
) -> GramStore:
    """The store at `path` for a member, with n train and t test rows and its other settings as given.

    The first of several members that finds it otherwise prepares it, alone; the others wait for that.

    Raises:
        Busy: others write there, and do not end soon.
        KernregError: as `GramStore.open`; the file system has no locks, and there is something to prepare.
    """
    until = time.monotonic() + PREPARATION_SECONDS
    same = {key: value for key, value in settings.items() if key != "backend"}

    def as_asked(store: GramStore) -> bool:
        return (store.n, store.t, store.backend) == (n, t, settings["backend"])

    while True:
        try:
            if not as_asked(GramStore.open(path, **same)):
                with GramStore.open(path, writer=True, **same) as store:
                    prepare(store)
            store = GramStore.open(path, shared=True, **same)
            if as_asked(store):
                return store
            store.close()
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_SECONDS)


def _name(place: Place) -> str:
    return gramfile.shard_name(*place).removesuffix(".h5")
