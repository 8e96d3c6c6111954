"""What a worker of a cluster holds of a Gram, and what it computes with it. Knows nothing of the cluster.

The tiles stay in the memory of the GPU, where the worker has one, else in its own, in the dtype of the store; sums are
float64 whatever the tiles are.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kernreg import device
from kernreg.cholesky import Matrix
from kernreg.errors import KernregError
from kernreg.kernels.threads import one_blas_thread
from kernreg.operators import Rows
from kernreg.partition import places, spans
from kernreg.plan import show_bytes
from kernreg.provenance import Array, checksum
from kernreg.store import GramStore
from kernreg.streaming import BAND, add_products
from kernreg.tiles import Tile

GPU_BAND = 4096  # rows of a float32 tile that are float64 at a time on a GPU


class Source(Protocol):
    """Where the tiles of a symmetric matrix come from; it travels to the workers."""

    @property
    def n(self) -> int: ...

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        ...

    @property
    def keeps(self) -> bool:
        """Whether tiles are held, or made anew each time."""
        ...

    def open(self) -> None:
        """Get ready on a worker. Raises KernregError where the worker cannot read it."""
        ...

    def read(self, tile: Tile) -> Array:
        """Its numbers in the rows and columns below n."""
        ...


@dataclass
class StoredTiles:
    """The tiles of the first n training rows of a store that every worker sees under the same path.

    Attributes:
        path: of the store, absolute.
        kernel, n, itemsize: of which there are tiles; bytes of a number.
        rows: checksum of the hashes of the first n rows, so that another store at the same path is refused.
    """

    path: Path
    kernel: str
    n: int
    itemsize: int
    rows: str
    keeps: bool = True

    @classmethod
    def of(cls, store: GramStore, kernel: str, n: int) -> StoredTiles:
        rows = checksum(store.hashes_train[:n])
        return cls(store.path.resolve(), kernel, n, np.dtype(store.dtype).itemsize, rows)

    def open(self) -> None:
        try:
            self._store = GramStore.open(self.path)
        except KernregError as error:
            raise KernregError(
                f"{error} (the workers read the store from a file system that they share)"
            ) from None
        if checksum(self._store.hashes_train[: self.n]) != self.rows:
            raise KernregError(
                f"{self.path} on {socket.gethostname()} is a store of other rows: share its file system"
            )

    def read(self, tile: Tile) -> Array:
        block = self._store.shards.read("train", tile, self.kernel)
        return block[: self.n - tile.row_start, : self.n - tile.column_start]


class Holder:
    """Parts of a Gram in memory. One process calls it, one call at a time.

    Attributes:
        bytes_held: of the tiles.
    """

    def __init__(
        self, source: Source, chosen: str = "auto", threads: int = 1, room: int | None = None
    ) -> None:
        """Nothing held yet.

        Args:
            source: of the tiles.
            chosen: "cpu", "cuda" or "auto": the GPU where there is one.
            threads: that multiply on the host, a part each.
            room: bytes that tiles may take in the memory of the host; None: no bound.

        Raises:
            KernregError: the source cannot be read here, or there is no such device.
        """
        if chosen not in device.DEVICES:
            raise KernregError(f"device is {', '.join(device.DEVICES)}, not {chosen!r}")
        source.open()
        self._source, self._threads = source, threads
        on_gpu = chosen == "cuda" or (chosen == "auto" and not device.absence())
        self._device: Any = device.cuda() if on_gpu else device.HOST
        self._room = device.free_bytes() - device.LIBRARY_BYTES if on_gpu else room
        self._tiles: dict[int, dict[Tile, Any]] = {}
        self.bytes_held = 0

    def about(self) -> dict[str, Any]:
        """Device, room for tiles in bytes or None, host and process number."""
        return {
            "device": self._device.name,
            "room": self._room,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }

    def load(self, part: int, tiles: Sequence[Tile]) -> int:
        """Read the tiles of a part, and hold them if the source says so; returns the bytes held.

        Raises:
            KernregError: a tile is missing or damaged, by file, or there is no room.
        """
        if not self._source.keeps:
            self._tiles[part] = dict.fromkeys(tiles)
            return 0
        held, size = {}, 0
        for tile in tiles:
            block = self._read(tile)
            size += block.nbytes
            if self._room is not None and self.bytes_held + size > self._room:
                raise KernregError(
                    f"{socket.gethostname()} has room for {show_bytes(self._room)} of tiles: use more workers"
                )
            held[tile] = self._device.xp.array(block, order="C")
        self._tiles[part] = held
        self.bytes_held += size
        return size

    def multiply(self, V: Matrix, m: int, groups: Sequence[tuple[int, ...]]) -> list[Matrix]:
        """The products of some parts of the leading m×m block.

        Args:
            V: the rows that the parts touch (`kernreg.partition.spans`), below each other; float64.
            m: rows.
            groups: of parts that are held; the sums of a group are added part by part.

        Returns:
            For each group the sums of the rows that it touches, (rows, c) float64 on the host.
        """
        parts = [part for group in groups for part in group]
        at = places(self._spans(parts, m))
        V = self._device.xp.asarray(V)
        with one_blas_thread(), ThreadPoolExecutor(self._threads) as crew:
            # a GPU has one queue: its parts come one after another
            each = crew.map if self._device is device.HOST and self._threads > 1 else map
            sums = dict(zip(parts, each(lambda part: self._product(part, V, at, m), parts), strict=True))
        return [self._device.get(self._added(group, sums, m)) for group in groups]

    def diagonal(self, parts: Sequence[int], m: int) -> list[Array]:
        """For each part the diagonals of its diagonal tiles, below each other."""
        return [
            np.concatenate(
                [
                    self._device.get(self._block(part, tile, m).diagonal())
                    for tile in self._tiles[part]
                    if tile.diagonal and tile.row_start < m
                ]
                or [np.zeros(0)]
            )
            for part in parts
        ]

    def columns(self, parts: Sequence[int], m: int, rows: Rows) -> list[list[Array]]:
        """For each part what `crossings` names, in its order and in the dtype of the tiles."""
        return [
            [
                self._device.get(self._block(part, tile, m)[self._on(index)])
                for tile, index, _ in crossings(self._tiles[part], m, rows)
            ]
            for part in parts
        ]

    def _block(self, part: int, tile: Tile, m: int) -> Any:
        block = self._tiles[part][tile]
        block = self._device.xp.asarray(self._read(tile)) if block is None else block
        return block[: m - tile.row_start, : m - tile.column_start]

    def _read(self, tile: Tile) -> Array:
        try:
            return self._source.read(tile)
        except KernregError as error:
            raise KernregError(str(error)) from None  # its own class may not travel

    def _on(self, index: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(i if isinstance(i, slice) else self._device.xp.asarray(i) for i in index)

    def _product(self, part: int, V: Any, at: dict[int, slice], m: int) -> Any:
        touched = self._spans([part], m)
        to = places(touched)
        sums = self._device.xp.zeros((sum(stop - start for start, stop in touched), V.shape[1]))
        band = BAND if self._device is device.HOST else GPU_BAND
        for tile in self._tiles[part]:
            if tile.column_start < m:
                block = self._block(part, tile, m)
                above, left = V[at[tile.row_start]], V[at[tile.column_start]]
                p, q = sums[to[tile.row_start]], sums[to[tile.column_start]]
                add_products(block, tile.diagonal, above, left, p, q, band)
        return sums

    def _added(self, group: tuple[int, ...], sums: dict[int, Any], m: int) -> Any:
        if len(group) == 1:
            return sums[group[0]]
        first = sums[group[0]]
        total = self._device.xp.zeros((sum(b - a for a, b in self._spans(group, m)), first.shape[1]))
        add_parts(
            total, places(self._spans(group, m)), [(self._spans([part], m), sums[part]) for part in group]
        )
        return total

    def _spans(self, parts: Sequence[int], m: int) -> list[tuple[int, int]]:
        return spans((tile for part in parts for tile in self._tiles[part]), m)


def add_parts(total: Any, at: dict[int, slice], parts: Sequence[tuple[list[tuple[int, int]], Any]]) -> None:
    """Add the sums of parts, one after another, to a total whose rows are at these places."""
    for touched, sums in parts:
        for start, rows in places(touched).items():
            total[at[start]] += sums[rows]


def crossings(tiles: Sequence[Tile] | dict[Tile, Any], m: int, rows: Rows) -> Iterator[tuple[Tile, Any, Any]]:
    """Where tiles cross the columns `rows` of the leading m×m block K.

    Yields:
        (tile, index, place): tile[index] holds K[:, rows][place], or its transpose where the index picks rows of the tile.
    """
    for tile in tiles:
        if tile.column_start >= m:
            continue
        across, down = (
            slice(tile.row_start, min(tile.row_stop, m)),
            slice(tile.column_start, min(tile.column_stop, m)),
        )
        at = np.flatnonzero((rows >= down.start) & (rows < down.stop))
        if at.size:
            yield tile, (slice(None), rows[at] - down.start), (across, at)
        at = np.flatnonzero((rows >= across.start) & (rows < across.stop))
        if at.size and not tile.diagonal:
            yield tile, (rows[at] - across.start,), (down, at)
