"""A triangle dealt to workers: every tile once, shares of the same size, few rows touched."""

from __future__ import annotations

import itertools

import pytest

from kernreg.errors import KernregError
from kernreg.partition import Partition, places
from kernreg.tiles import TileGrid

SIZES = [(1, 1), (1, 7), (31, 16), (33, 16), (97, 10), (257, 8), (240, 16)]


def dealt(n: int, tile: int, shares: int, cuts: int = 4, m: int | None = None) -> Partition:
    m = n if m is None else m
    return Partition.of(list(TileGrid.triangle(n, tile).prefix(m, m)), m, shares, cuts)


@pytest.mark.parametrize("shares", [1, 2, 3, 7, 16])
@pytest.mark.parametrize(("n", "tile"), SIZES)
def test_every_tile_is_dealt_once_and_shares_are_equal_up_to_a_tile(n: int, tile: int, shares: int) -> None:
    partition = dealt(n, tile, shares)
    tiles = list(TileGrid.triangle(n, tile))
    given = list(itertools.chain.from_iterable(partition.parts))
    assert sorted(given, key=str) == sorted(tiles, key=str)
    assert len(partition.parts) == 4 * shares
    assert partition.n == n
    total = sum(t.shape[0] * t.shape[1] for t in tiles)
    assert sum(partition.entries) == total
    sizes = [sum(partition.entries[s * 4 : s * 4 + 4]) for s in range(shares)]
    # a bisection misses its half by half a tile at most, and of that the next level inherits half: ½(1 + ½ + ¼ + …)
    assert max(abs(size - total / shares) for size in sizes) <= min(tile, n) ** 2


@pytest.mark.parametrize("shares", [1, 2, 3, 4, 6, 10, 16, 36, 64])
def test_the_rows_that_shares_touch_are_nearly_the_fewest_possible(shares: int) -> None:
    n, tile = 1920, 10
    partition = dealt(n, tile, shares, cuts=1)
    touched = partition.rows([(s,) for s in range(shares)], n)
    # of area a, at least √(2a) for a triangle on the diagonal; squares, of which most shares consist, touch 2√a
    least = n * shares**0.5
    squares = n * (2 * shares) ** 0.5
    assert least <= touched <= 1.2 * squares + tile * shares
    assert touched <= n * shares


def test_the_same_tiles_are_dealt_in_the_same_way() -> None:
    assert dealt(97, 10, 5) == dealt(97, 10, 5)
    assert dealt(97, 10, 5) != dealt(97, 10, 6)


@pytest.mark.parametrize("m", [1, 15, 16, 17, 52, 97])
def test_a_leading_block_needs_what_lies_in_it(m: int) -> None:
    partition = dealt(97, 16, 3)
    needed = {part for share in partition.shares(m) for part in share}
    for part, tiles in enumerate(partition.parts):
        assert (part in needed) == any(tile.row_start < m and tile.column_start < m for tile in tiles)
    spans = partition.spans(needed, m)
    assert [start for start, _ in spans] == list(range(0, m, 16))
    assert [stop for _, stop in spans] == [*range(16, m, 16), m]
    assert partition.rows([needed], m) == m
    for share in partition.shares(m):
        assert {part // partition.cuts for part in share} == {share[0] // partition.cuts}


def test_a_prefix_of_a_ragged_grid_ends_where_it_is_cut() -> None:
    partition = dealt(60, 16, 2, m=41)
    assert partition.n == 41
    assert partition.edges == (0, 16, 32, 41)
    assert sum(partition.entries) == 2 * 16**2 + 9**2 + 16**2 + 2 * 16 * 9


def test_places_are_where_the_rows_lie_below_each_other() -> None:
    assert places([(3, 5), (10, 11)]) == {3: slice(0, 2), 10: slice(2, 3)}


def test_no_share_is_refused() -> None:
    for shares, cuts in ((0, 4), (3, 0)):
        with pytest.raises(KernregError, match="at least one share"):
            dealt(10, 5, shares, cuts)
