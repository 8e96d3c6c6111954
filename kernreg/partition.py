"""A triangle of tiles dealt to workers: shares of nearly equal size that touch few rows, each cut into parts.

A share needs, for its part of a product K·V, the rows of V that its tiles touch as rows or as columns, and gives sums for
the same rows. Of all shapes with n²/2P entries a square away from the diagonal touches the fewest, n·√(2/P) rows, so that P
workers are sent about n·√(2P) rows of V in all. Bisecting the tiles again and again, each time across the axis that
leaves the fewer rows touched (recursive coordinate bisection: Berger and Bokhari, IEEE Trans. Computers 36 (1987)), gives
nearly squares for any P, and shares that differ by a tile at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from kernreg.errors import KernregError
from kernreg.tiles import Tile

CUTS = 4  # parts of a share: what a lost worker held goes to so many others


@dataclass(frozen=True)
class Partition:
    """The tiles of the first n rows in shares × cuts parts, in the order in which their products are added.

    A part's sums are added tile by tile, a share's part by part, and the product share by share: the bits of a product
    depend on the partition, not on who computes which part of it.

    Attributes:
        edges: 0 = e₀ < e₁ < … = n: block k of the rows is [eₖ, eₖ₊₁).
        parts: the tiles of each part; some are empty where there are fewer tiles than parts.
        cuts: parts of a share; share s is the parts s·cuts … (s + 1)·cuts − 1.
    """

    edges: tuple[int, ...]
    parts: tuple[tuple[Tile, ...], ...]
    cuts: int

    @classmethod
    def of(cls, tiles: Sequence[Tile], n: int, shares: int, cuts: int = CUTS) -> Partition:
        """Deal the tiles of a symmetric grid that the first n rows need.

        Raises:
            KernregError: no share, or no part of one.
        """
        if shares < 1 or cuts < 1:
            raise KernregError(
                f"a partition has at least one share and one part of it, not {shares} and {cuts}"
            )
        edges = sorted({min(edge, n) for tile in tiles for edge in (tile.row_start, tile.row_stop)})
        dealt = [part for share in _deal(list(tiles), n, shares) for part in _deal(share, n, cuts)]
        return cls(tuple(edges), tuple(tuple(sorted(part, key=_by_columns)) for part in dealt), cuts)

    @property
    def n(self) -> int:
        return self.edges[-1]

    @cached_property
    def entries(self) -> tuple[int, ...]:
        """Numbers to hold of each part."""
        return tuple(sum(_entries(tile, self.n) for tile in part) for part in self.parts)

    def shares(self, m: int) -> list[tuple[int, ...]]:
        """Of each share the parts that the leading m×m block needs; shares without any are left out."""
        needed = [any(tile.column_start < m for tile in part) for part in self.parts]
        firsts = range(0, len(self.parts), self.cuts)
        found = (tuple(p for p in range(first, first + self.cuts) if needed[p]) for first in firsts)
        return [share for share in found if share]

    def spans(self, parts: Iterable[int], m: int) -> list[tuple[int, int]]:
        """The rows below m that some parts touch, as ranges start…stop − 1 in increasing order, one for each block."""
        return spans((tile for part in parts for tile in self.parts[part]), m)

    def rows(self, groups: Iterable[Iterable[int]], m: int) -> int:
        """Rows touched by each of some groups of parts, added up."""
        return sum(stop - start for group in groups for start, stop in self.spans(group, m))


def spans(tiles: Iterable[Tile], m: int) -> list[tuple[int, int]]:
    """The rows that tiles of the leading m×m block touch, as `Partition.spans`."""
    touched = {
        edges
        for tile in tiles
        if tile.column_start < m
        for edges in ((tile.row_start, tile.row_stop), (tile.column_start, tile.column_stop))
    }
    return [(start, min(stop, m)) for start, stop in sorted(touched)]


def places(ranges: Iterable[tuple[int, int]]) -> dict[int, slice]:
    """Where the rows of each range are, by its start, once the ranges are put below each other."""
    found, at = {}, 0
    for start, stop in ranges:
        found[start] = slice(at, at + stop - start)
        at += stop - start
    return found


def _deal(tiles: list[Tile], n: int, count: int) -> list[list[Tile]]:
    """`count` lists of nearly the same number of entries."""
    if count == 1:
        return [tiles]
    first = count // 2
    halves = (_split(tiles, n, first / count, key) for key in (_by_rows, _by_columns))
    low, high = min(halves, key=lambda pair: sum(_touched(half, n) for half in pair))
    return _deal(low, n, first) + _deal(high, n, count - first)


def _split(
    tiles: list[Tile], n: int, fraction: float, key: Callable[[Tile], tuple[int, int]]
) -> tuple[list[Tile], list[Tile]]:
    """Two lists, of which the first has that fraction of the entries, as nearly as whole tiles allow."""
    ordered = sorted(tiles, key=key)
    sums = list(accumulate((_entries(tile, n) for tile in ordered), initial=0))
    target = fraction * sums[-1]
    at = min(range(len(sums)), key=lambda k: abs(sums[k] - target))
    return ordered[:at], ordered[at:]


def _touched(tiles: list[Tile], n: int) -> int:
    return sum(stop - start for start, stop in spans(tiles, n))


def _entries(tile: Tile, n: int) -> int:
    return (min(tile.row_stop, n) - tile.row_start) * (min(tile.column_stop, n) - tile.column_start)


def _by_rows(tile: Tile) -> tuple[int, int]:
    return (tile.row_start, tile.column_start)


def _by_columns(tile: Tile) -> tuple[int, int]:
    return (tile.column_start, tile.row_start)
