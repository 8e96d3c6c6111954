"""TileGrid: every pair once, ragged edges, and extension that moves nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernreg.errors import KernregError
from kernreg.tiles import TileGrid

SIZES = [(1, 1), (1, 7), (7, 1), (7, 7), (13, 7), (14, 7), (15, 7), (97, 8), (63, 64), (65, 64)]


def cover(grid: TileGrid) -> np.ndarray:
    count = np.zeros(grid.shape, int)
    for tile in grid:
        count[tile.rows, tile.columns] += 1
    return count


@pytest.mark.parametrize(("n", "tile"), SIZES)
def test_triangle_covers_the_upper_triangle_once(n: int, tile: int) -> None:
    grid = TileGrid.triangle(n, tile)
    count = cover(grid)
    assert (count[np.triu_indices(n)] == 1).all()
    assert count.max() == 1
    assert len(grid) == len(list(grid))
    assert grid.pairs == n * (n + 1) // 2


@pytest.mark.parametrize(("t", "tile"), SIZES)
@pytest.mark.parametrize("n", [1, 11, 64])
def test_rectangle_covers_everything_once(t: int, tile: int, n: int) -> None:
    grid = TileGrid.rectangle(t, n, tile)
    assert (cover(grid) == 1).all()
    assert len(grid) == len(list(grid))
    assert grid.pairs == t * n


def test_no_rows_no_tiles() -> None:
    grid = TileGrid.rectangle(0, 5, 2)
    assert len(grid) == 0
    assert list(grid) == []
    assert grid.shape == (0, 5)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5).map(sorted),
    tiles=st.lists(st.integers(1, 20), min_size=5, max_size=5),
)
def test_extension_keeps_every_tile(sizes: list[int], tiles: list[int]) -> None:
    grid = TileGrid.triangle(sizes[0], tiles[0])
    for n, tile in zip(sizes[1:], tiles[1:], strict=False):
        larger = grid.extend(n, n, tile)
        assert set(grid) <= set(larger)
        assert (cover(larger)[np.triu_indices(n)] == 1).all()
        grid = larger
    assert grid.pairs == sizes[-1] * (sizes[-1] + 1) // 2


def test_prefix_is_what_the_leading_part_needs() -> None:
    grid = TileGrid.triangle(20, 6)
    for n in (1, 6, 7, 18, 20):
        count = np.zeros((20, 20), int)
        for tile in grid.prefix(n, n):
            count[tile.rows, tile.columns] += 1
            assert tile.row_start < n
            assert tile.column_start < n
        assert (count[:n, :n][np.triu_indices(n)] == 1).all()


def test_pairs_of_a_large_gram_pass_int32() -> None:
    grid = TileGrid.triangle(200_000, 4096)
    assert grid.pairs == 200_000 * 200_001 // 2 > 2**32
    assert sum(tile.pairs for tile in grid) == grid.pairs


@pytest.mark.parametrize("edges", [(), (1, 2), (0, 0), (0, 5, 3)])
def test_edges_that_do_not_increase_are_refused(edges: tuple[int, ...]) -> None:
    with pytest.raises(KernregError, match="edges"):
        TileGrid(edges, (0, 3))


def test_a_grid_does_not_shrink_and_tiles_have_rows() -> None:
    with pytest.raises(KernregError, match="shrink"):
        TileGrid.triangle(10, 4).extend(9, 9, 4)
    with pytest.raises(KernregError, match="at least one row"):
        TileGrid.triangle(10, 0)
    with pytest.raises(KernregError, match="same edges"):
        TileGrid((0, 3), (0, 4), symmetric=True)
