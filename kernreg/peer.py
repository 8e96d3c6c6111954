"""A holder that gets its rows of V from other workers and hands its sums to them, so that a vector leaves the client once.

A product is a round of three calls to every worker: `take` its own rows of V, `work` (pull the rows that the tiles touch from
their owners, and multiply), `finish` (pull the sums of its own rows, and add them). What peers pull is answered on the event
loop of the worker, also while it multiplies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from kernreg.cholesky import Matrix
from kernreg.holding import Holder, add_parts
from kernreg.partition import places

Ranges: TypeAlias = list[tuple[int, int]]  # of rows, start…stop − 1
Group: TypeAlias = tuple[int, ...]  # parts whose sums are added where they are
Pull: TypeAlias = tuple[str, Ranges]  # the address of a peer, and rows
Sums: TypeAlias = list[tuple[Group, Ranges]]

POLL_SECONDS = 0.5  # between two looks whether a round is given up


class RoundLost(Exception):
    """A peer did not answer, or the client has given the round up."""


class Peer(Holder):
    """A holder that knows the others."""

    _own = ""
    _peers: dict[str, Any]
    _number, _given_up = -1, -1
    _V: tuple[Ranges, Matrix]
    _sums: dict[Group, tuple[Ranges, Matrix]]

    def meet(self, own: str, peers: dict[str, Any]) -> None:
        """The address of this worker, and the other workers' actors by theirs."""
        self._own, self._peers = own, peers

    def take(self, number: int, ranges: Ranges, V: Matrix) -> None:
        """Begin a round: these are the rows of V that others will ask this worker for."""
        self._number, self._V, self._sums = number, (ranges, V), {}

    def work(self, number: int, m: int, groups: list[Group], pulls: list[Pull]) -> int:
        """Get the rows that the tiles of these groups touch, from whom they are, and multiply. Returns the bytes that came.

        Raises:
            RoundLost: a peer is gone.
        """
        came = self._pull("rows", number, pulls)
        at = places(self._spans([part for group in groups for part in group], m))
        V = np.empty((sum(len(block) for block in came), self._V[1].shape[1]))
        for (_, ranges), block in zip(pulls, came, strict=True):
            for start, rows in places(ranges).items():
                V[at[start]] = block[rows]
        products = zip(groups, self.multiply(V, m, groups), strict=True)
        self._sums = {group: (self._spans(group, m), block) for group, block in products}
        return sum(block.nbytes for block in self._foreign(pulls, came))

    def finish(self, number: int, pulls: list[tuple[str, Sums]], shares: list[Sums]) -> tuple[Matrix, int]:
        """Get the sums of this worker's rows, and add them share by share, each group by group.

        Returns:
            (rows, c) of K·V, and the bytes that came.

        Raises:
            RoundLost: a peer is gone.
        """
        came = self._pull("sums", number, pulls)
        blocks = {
            group: block
            for (_, wanted), answer in zip(pulls, came, strict=True)
            for (group, _), block in zip(wanted, answer, strict=True)
        }
        own, V = self._V
        out = np.zeros_like(V)
        for share in shares:
            parts = [(ranges, blocks[group]) for group, ranges in share]
            if len(parts) > 1:
                union = sorted({rows for ranges, _ in parts for rows in ranges})
                total = np.zeros((sum(stop - start for start, stop in union), V.shape[1]))
                add_parts(total, places(union), parts)
                parts = [(union, total)]
            add_parts(out, places(own), parts)
        return out, sum(block.nbytes for answer in self._foreign(pulls, came) for block in answer)

    async def rows(self, number: int, ranges: Ranges) -> Matrix:
        """Some of this worker's rows of V."""
        return self._rows(number, ranges)

    async def sums(self, number: int, wanted: Sums) -> list[Matrix]:
        """Some rows of the sums of some groups."""
        return self._some(number, wanted)

    async def give_up(self, number: int) -> None:
        """Have the calls of a round end that wait for a peer."""
        self._given_up = max(self._given_up, number)

    def _rows(self, number: int, ranges: Ranges) -> Matrix:
        self._require(number)
        return _picked(*self._V, ranges)

    def _some(self, number: int, wanted: Sums) -> list[Matrix]:
        self._require(number)
        return [_picked(*self._sums[group], ranges) for group, ranges in wanted]

    def _require(self, number: int) -> None:
        if number != self._number or number <= self._given_up:
            raise RoundLost(f"round {number} is over")

    def _pull(self, what: str, number: int, pulls: Sequence[tuple[str, Any]]) -> list[Any]:
        """What the peers answer, and this worker itself; all are asked before the first answer is waited for."""
        calls = {}
        for address, wanted in pulls:
            if address != self._own:
                try:
                    calls[address] = getattr(self._peers[address], what)(number, wanted)
                except (OSError, ValueError, RuntimeError) as error:
                    raise RoundLost(f"{address}: {error}") from None
        mine = self._rows if what == "rows" else self._some
        return [
            self._awaited(calls[address], number) if address in calls else mine(number, wanted)
            for address, wanted in pulls
        ]

    def _awaited(self, call: Any, number: int) -> Any:
        while True:
            try:
                return call.result(timeout=POLL_SECONDS)
            except (OSError, ValueError, RuntimeError) as error:
                waiting = isinstance(error, TimeoutError) and not call.done()
                if not waiting or number <= self._given_up:
                    raise RoundLost(str(error)) from None

    def _foreign(self, pulls: Sequence[tuple[str, Any]], came: list[Any]) -> Iterable[Any]:
        return (answer for (address, _), answer in zip(pulls, came, strict=True) if address != self._own)


def _picked(have: Ranges, values: Matrix, ranges: Ranges) -> Matrix:
    at = places(have)
    return np.concatenate([values[at[start]] for start, _ in ranges])
