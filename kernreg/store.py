"""GramStore: a Gram matrix on disk, tile by tile; each tile is whole and checksummed, or absent.

A store is a folder NAME.gram with one main file gram.h5, which plain h5py opens, and one shard per tile.
Kill −9 or power loss at any moment leaves a store that opens, verifies and resumes. Format: docs/format.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import DTypeLike

from kernreg import gramfile
from kernreg.architecture import Architecture
from kernreg.claims import tidy
from kernreg.durable import Lock, refusal, sync
from kernreg.errors import KernregError
from kernreg.provenance import (
    Array,
    Arrays,
    Settings,
    all_rows,
    as_json,
    require_hashes,
    row_hashes,
    versions,
)
from kernreg.recut import remains
from kernreg.shards import Place, Shards
from kernreg.tiles import Tile, TileGrid


class GramStore:
    """K(train, train) and K(test, train) of n train and t test rows, from `create`, `open` or `gram.build`.

    Usable in a `with` statement, which gives the writer's lock back.

    Attributes:
        path: the folder.
        n, t: train and test rows.
        architecture, kernels, dtype, backend, backends, provenance: see `Settings`, which `settings` holds.
        y_train, y_test: (n, c) and (t, c) float64 targets.
        labels_train, labels_test: (n,) and (t,) int64, or None.
        rows_train, rows_test: (n,) and (t,) int64, row numbers in the source.
        hashes_train: (n, 16) uint8; equal rows have equal hashes.
        grids: the tiles of "train", K(train, train), and of "test", K(test, train); shards: their files.
        versions, created: of kernreg and its libraries, and when; those of a tile: `shards.describe`.
    """

    def __init__(self, path: Path, contents: gramfile.Contents, lock: Lock | None = None) -> None:
        self.path, self._lock = path, lock
        self._adopt(contents)

    def _adopt(self, contents: gramfile.Contents) -> None:
        self._contents, self.shards = contents, Shards(self.path, contents)
        self.settings, self.grids = contents.settings, contents.grids
        self.architecture, self.kernels = self.settings.architecture, self.settings.kernels
        self.dtype, self.backend = self.settings.dtype, self.settings.backend
        self.backends = self.settings.backends
        self.provenance = self.settings.provenance
        self.versions, self.created = contents.versions, contents.created
        train, test = contents.rows["train"], contents.rows["test"]
        self.n, self.t = len(train), len(test)
        self.y_train, self.y_test = train.y, test.y
        self.labels_train, self.labels_test = train.labels, test.labels
        self.rows_train, self.rows_test = train.numbers, test.numbers
        self.hashes_train = train.hashes

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        architecture: Architecture,
        kernels: Sequence[str],
        dtype: str,
        backend: str,
        tile: int,
        provenance: Mapping[str, Any] | None = None,
        shared: bool = False,
        **arrays: Unpack[Arrays],
    ) -> GramStore:
        """A new store without tiles, open for writing; `kernreg.gram.fill` computes them.

        Args:
            path: folder to make; tiles of these rows and settings that are there, without a main file, are taken over.
            architecture, kernels, dtype, backend, provenance: see `Settings`.
            tile: rows of a tile.
            shared: several processes create and fill it together: the first one's is taken.
            arrays: x_train, y_train and the others of `Arrays`; of x only hashes are kept.

        Raises:
            KernregError: a store is there, another process writes it, arrays do not fit, or the disk refuses.
        """
        folder, (shape, rows) = gramfile.folder_of(path), all_rows(arrays)
        settings = Settings(architecture, tuple(kernels), dtype, backend, shape, as_json(provenance or {}))
        gramfile.begin(settings, rows, tile)  # refuses tiles of no rows, before anything is made
        try:
            (folder / gramfile.TILES).mkdir(parents=True, exist_ok=True)
            sync(folder.parent)
        except OSError as error:
            raise refusal(error, folder) from error
        lock = Lock(folder, shared=shared)
        try:
            exists = (folder / gramfile.MAIN).exists()
            if not shared:
                if exists:
                    raise KernregError(f"{folder} holds a store already: open it, or choose another --out")
                tidy(folder)
            if not exists:
                found = remains(folder, settings, rows)
                settings = replace(settings, backends=found.backends)
                contents = gramfile.begin(settings, rows, tile, found.train, found.test)
                gramfile.write_main(folder, contents, first=shared)
            return cls(folder, gramfile.read_main(folder), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], writer: bool = False, shared: bool = False, **expected: Any
    ) -> GramStore:
        """An existing store, by its folder or its gram.h5.

        Args:
            path: the folder NAME.gram.
            writer: take the writer's lock; readers take none and are never blocked.
            shared: share it with other members, who write tiles and nothing else.
            expected: fields of `Settings` that must be as given: architecture, kernels, dtype, backend, ….

        Raises:
            KernregError: no store there, damaged, of another format, not as `expected`, by field, or being written (writer).
        """
        folder = gramfile.folder_of(path)
        gramfile.read_main(folder).settings.require_equal(expected, str(folder))
        lock = Lock(folder, shared=shared) if writer or shared else None
        try:
            if writer:
                tidy(folder)
            return cls(folder, gramfile.read_main(folder), lock)
        except BaseException:
            if lock:
                lock.release()
            raise

    def extend(
        self,
        *,
        tile: int | None = None,
        provenance: Mapping[str, Any] | None = None,
        **arrays: Unpack[Arrays],
    ) -> None:
        """Grow to more train or test rows, of which the stored ones are the first; every tile stays valid.

        Args: as in `create`; `tile` is the size of the new tiles, by default that of the old ones.

        Raises:
            KernregError: fewer rows than stored, a stored row or target that differs, or the disk refuses.
        """
        self._require_writer()
        where, old, tile = str(self.path), self._contents, tile or self._contents.tile
        given = as_json(self.provenance if provenance is None else provenance)
        shape, rows = all_rows(arrays)
        self.settings.require_equal({"input_shape": shape, "provenance": given}, where)
        for part, new in rows.items():
            if len(new) < len(old.rows[part]):
                raise KernregError(
                    f"{where} holds {len(old.rows[part])} {part} rows, {len(new)} are given: a store only "
                    "grows, and readers take its first rows; give at least as many, or another folder (--out)"
                )
            old.rows[part].require_prefix(new, part, where)
        n, t = len(rows["train"]), len(rows["test"])
        train = self.grids["train"].extend(n, n, tile)
        test = TileGrid(self.grids["test"].row_edges, train.row_edges).extend(t, n, tile)
        settings = Settings.from_json({**self.settings.to_json(), "provenance": given})
        grids = {"train": train, "test": test}
        contents = gramfile.Contents(settings, rows, grids, tile, versions(), old.created)
        gramfile.write_main(self.path, contents)
        self._adopt(contents)

    def compute_by(self, backend: str) -> None:
        """Let this backend compute what is missing from now on; the tiles that are there stay, and say by which.

        Raises:
            KernregError: not open for writing, "auto", or the disk refuses.
        """
        self._require_writer()
        settings = replace(self.settings, backend=backend)
        contents = replace(self._contents, settings=settings, versions=versions())
        gramfile.write_main(self.path, contents)
        self._adopt(contents)

    @property
    def complete(self) -> bool:
        """Whether every tile is there."""
        return not self.missing()

    def missing(self, n: int | None = None, t: int | None = None) -> list[Place]:
        """("train" or "test", tile) of every tile that the leading n train and t test rows need and lack."""
        n, t = self._prefix("n", n, self.n), self._prefix("t", t, self.t, 0)
        return self.shards.missing(self.shards.needed(n, t, n))

    def tiles(self, part: str, kernel: str, n: int | None = None, t: int | None = None) -> list[Tile]:
        """The tiles of the first n train rows ("train"), or of the first t test rows with them ("test"), all there.

        Raises:
            KernregError: as in `train`.
        """
        n = self._prefix("n", n, self.n)
        t = self._prefix("t", t, self.t, 0) if part == "test" else 0
        return [tile for _, tile in self.require(kernel, 0 if part == "test" else n, t, n if t else 0)]

    def train(self, kernel: str, n: int | None = None, dtype: DTypeLike = np.float64, xp: Any = np) -> Array:
        """K(train, train) of the first n rows: (n, n), full, exactly symmetric; every checksum verified.

        `xp` is the namespace of the result, numpy or cupy; of the host's memory one tile is used beside it.

        Raises:
            KernregError: no such kernel, n out of range, a tile missing or damaged, by file.
        """
        n = self._prefix("n", n, self.n)
        K: Array = xp.empty((n, n), dtype)
        for part, tile in self.require(kernel, n, 0, 0):
            whole = xp.asarray(self.shards.read(part, tile, kernel))
            block = whole[: n - tile.row_start, : n - tile.column_start]
            K[tile.row_start : tile.row_stop, tile.column_start : tile.column_stop] = block
            if not tile.diagonal:
                K[tile.column_start : tile.column_stop, tile.row_start : tile.row_stop] = block.T
        return K

    def test(
        self, kernel: str, n: int | None = None, dtype: DTypeLike = np.float64, t: int | None = None
    ) -> Array:
        """K(test, train) of the first t test and n train rows: (t, n); every checksum verified.

        Raises:
            KernregError: as in `train`.
        """
        n, t = self._prefix("n", n, self.n), self._prefix("t", t, self.t, 0)
        K = np.empty((t, n), dtype)
        for part, tile in self.require(kernel, 0, t, n):
            block = self.shards.read(part, tile, kernel)[: t - tile.row_start, : n - tile.column_start]
            K[tile.row_start : tile.row_stop, tile.column_start : tile.column_stop] = block
        return K

    def write(self, part: str, tile: Tile, values: Mapping[str, Array]) -> None:
        """Commit a tile, see `Shards.write`. Raises KernregError when not open for writing."""
        self._require_writer(shared=True)
        self.shards.write(part, tile, values)

    def drop(self, part: str, tile: Tile) -> None:
        """Forget a tile, so that the next fill computes it again. Raises KernregError when not a writer."""
        self._require_writer()
        self.shards.drop(part, tile)

    def require_rows(self, **arrays: Unpack[Arrays]) -> None:
        """Rows, targets, labels and row numbers must be those of the store, as far as both go.

        Raises:
            KernregError: names the array and the first row that differ.
        """
        for part, rows in all_rows(arrays)[1].items():
            self._contents.rows[part].require_prefix(rows, part, str(self.path))

    def require_inputs(self, x_train: Array, x_test: Array) -> None:
        """The rows must be those that the store was made of, at least the leading ones.

        Raises:
            KernregError: names the first row whose hash differs.
        """
        for part, x in (("train", x_train), ("test", x_test)):
            require_hashes(self._contents.rows[part].hashes, row_hashes(x), part, str(self.path))

    def alone(self) -> bool:
        """Whether no other process can be writing, from now until `close`."""
        return self._lock is not None and self._lock.alone()

    def close(self) -> None:
        """Give the writer's lock back; reading goes on to work."""
        if self._lock:
            self._lock.release()
        self._lock = None

    def __enter__(self) -> GramStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        what = f"{self.architecture.name or 'network'} {'+'.join(self.kernels)} {self.dtype}"
        return f"GramStore({str(self.path)!r}: {what}, n={self.n}, t={self.t})"

    def _require_writer(self, shared: bool = False) -> None:
        if self._lock is None or (self._lock.shared and not shared):
            raise KernregError(f"{self.path} is open for reading only; use GramStore.open(path, writer=True)")

    def require(self, kernel: str, n: int, t: int, columns: int) -> list[Place]:
        """The tiles of the leading n×n part of K(train, train) and t×columns part of K(test, train).

        Raises:
            KernregError: no such kernel, or a tile is missing, by file.
        """
        self._prefix("n", max(n, columns), self.n, 0)
        if kernel not in self.kernels:
            raise KernregError(f"{self.path} holds {' and '.join(self.kernels)}, not {kernel!r}")
        needed = self.shards.needed(n, t, columns)
        if missing := self.shards.missing(needed):
            raise KernregError(
                f"{self.path} is not complete: {len(missing)} of the {len(needed)} tiles needed are missing, "
                f"the first is {self.shards.path(*missing[0]).name}; "
                "run the same `kernreg gram` command again to compute them"
            )
        return needed

    @staticmethod
    def _prefix(name: str, value: int | None, stored: int, least: int = 1) -> int:
        if value is None:
            return stored
        if not least <= value <= stored:
            raise KernregError(
                f"{name}={value} rows are asked for, the store holds {stored}; use {name} ≤ {stored}"
            )
        return int(value)
