"""A Gram in a store as a factorisation reads it: by panels, with one tile of the store in memory at a time.

Its products, diagonal and columns are those of `kernreg.operators.Stored`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from kernreg.errors import KernregError
from kernreg.panel import Panel
from kernreg.provenance import text_checksum
from kernreg.store import GramStore
from kernreg.tiles import Tile


class StoredGram:
    """K of the training rows start…stop−1 of a store, and of its test rows with them.

    Attributes:
        store, kernel, start, stop: which.
        read_bytes: of tiles of the store, by this object.
    """

    def __init__(self, store: GramStore, kernel: str, start: int = 0, stop: int | None = None) -> None:
        """Raises KernregError unless there are such rows, and every tile of them."""
        self.store, self.kernel, self.start = store, kernel, start
        self.stop = store.n if stop is None else stop
        if self.stop <= start:
            raise KernregError(f"n={self.stop - start} rows are asked for; use n ≥ 1")
        self.read_bytes = 0
        places = store.require(kernel, self.stop, store.t, self.stop)
        self._train = [tile for part, tile in places if part == "train" and tile.row_stop > start]
        self._test = [tile for part, tile in places if part == "test" and tile.column_stop > start]

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def tile_bytes(self) -> int:
        """Of the largest tile."""
        item = np.dtype(self.store.dtype).itemsize
        return max(tile.shape[0] * tile.shape[1] for tile in (*self._train, *self._test)) * item

    def part(self, start: int, stop: int) -> StoredGram:
        """The Gram of a block of consecutive rows."""
        return StoredGram(self.store, self.kernel, self.start + start, self.start + stop)

    def train(self, top: int, panel: Panel) -> Iterator[int]:
        """Fill a panel of rows top… of K up to the diagonal; yields how many column blocks are complete.

        Of a block on the diagonal the rows from the diagonal on are meant; what is above them is left alone.
        """
        bottom = top + panel.rows
        tiles = [t for t in self._train if t.row_start - self.start < bottom]
        tiles = [
            t for t in tiles if top < t.column_stop - self.start and t.column_start - self.start < bottom
        ]
        for row, band in groupby(sorted(tiles, key=_by_rows), key=lambda tile: tile.row_start):
            for tile in band:
                at = (tile.column_start - self.start - top, row - self.start)
                panel.put(self._read("train", tile), *at, transposed=True)
            yield panel.complete(tile.row_stop - self.start)

    def test(self, top: int, panel: Panel) -> Iterator[int]:
        """Fill a panel with test rows top… of K(test, train); yields how many column blocks are complete."""
        tiles = [t for t in self._test if top < t.row_stop and t.row_start < top + panel.rows]
        for column, band in groupby(sorted(tiles, key=_by_columns), key=lambda tile: tile.column_start):
            for tile in band:
                panel.put(self._read("test", tile), tile.row_start - top, column - self.start)
            yield panel.complete(tile.column_stop - self.start)

    def digest(self) -> str:
        """Of every number of K(train, train), by the checksums that the tiles carry."""
        return self._digest("train", self._train)

    def test_digest(self) -> str:
        """Of every number of K(test, train)."""
        return self._digest("test", self._test)

    def _digest(self, part: str, tiles: list[Tile]) -> str:
        facts = [self.store.shards.describe(part, tile) for tile in tiles]
        keys = ("rows", "columns", "rows_hash", "columns_hash", "dtype", "architecture_digest")
        told = [[fact[key] for key in keys] + [fact["checksums"][self.kernel]] for fact in facts]
        return text_checksum(json.dumps([self.start, self.stop, told]))

    def _read(self, part: str, tile: Tile) -> npt.NDArray[Any]:
        values = self.store.shards.read(part, tile, self.kernel)
        self.read_bytes += values.nbytes
        return values


def _by_rows(tile: Tile) -> tuple[int, int]:
    return (tile.row_start, tile.column_start)


def _by_columns(tile: Tile) -> tuple[int, int]:
    return (tile.column_start, tile.row_start)
