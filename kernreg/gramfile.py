"""The HDF5 side of a Gram store: one shard per tile, and one main file whose virtual datasets join them.

The only file that knows HDF5; docs/format.md describes what it writes. Nothing here locks or decides.
"""

from __future__ import annotations

import datetime
import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kernreg.durable import replace
from kernreg.errors import KernregError
from kernreg.provenance import Array, Rows, Settings, checksum, text_checksum, versions
from kernreg.tiles import Tile, TileGrid

FORMAT = "kernreg-gram"
FORMAT_VERSION = 1
MAIN = "gram.h5"
TILES = "tiles"
PARTS = ("train", "test")
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError)
_NOT_ITS_FAULT = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.ENOMEM, errno.ENOLCK)


class TileError(KernregError):
    """A tile that cannot be read as numbers.

    Attributes:
        path: its file.
        reason: what is wrong with it.
        missing: True where there is no such file.
    """

    def __init__(self, path: Path, reason: str, missing: bool = False) -> None:
        self.path, self.reason, self.missing = path, reason, missing
        remedy = "run the same `kernreg gram` command again: it computes only what is missing"
        super().__init__(f"tile {path} {reason}; {remedy if missing else f'delete this file and {remedy}'}")


@dataclass(frozen=True)
class Contents:
    """What a main file says.

    Attributes:
        settings: what determines the numbers, rows aside.
        rows: "train" and "test" to their targets, labels, row numbers and hashes.
        grids: "train" and "test" to their tiles.
        tile: rows of a tile, for the next extension.
        versions: of kernreg and the libraries that wrote this file.
        created: ISO 8601, UTC.
    """

    settings: Settings
    rows: Mapping[str, Rows]
    grids: Mapping[str, TileGrid]
    tile: int
    versions: Mapping[str, str]
    created: str


def shard_name(part: str, tile: Tile) -> str:
    """File name of a tile of K(train, train) or K(test, train)."""
    return f"{part}-{tile.row_block:05d}-{tile.column_block:05d}.h5"


def write_main(folder: Path, contents: Contents) -> None:
    """Write or replace the main file, atomically.

    Raises:
        KernregError: the disk is full or read-only.
    """
    replace(folder / MAIN, lambda partial: _write_main(partial, contents))


def _write_main(path: Path, contents: Contents) -> None:
    settings = contents.settings
    head = {
        **settings.to_json(),
        "tile": contents.tile,
        "versions": contents.versions,
        "created": contents.created,
    }
    text = json.dumps(head, sort_keys=True)
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        file.attrs["head"] = text
        for key, value in head.items():
            file.attrs[key] = value if isinstance(value, str | int) else json.dumps(value, sort_keys=True)
        sums = [text_checksum(text)]
        for part in PARTS:
            for name, array in _arrays(contents.rows[part], contents.grids[part]).items():
                file[f"{part}/{name}"] = array
                sums.append(checksum(array))
            for kernel in settings.kernels:
                _write_virtual(file, part, kernel, contents.grids[part], settings.dtype)
        file.attrs["checksum"] = text_checksum(" ".join(sums))


def _arrays(rows: Rows, grid: TileGrid) -> dict[str, Array]:
    arrays: dict[str, Array] = {"targets": rows.y, "rows": rows.numbers, "hashes": rows.hashes}
    arrays["edges"] = np.array(grid.row_edges, np.int64)
    return arrays if rows.labels is None else {**arrays, "labels": rows.labels}


def _write_virtual(file: h5py.File, part: str, kernel: str, grid: TileGrid, dtype: str) -> None:
    name = f"{part}/{kernel}"
    if not len(grid):
        file.create_dataset(name, grid.shape, dtype)
        return
    layout = h5py.VirtualLayout(grid.shape, dtype)
    for tile in grid:
        source = h5py.VirtualSource(f"{TILES}/{shard_name(part, tile)}", kernel, tile.shape, dtype=dtype)
        layout[tile.rows, tile.columns] = source
    file.create_virtual_dataset(name, layout, fillvalue=np.nan)


def read_main(folder: Path) -> Contents:
    """What the main file says.

    Raises:
        KernregError: there is none, it is no Gram store, of a newer format, or damaged.
    """
    path = folder / MAIN
    if not path.is_file():
        raise KernregError(f"{folder} is no Gram store: {MAIN} is missing; make one with `kernreg gram`")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            if file.attrs.get("format") != FORMAT:
                raise KernregError(f"{path} is no Gram store of kernreg; make one with `kernreg gram`")
            found = int(file.attrs["format_version"])
            if found != FORMAT_VERSION:
                raise KernregError(
                    f"{path} has format version {found}, this kernreg reads {FORMAT_VERSION}: "
                    "install the kernreg that wrote it, or make the store again"
                )
            return _contents(file)
    except _UNREADABLE as error:
        raise KernregError(f"{path} is damaged ({_line(error)}); {_REMEDY}") from error


