"""The plan of a product whose vectors travel between the workers: who owns which rows, who pulls what from whom."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kernreg.actors import Lost, Member
from kernreg.cholesky import Matrix
from kernreg.crew import Crew
from kernreg.peer import Group, Pull, Ranges, RoundLost, Sums

# Of ten columns, that cross a connection while a worker is called twice: benchmarks/results/cluster_model.md.
ROWS_OF_TWO_CALLS = 7000

_rounds = itertools.count()


@dataclass(frozen=True, eq=False)
class Exchange:
    """For the workers and the parts they hold as they are now; another plan is made when one is lost.

    Attributes:
        members: the workers.
        m: rows.
        own: rows of each worker, by address: every row is owned once.
        groups: of parts that each multiplies.
        rows: what each pulls from whom before it multiplies, and
        sums: after, to add them share by share in the order of
        shares.
    """

    members: tuple[Member, ...]
    m: int
    own: dict[str, Ranges]
    groups: dict[str, list[Group]]
    rows: dict[str, list[Pull]]
    sums: dict[str, list[tuple[str, Sums]]]
    shares: dict[str, list[Sums]]

    @classmethod
    def of(cls, crew: Crew, m: int, groups_of: Callable[[list[int]], list[Group]]) -> Exchange:
        """The plan for products of the leading m×m block; `groups_of` the parts of a worker."""
        partition = crew.partition
        share_of = {part: share for share in partition.shares(m) for part in share}
        members = tuple(crew.members[address] for address in sorted(crew.members))
        groups = {member.address: groups_of(sorted(share_of.keys() & member.parts)) for member in members}
        own = _owned(partition.spans(share_of, m), m, [member.address for member in members])
        owner = {span: address for address, spans in own.items() for span in spans}
        holder = {group: address for address, mine in groups.items() for group in mine}
        rows = {
            address: _by_owner(partition.spans(itertools.chain(*mine), m), owner)
            for address, mine in groups.items()
        }
        sums: dict[str, dict[str, Sums]] = {address: {} for address in own}
        shares: dict[str, dict[Group, Sums]] = {address: {} for address in own}
        for group in sorted(holder):
            for address, spans in _by_owner(partition.spans(group, m), owner):
                sums[address].setdefault(holder[group], []).append((group, spans))
                shares[address].setdefault(share_of[group[0]], []).append((group, spans))
        return cls(
            members,
            m,
            own,
            groups,
            rows,
            {address: list(of.items()) for address, of in sums.items()},
            {address: list(of.values()) for address, of in shares.items()},
        )

    @property
    def rows_between(self) -> int:
        """Rows that workers pull from others in a product."""
        vectors = sum(_size(r) for a, pulls in self.rows.items() for b, r in pulls if a != b)
        return vectors + sum(
            _size(r) for a, pulls in self.sums.items() for b, wanted in pulls if a != b for _, r in wanted
        )

    def meet(self, crew: Crew) -> None:
        """Have the workers know each other. Raises Lost."""
        actors = {member.address: member.actor for member in self.members}
        self._all(crew, "meet", lambda own: (own, {a: actor for a, actor in actors.items() if a != own}))

    def multiply(self, crew: Crew, V: Matrix) -> tuple[Matrix, int]:
        """K·V, and the bytes that went between workers.

        Raises:
            Lost: a worker is, and forgotten; the others have given the round up.
        """
        number = next(_rounds)
        try:
            return self._round(crew, number, V)
        except (Lost, RoundLost) as loss:
            crew.bury(self.members, str(loss))
            left = [member for member in self.members if member.address in crew.members]
            for member in left:
                crew.call(member, "give_up", number)
            raise Lost from None

    def _round(self, crew: Crew, number: int, V: Matrix) -> tuple[Matrix, int]:
        def piece(address: str) -> Matrix:
            return np.concatenate([V[:0], *(V[a:b] for a, b in self.own[address])])

        self._all(crew, "take", lambda a: (number, self.own[a], piece(a)))
        worked = self._all(crew, "work", lambda a: (number, self.m, self.groups[a], self.rows[a]))
        finished = self._all(crew, "finish", lambda a: (number, self.sums[a], self.shares[a]))
        between = sum(worked.values())
        blocks = []
        for address in self.own:
            block, came = finished[address]
            between += came
            blocks.append(block)
        return np.concatenate(blocks), between  # the rows are owned in the order of the addresses

    def _all(self, crew: Crew, method: str, arguments: Callable[[str], tuple[Any, ...]]) -> dict[str, Any]:
        calls = [(member, crew.call(member, method, *arguments(member.address))) for member in self.members]
        return {member.address: crew.answer(member, call, self.members) for member, call in calls}


def pays(rows: Sequence[int], n: int) -> bool:
    """Whether vectors had better travel between the workers, who touch so many of n rows each.

    What the connection of the client is spared, less what passes that of the busiest worker instead, is to be worth two more
    calls of every worker.
    """
    return sum(rows) - n - max(rows) > ROWS_OF_TWO_CALLS * len(rows)


def _owned(spans: Ranges, m: int, addresses: list[str]) -> dict[str, Ranges]:
    """Consecutive ranges for each address, of nearly the same number of rows."""
    own: dict[str, Ranges] = {address: [] for address in addresses}
    for start, stop in spans:
        own[addresses[(start + stop) * len(addresses) // (2 * m)]].append((start, stop))
    return own


def _by_owner(spans: Ranges, owner: dict[tuple[int, int], str]) -> list[Pull]:
    found: dict[str, Ranges] = {}
    for span in spans:
        found.setdefault(owner[span], []).append(span)
    return list(found.items())


def _size(ranges: Ranges) -> int:
    return sum(stop - start for start, stop in ranges)
