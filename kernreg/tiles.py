"""TileGrid: integer arithmetic of a symmetric or rectangular tiling of a matrix, with ragged edges.

A tiling is two lists of edges. Extending a matrix appends edges and never moves one, so a tile that exists
keeps its place, its rows and its columns for ever. Python integers throughout: n² of a large Gram passes
int32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from kernreg.errors import KernregError


@dataclass(frozen=True)
class Tile:
    """One block of a matrix: rows [row_start, row_stop) × columns [column_start, column_stop)."""

    row_block: int
    column_block: int
    row_start: int
    row_stop: int
    column_start: int
    column_stop: int
    diagonal: bool

    @property
    def shape(self) -> tuple[int, int]:
        return (self.row_stop - self.row_start, self.column_stop - self.column_start)

    @property
    def rows(self) -> slice:
        return slice(self.row_start, self.row_stop)

    @property
    def columns(self) -> slice:
        return slice(self.column_start, self.column_stop)

    @property
    def pairs(self) -> int:
        """Kernel values to compute: a diagonal tile is symmetric and needs its triangle only."""
        n, m = self.shape
        return n * (n + 1) // 2 if self.diagonal else n * m


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a matrix: the upper triangle of a symmetric one, all of a rectangular one.

    Attributes:
        row_edges, column_edges: 0 = e₀ < e₁ < …: block i holds the indices [eᵢ, eᵢ₊₁). A matrix without rows
            has the single edge 0.
        symmetric: only blocks on and above the diagonal exist; row_edges equals column_edges.
    """

    row_edges: tuple[int, ...]
    column_edges: tuple[int, ...]
    symmetric: bool = False

    def __post_init__(self) -> None:
        for edges in (self.row_edges, self.column_edges):
            if not edges or edges[0] != 0 or any(a >= b for a, b in itertools.pairwise(edges)):
                raise KernregError(f"tile edges must start at 0 and increase, not {list(edges)}")
        if self.symmetric and self.row_edges != self.column_edges:
            raise KernregError("a symmetric tiling has the same edges for rows and columns")

    @classmethod
    def triangle(cls, n: int, tile: int) -> TileGrid:
        """The upper triangle of an n×n matrix in tiles of `tile` rows, the last one ragged."""
        edges = extend_edges((0,), n, tile)
        return cls(edges, edges, symmetric=True)

    @classmethod
    def rectangle(cls, rows: int, columns: int, tile: int) -> TileGrid:
        """A rows×columns matrix in tile×tile blocks, the last ones ragged."""
        return cls(extend_edges((0,), rows, tile), extend_edges((0,), columns, tile))

    def extend(self, rows: int, columns: int, tile: int) -> TileGrid:
        """The grid of the larger matrix, in which every tile of this one keeps its place."""
        row_edges = extend_edges(self.row_edges, rows, tile)
        column_edges = extend_edges(self.column_edges, columns, tile)
        return TileGrid(row_edges, column_edges, self.symmetric)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.row_edges[-1], self.column_edges[-1])

    @property
    def pairs(self) -> int:
        return sum(tile.pairs for tile in self)

    def __len__(self) -> int:
        rows, columns = len(self.row_edges) - 1, len(self.column_edges) - 1
        return columns * (columns + 1) // 2 if self.symmetric else rows * columns

    def __iter__(self) -> Iterator[Tile]:
        """Column block by column block, so that the leading n×n part is complete as early as possible."""
        for j in range(len(self.column_edges) - 1):
            for i in range(j + 1 if self.symmetric else len(self.row_edges) - 1):
                yield self.tile(i, j)

    def tile(self, row_block: int, column_block: int) -> Tile:
        """The tile of a block of rows and a block of columns."""
        i, j = row_block, column_block
        (top, bottom), (left, right) = self.row_edges[i : i + 2], self.column_edges[j : j + 2]
        return Tile(i, j, top, bottom, left, right, diagonal=self.symmetric and i == j)

    def prefix(self, rows: int, columns: int) -> Iterator[Tile]:
        """The tiles that the leading rows×columns part needs."""
        return (tile for tile in self if tile.row_start < rows and tile.column_start < columns)


def extend_edges(edges: tuple[int, ...], n: int, tile: int) -> tuple[int, ...]:
    """`edges` continued to n in steps of `tile`; a ragged last block stays as it is.

    Raises:
        KernregError: n below the last edge, or a tile without rows.
    """
    if tile < 1:
        raise KernregError(f"a tile needs at least one row, not {tile}")
    last = edges[-1]
    if n < last:
        raise KernregError(f"a tiling of {last} rows cannot shrink to {n}; readers take a prefix instead")
    return (*edges, *range(last + tile, n, tile), *((n,) if n > last else ()))