_REMEDY = f"delete {MAIN} and run the same `kernreg gram` command again: it keeps the finished tiles"


def _contents(file: h5py.File) -> Contents:
    text = file.attrs["head"]
    head = json.loads(text)
    sums, rows, edges = [text_checksum(text)], {}, {}
    for part in PARTS:
        group = file[part]
        labels = group["labels"][...] if "labels" in group else None
        rows[part] = Rows(group["hashes"][...], group["targets"][...], labels, group["rows"][...])
        edges[part] = tuple(int(edge) for edge in group["edges"][...])
        grid = TileGrid(edges[part], edges[part], symmetric=True)
        sums += [checksum(array) for array in _arrays(rows[part], grid).values()]
    if file.attrs["checksum"] != text_checksum(" ".join(sums)):
        raise ValueError("its checksum does not fit")
    grids = {
        "train": TileGrid(edges["train"], edges["train"], symmetric=True),
        "test": TileGrid(edges["test"], edges["train"]),
    }
    return Contents(Settings.from_json(head), rows, grids, head["tile"], head["versions"], head["created"])


def write_shard(path: Path, values: Mapping[str, Array], identity: Mapping[str, Any]) -> None:
    """Commit a tile: its numbers by kernel, what it is, checksums, versions and time; whole or absent.

    Raises:
        KernregError: the disk is full or read-only.
    """
    meta = {
        **identity,
        "checksums": {kernel: checksum(array) for kernel, array in values.items()},
        "versions": versions(),
        "created": now(),
    }
    text = json.dumps(meta, sort_keys=True)

    def write(partial: Path) -> None:
        with h5py.File(partial, "w") as file:
            file.attrs["tile"], file.attrs["tile_checksum"] = text, text_checksum(text)
            for kernel, array in values.items():
                file.create_dataset(kernel, data=array)

    replace(path, write)


def check_shard(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a shard says of itself, once it is the tile asked for; its numbers are not read.

    Raises:
        TileError: missing, truncated, damaged, or of another Gram.
    """
    with _shard(path, identity) as (_, meta):
        return meta


def read_shard(path: Path, identity: Mapping[str, Any], kernel: str) -> Array:
    """The numbers of a tile, checksum verified.

    Raises:
        TileError: missing, truncated, damaged, or of another Gram.
    """
    with _shard(path, identity) as (file, meta):
        values: Array = file[kernel][...]
        if checksum(values) != meta["checksums"][kernel]:
            raise TileError(path, "is damaged: its checksum does not fit")
        return values


def read_entry(path: Path, identity: Mapping[str, Any], kernel: str, at: tuple[int, int]) -> float:
    """One number of a tile; the checksum of the tile is not verified."""
    with _shard(path, identity) as (file, _):
        return float(file[kernel][at])


@contextmanager
def _shard(path: Path, identity: Mapping[str, Any]) -> Iterator[tuple[h5py.File, dict[str, Any]]]:
    if not path.is_file():
        raise TileError(path, "is missing", missing=True)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            text = file.attrs["tile"]
            if text_checksum(text) != file.attrs["tile_checksum"]:
                raise TileError(path, "is damaged: the checksum of its description does not fit")
            meta = json.loads(text)
            for field, value in identity.items():
                if meta.get(field) != value:
                    raise TileError(
                        path, f"belongs to another Gram: its {field} is {meta.get(field)!r}, not {value!r}"
                    )
            shape = (
                identity["rows"][1] - identity["rows"][0],
                identity["columns"][1] - identity["columns"][0],
            )
            for kernel in identity["kernels"]:
                if file[kernel].shape != shape or file[kernel].dtype != np.dtype(identity["dtype"]):
                    raise TileError(
                        path, f"is damaged: {kernel} is {file[kernel].dtype} {file[kernel].shape}"
                    )
            yield file, meta
    except _UNREADABLE as error:
        if getattr(error, "errno", None) in _NOT_ITS_FAULT:
            raise KernregError(f"cannot open {path}: {_line(error)}") from error
        raise TileError(path, f"cannot be read ({_line(error)})") from error


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
