"""Tiles of a store, one pass after another: those that fit into a budget stay, the others are read ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from kernreg.errors import KernregError
from kernreg.plan import parse_bytes, show_bytes
from kernreg.provenance import Array
from kernreg.store import GramStore
from kernreg.tiles import Tile

BAND = 256  # rows of a float32 tile that are float64 at a time: 8 MiB of a tile of 4,096


class TileReader:
    """Reads tiles in the order asked for, the next one while the present one is used.

    Tiles are kept from the first one on, rather than the latest: a cyclic walk would throw out each tile just
    before it is needed again.

    Attributes:
        tiles_read, bytes_read: from the store so far.
        bytes_kept: of tiles that stay in memory.
        least_bytes: of the tiles in flight and a band of float64.
    """

    def __init__(
        self,
        store: GramStore,
        part: str,
        kernel: str,
        tiles: Sequence[Tile],
        memory: int | str | None = None,
        prefetch: bool = True,
    ) -> None:
        """A reader of `part` ("train" or "test") of one kernel.

        Args:
            tiles: all that may be asked for.
            memory: most bytes of tiles, kept ones, those in flight and a band of float64, or "4GiB"; None sets no bound.
            prefetch: read one tile ahead in a thread of its own.

        Raises:
            KernregError: a budget that does not hold the tiles in flight.
        """
        self._store, self._part, self._kernel, self._prefetch = store, part, kernel, prefetch
        self._kept: dict[tuple[int, int], Array] = {}
        self.tiles_read = self.bytes_read = self.bytes_kept = 0
        self.least_bytes = streaming_bytes(store, tiles, prefetch)
        self._budget = None if memory is None else parse_bytes(memory)
        if self._budget is not None and self._budget < self.least_bytes:
            raise KernregError(
                f"the tiles of {store.path} take {show_bytes(self.least_bytes)} of memory to be streamed, and "
                f"{show_bytes(self._budget)} are allowed: use --memory {-(-self.least_bytes // 2**20)}MiB"
            )

    def walk(self, tiles: Sequence[Tile], use: Callable[[Tile, Array], None]) -> None:
        """Call use(tile, numbers) for each tile; `use` must not keep the numbers, so that two are alive at most."""
        with ThreadPoolExecutor(1) as thread:
            coming: Future[Array] | None = None
            for k, tile in enumerate(tiles):
                block = self._read(tile) if coming is None else coming.result()
                coming = None
                if self._prefetch and k + 1 < len(tiles):
                    coming = thread.submit(self._read, tiles[k + 1])
                use(tile, block)
                del block

    def _read(self, tile: Tile) -> Array:
        place = (tile.row_block, tile.column_block)
        if place in self._kept:
            return self._kept[place]
        block = self._store.shards.read(self._part, tile, self._kernel)
        self.tiles_read += 1
        self.bytes_read += block.nbytes
        if self._budget is None or self.bytes_kept + block.nbytes + self.least_bytes <= self._budget:
            self._kept[place] = block
            self.bytes_kept += block.nbytes
        return block


def streaming_bytes(store: GramStore, tiles: Sequence[Tile], prefetch: bool = True) -> int:
    """What walking over tiles takes at least: the one in use, the one being read, and a band of float64."""
    largest = max(tile.shape[0] * tile.shape[1] for tile in tiles) * np.dtype(store.dtype).itemsize
    return (1 + prefetch) * largest + BAND * max(max(tile.shape) for tile in tiles) * 8


def add_products(block: Any, diagonal: bool, V: Any, W: Any, P: Any, Q: Any, band: int = BAND) -> None:
    """P += block·W and, off the diagonal, Q += blockᵀ·V, summed in float64 whatever the block is.

    Args:
        block: (h, w), of the host or a GPU, as all others.
        diagonal: whether it is its own mirror image; then V and W, and P and Q, are the same.
        V, P: (h, c) float64; W, Q: (w, c).
        band: rows of the block that are float64 at a time.
    """
    for a in range(0, len(block), band):
        strip = block[a : a + band].astype(np.float64, copy=False)
        P[a : a + band] += strip @ W
        if not diagonal:
            Q += strip.T @ V[a : a + band]
        del strip  # before the next one is made
