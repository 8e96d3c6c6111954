"""Shards: the tiles of a Gram store as files; each is whole and checksummed, or absent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kernreg import gramfile
from kernreg.durable import refusal
from kernreg.errors import KernregError
from kernreg.gramfile import Contents
from kernreg.provenance import Array, checksum
from kernreg.tiles import Tile

Place: TypeAlias = tuple[str, Tile]  # "train" or "test", and the tile of K(train, train) or K(test, train)


class Shards:
    """The tile files in a store's folder. Nothing here locks."""

    def __init__(self, folder: Path, contents: Contents) -> None:
        self.folder, self._contents = folder / gramfile.TILES, contents

    def path(self, part: str, tile: Tile) -> Path:
        """File of a tile."""
        return self.folder / gramfile.shard_name(part, tile)

    def needed(self, n: int, t: int, columns: int) -> list[Place]:
        """The tiles of the leading n×n part of K(train, train) and t×columns part of K(test, train)."""
        grids = self._contents.grids
        train = [("train", tile) for tile in grids["train"].prefix(n, n)]
        return train + [("test", tile) for tile in grids["test"].prefix(t, columns)]

    def missing(self, places: list[Place]) -> list[Place]:
        """Those of the tiles that have no file."""
        try:
            with os.scandir(self.folder) as entries:
                present = {entry.name for entry in entries if _is_file(entry)}
        except (FileNotFoundError, NotADirectoryError):
            present = set()
        return [(part, tile) for part, tile in places if gramfile.shard_name(part, tile) not in present]

    def read(self, part: str, tile: Tile, kernel: str) -> Array:
        """The numbers of a tile in the store's dtype, checksum verified. Raises `gramfile.TileError`."""
        return gramfile.read_shard(self.path(part, tile), self.describe(part, tile), kernel)

    def entry(self, part: str, tile: Tile, kernel: str, row: int, column: int) -> float:
        """The number at (row, column) of the matrix, checksum not verified. Raises `gramfile.TileError`."""
        at = (row - tile.row_start, column - tile.column_start)
        return gramfile.read_entry(self.path(part, tile), self.describe(part, tile), kernel, at)

    def describe(self, part: str, tile: Tile) -> dict[str, Any]:
        """What a tile says of itself: backend, checksums, versions, time, …. Raises `gramfile.TileError`."""
        identity = self._identity(part, tile)
        return gramfile.describe_shard(self.path(part, tile), identity, self._contents.settings.backends)

    def check(self, part: str, tile: Tile) -> dict[str, Any]:
        """What `describe` gives, once every byte of the tile's file is read. Raises `gramfile.TileError`."""
        facts = self.describe(part, tile)
        gramfile.check_shard(self.path(part, tile), facts)
        return facts

    def write(self, part: str, tile: Tile, values: Mapping[str, Array]) -> None:
        """Commit the numbers of a tile by kernel, computed by the store's backend; they then survive a power loss.

        Raises:
            KernregError: numbers of another shape or dtype, NaN or infinity among them, or the disk refuses.
        """
        settings = self._contents.settings
        for kernel in settings.kernels:
            K = values[kernel]
            if K.shape != tile.shape or K.dtype != np.dtype(settings.dtype):
                raise KernregError(f"a tile must be {settings.dtype} {tile.shape}, not {K.dtype} {K.shape}")
            if not np.isfinite(K).all():
                i, j = (int(k) for k in np.argwhere(~np.isfinite(K))[0])
                raise KernregError(
                    f"{kernel} of {part} row {tile.row_start + i} and train row {tile.column_start + j} "
                    f"came out as {K[i, j]} in {settings.dtype}: rescale the rows, or use --dtype float64"
                )
        try:
            self.folder.mkdir(exist_ok=True)  # someone may have deleted it
        except OSError as error:
            raise refusal(error, self.folder) from error
        kept = {kernel: values[kernel] for kernel in settings.kernels}
        identity = {**self._identity(part, tile), "backend": settings.backend}
        gramfile.write_shard(self.path(part, tile), kept, identity)

    def drop(self, part: str, tile: Tile) -> None:
        """Forget a tile, so that the next fill computes it again."""
        self.path(part, tile).unlink(missing_ok=True)

    def _identity(self, part: str, tile: Tile) -> dict[str, Any]:
        settings, rows = self._contents.settings, self._contents.rows
        return {
            "part": part,
            "rows": [tile.row_start, tile.row_stop],
            "columns": [tile.column_start, tile.column_stop],
            "kernels": list(settings.kernels),
            "dtype": settings.dtype,
            "architecture_digest": settings.architecture.digest,
            "rows_hash": checksum(rows[part].hashes[tile.rows]),
            "columns_hash": checksum(rows["train"].hashes[tile.columns]),
        }


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False
