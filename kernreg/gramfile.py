"""The HDF5 side of a Gram store: one shard per tile, and one main file whose virtual datasets join them.

The only file that knows HDF5; docs/format.md describes what it writes. Nothing here locks or decides.
"""

from __future__ import annotations

import datetime
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kernreg.data.hdf5 import own_array, own_member
from kernreg.durable import create, replace
from kernreg.errors import KernregError, one_line, shown
from kernreg.provenance import Array, Rows, Settings, checksum, versions
from kernreg.seal import USER_BLOCK, Unsealed, open_image, read_seal, require_body, seal
from kernreg.sink import writing
from kernreg.tiles import Tile, TileGrid

FORMAT = "kernreg-gram"
FORMAT_VERSION = 1
MAIN = "gram.h5"
TILES = "tiles"
PARTS = ("train", "test")
MOST_TILES = 1 << 20  # of a part; a plan makes 512, extending a store adds to them
_UNREADABLE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)


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


def folder_of(path: str | os.PathLike[str]) -> Path:
    """Of a store that is named by its folder or by its main file."""
    given = Path(path)
    return given.parent if given.name == MAIN and not given.is_dir() else given


def shard_name(part: str, tile: Tile) -> str:
    """File name of a tile of K(train, train) or K(test, train)."""
    return f"{part}-{tile.row_block:05d}-{tile.column_block:05d}.h5"


def begin(
    settings: Settings,
    rows: Mapping[str, Rows],
    tile: int,
    train_edges: tuple[int, ...] = (0,),
    test_edges: tuple[int, ...] = (0,),
) -> Contents:
    """What the main file of a new store says, whose first blocks of rows have these edges."""
    n, t = len(rows["train"]), len(rows["test"])
    train = TileGrid(train_edges, train_edges, symmetric=True).extend(n, n, tile)
    test = TileGrid(test_edges, train.row_edges).extend(t, n, tile)
    return Contents(settings, rows, {"train": train, "test": test}, tile, versions(), now())


def write_main(folder: Path, contents: Contents, first: bool = False) -> None:
    """Write or replace the main file, atomically; with `first` one that another process has written meanwhile stays.

    Raises:
        KernregError: the disk is full or read-only.
    """

    def write(partial: Path) -> None:
        _write_main(partial, contents)
        seal(partial, {"format": FORMAT, "format_version": FORMAT_VERSION, "file": "main"})

    (create if first else replace)(folder / MAIN, write)


def _write_main(path: Path, contents: Contents) -> None:
    settings = contents.settings
    head = {
        **settings.to_json(),
        "tile": contents.tile,
        "versions": contents.versions,
        "created": contents.created,
    }
    with (
        writing(path) as sink,
        h5py.File(sink, "w", libver=("earliest", "v110"), userblock_size=USER_BLOCK) as file,
    ):
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        for key, value in head.items():
            file.attrs[key] = value if isinstance(value, str | int) else json.dumps(value, sort_keys=True)
        for part in PARTS:
            for name, array in _arrays(contents.rows[part], contents.grids[part]).items():
                file[f"{part}/{name}"] = array
            for kernel in settings.kernels:
                _write_virtual(file, part, kernel, contents.grids[part], settings.dtype)


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
        image = path.read_bytes()  # once: a writer may replace the file at any moment
        sealed = open_image(image)
        if sealed.get("format_version") != FORMAT_VERSION:
            raise KernregError(
                f"{path} has format version {shown(sealed.get('format_version'))}, this kernreg reads "
                f"{FORMAT_VERSION}: install the kernreg that wrote it, or choose another folder (--out)"
            )
        with h5py.File(io.BytesIO(image), "r") as file:
            return _contents(file, len(image))
    except _UNREADABLE as error:
        _require_damage(error, path)
        raise KernregError(
            f"{path} cannot be used: {_line(error)}; move {MAIN} away and run the same `kernreg gram` "
            "command again: it keeps the finished tiles"
        ) from error


def _contents(file: h5py.File, size: int) -> Contents:
    names = ("architecture", "kernels", "backends", "input_shape", "provenance", "versions")
    head = {key: json.loads(value) if key in names else value for key, value in file.attrs.items()}
    rows, edges = {}, {}
    for part in PARTS:
        group = own_member(file, part)
        arrays = {name: own_array(group, name, size) for name in ("hashes", "targets", "rows", "edges")}
        labels = own_array(group, "labels", size) if "labels" in group else None
        rows[part] = Rows(arrays["hashes"], arrays["targets"], labels, arrays["rows"])
        _require_rows(rows[part], part, arrays["edges"])
        edges[part] = tuple(arrays["edges"].tolist())
    grids = {
        "train": TileGrid(edges["train"], edges["train"], symmetric=True),
        "test": TileGrid(edges["test"], edges["train"]),
    }
    if (tiles := max(map(len, grids.values()))) > MOST_TILES or not len(rows["train"]):
        raise ValueError(f"it claims {len(rows['train'])} train rows in {tiles} tiles")
    made = {str(library): str(number) for library, number in dict(head["versions"]).items()}
    return Contents(Settings.from_json(head), rows, grids, int(head["tile"]), made, str(head["created"]))


