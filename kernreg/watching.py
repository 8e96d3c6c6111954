"""How far a store is and how fast it goes on, from its folder alone: on any machine that sees it, whoever fills it.

Times are those of files, which one machine gives, that of the file system: the writer's lock says when the run began, tiles when
they were committed. The watcher's own clock counts only what happens while it watches.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kernreg.gramfile import TileError
from kernreg.shards import Place
from kernreg.store import GramStore


@dataclass(frozen=True)
class Look:
    """A store at one moment.

    Attributes:
        tiles, tiles_done: in all, and committed.
        pairs, pairs_done: kernel values of them.
        tiles_by_backend: those that are done, by the backend that each names.
        pairs_per_second: of the run that goes on, or of the last one; None before its first tile.
        seconds_left: at that rate; None where it is not known.
        seconds_since_last: since the last commit, by this machine's clock; None before the first.
    """

    tiles: int
    tiles_done: int
    pairs: int
    pairs_done: int
    tiles_by_backend: dict[str, int]
    pairs_per_second: float | None
    seconds_left: float | None
    seconds_since_last: float | None

    @property
    def complete(self) -> bool:
        return self.tiles_done == self.tiles


class Watch:
    """Looks at one store again and again; what a tile says of itself is read once."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._made_by: dict[Place, str] = {}

    def look(self, now: float) -> Look:
        """How it is.

        Args:
            now: seconds since the epoch, as `time.time`.

        Raises:
            KernregError: no store there, or a damaged one.
        """
        store = GramStore.open(self._path)
        places = store.shards.needed(store.n, store.t, store.n)
        missing = set(store.missing())
        done = [place for place in places if place not in missing]
        committed = {
            place: time for place in done if (time := _modified(store.shards.path(*place))) is not None
        }
        pairs = sum(tile.pairs for _, tile in places)
        pairs_done = sum(tile.pairs for _, tile in done)
        rate = _rate(committed, _modified(store.path / "lock"))
        return Look(
            len(places),
            len(done),
            pairs,
            pairs_done,
            dict(sorted(Counter(self._backend(store, place) for place in done).items())),
            rate,
            (pairs - pairs_done) / rate if rate else None,
            max(0.0, now - max(committed.values())) if committed else None,
        )

    def _backend(self, store: GramStore, place: Place) -> str:
        if place not in self._made_by:
            try:
                self._made_by[place] = str(store.shards.describe(*place)["backend"])
            except TileError:
                return "unreadable"
        return self._made_by[place]


def _rate(committed: dict[Place, float], begun: float | None) -> float | None:
    """Pairs a second from when the lock was taken to the last commit."""
    if begun is None:
        return None
    recent = {place: time for place, time in committed.items() if time > begun}
    elapsed = max(recent.values(), default=begun) - begun
    return sum(tile.pairs for _, tile in recent) / elapsed if elapsed > 0 else None


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