def _require_rows(rows: Rows, part: str, edges: Array) -> None:
    """The arrays of a part must have the shapes and dtypes that `_arrays` writes, and agree."""
    n, wrong = len(edges) and int(edges[-1]), []
    for name, array, dtype, shape in (
        ("edges", edges, np.int64, (len(edges),)),
        ("hashes", rows.hashes, np.uint8, (n, 16)),
        ("targets", rows.y, np.float64, (n, *rows.y.shape[1:2])),
        ("labels", rows.labels, np.int64, (n,)),
        ("rows", rows.numbers, np.int64, (n,)),
    ):
        if array is not None and (array.dtype != dtype or array.shape != shape):
            wrong.append(f"{part}/{name} is {array.dtype} {array.shape}")
    if wrong or rows.y.ndim != 2 or not np.isfinite(rows.y).all():
        raise ValueError(f"it does not hold rows: {wrong[0] if wrong else 'targets that are not finite'}")


def write_shard(path: Path, values: Mapping[str, Array], identity: Mapping[str, Any]) -> None:
    """Commit a tile: its numbers by kernel, what it is, checksums, versions and time; whole or absent.

    Raises:
        KernregError: the disk is full or read-only.
    """
    facts = {**identity, "format": FORMAT, "format_version": FORMAT_VERSION, "file": "tile"}
    facts |= {"versions": versions(), "created": now(), "offsets": {}, "checksums": {}}

    def write(partial: Path) -> None:
        with writing(partial) as sink, h5py.File(sink, "w", userblock_size=USER_BLOCK) as file:
            file.attrs["tile"] = json.dumps(identity, sort_keys=True)
            for kernel, array in values.items():
                facts["offsets"][kernel] = file.create_dataset(kernel, data=array).id.get_offset()
                facts["checksums"][kernel] = checksum(array)
        seal(partial, facts)

    replace(path, write)


def describe_shard(path: Path, identity: Mapping[str, Any], backends: Collection[str]) -> dict[str, Any]:
    """What a shard says of itself, once it is the tile asked for and one of these backends made it; no number is read.

    Raises:
        TileError: missing, truncated, damaged, or of another Gram.
    """
    if not path.is_file():
        raise TileError(path, "is missing", missing=True)
    with _damage(path):
        facts = read_seal(path)
    for field, value in identity.items():
        if facts.get(field) != value:
            raise TileError(
                path, f"belongs to another Gram: its {field} is {shown(facts.get(field))}, not {shown(value)}"
            )
    if (made_by := facts.get("backend")) not in backends:
        known = " and ".join(backends)
        raise TileError(path, f"was made by backend {shown(made_by)}, and its store knows of {known} only")
    return facts


def check_shard(path: Path, facts: Mapping[str, Any]) -> None:
    """Every byte of a shard described so, what HDF5 keeps there included. Raises TileError."""
    with _damage(path):
        require_body(path, facts["checksum"])


def read_shard(path: Path, facts: Mapping[str, Any], kernel: str) -> Array:
    """The numbers of a tile described so, checksum verified, without HDF5. Raises TileError."""
    shape = _shape(facts)
    with _damage(path):
        values = np.fromfile(path, facts["dtype"], shape[0] * shape[1], offset=_offset(facts, kernel))
        if checksum(values) != facts["checksums"][kernel]:
            raise Unsealed(f"the checksum of its {kernel} does not fit")
    return values.reshape(shape)


def read_entry(path: Path, facts: Mapping[str, Any], kernel: str, at: tuple[int, int]) -> float:
    """One number of a tile described so; the checksum of the tile is not verified. Raises TileError."""
    item = np.dtype(facts["dtype"]).itemsize
    with _damage(path):
        offset = _offset(facts, kernel) + (at[0] * _shape(facts)[1] + at[1]) * item
        return float(np.fromfile(path, facts["dtype"], 1, offset=offset)[0])


def _offset(facts: Mapping[str, Any], kernel: str) -> int:
    """Where the numbers begin, once the file is as large as they need; before any memory is set aside for them."""
    offset, (rows, columns) = int(facts["offsets"][kernel]), _shape(facts)
    if not USER_BLOCK <= offset <= facts["size"] - rows * columns * np.dtype(facts["dtype"]).itemsize:
        raise Unsealed(f"it is too small for its {kernel}")
    return offset


def _shape(facts: Mapping[str, Any]) -> tuple[int, int]:
    (top, bottom), (left, right) = facts["rows"], facts["columns"]
    return (bottom - top, right - left)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        _require_damage(error, path)
        raise TileError(path, f"cannot be used: {_line(error)}") from error


def _require_damage(error: Exception, path: Path) -> None:
    """Raise KernregError if the system could not read a file: that says nothing about the file."""
    number = getattr(error, "errno", None)
    if number is not None:
        raise KernregError(f"cannot read {path}: {os.strerror(number)}") from error


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _line(error: BaseException) -> str:
    return one_line(str(error).split("\n", 1)[0], 160) or type(error).__name__
