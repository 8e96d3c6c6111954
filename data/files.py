"""A user's own file: .npz or .h5 with X and y, or X.npy with y.npy beside it.

Names are X and y (or x, Y), optionally X_test and y_test. X is (n,d), (n,H,W) or (n,H,W,C); y holds labels
(integers, (n,) or (n,1)) or real targets (floats, (n,) or (n,c); integers (n,c) with c ≥ 2 count as real).

Nothing in a file runs code, and no claimed size is believed: a shape must agree with the bytes stored.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data.dataset import require_finite
from kernreg.data.places import DEFLATE_LIMIT
from kernreg.data.source import Source
from kernreg.errors import KernregError

SUFFIXES = (".npz", ".npy", ".h5", ".hdf5")
MOST_CLASSES = 10_000
Arrays = Mapping[str, NDArray[Any]]


def read_file(path: Path) -> Source:
    """The rows of a .npz, .npy, .h5 or .hdf5 file; KernregError says what is wrong with it."""
    arrays, paths = read_arrays(path)
    hashes = {}
    for part in paths:
        with part.open("rb") as file:
            hashes[part.name] = file_digest(file, "sha256").hexdigest()
    x = inputs(arrays, "X", path)
    y, kind = outputs(arrays, "y", path, len(x))
    if ("X_test" in arrays) != ("y_test" in arrays):
        raise KernregError(f"{path} has one of X_test and y_test; give both or neither")
    x_test = y_test = None
    if "X_test" in arrays:
        x_test = inputs(arrays, "X_test", path)
        y_test, kind_test = outputs(arrays, "y_test", path, len(x_test))
        if x_test.shape[1:] != x.shape[1:] or kind_test != kind or y_test.shape[1:] != y.shape[1:]:
            raise KernregError(f"{path}: X_test or y_test is of another shape or kind than X and y")
    classes = None
    if kind == "labels":
        y, y_test, classes = _number_classes(y, y_test, path)
    eight_bits = x.dtype == np.uint8 and (x_test is None or x_test.dtype == np.uint8)
    return Source(x, y, x_test, y_test, classes, hashes, 255.0 if eight_bits else None, str(path.resolve()))


def read_arrays(path: Path, targets: bool = True) -> tuple[Arrays, list[Path]]:
    """X, y, X_test and y_test as a file holds them, shapes unchecked, and the files they came from.

    `targets` False: an X.npy needs no y.npy beside it. Raises KernregError where the file cannot be read.
    """
    if path.suffix not in SUFFIXES:
        raise KernregError(f"{path} is none of {', '.join(SUFFIXES)}; save X and y as one of them")
    if not path.is_file():
        raise KernregError(f"{path} does not exist; check the path, or use one of `kernreg data list`")
    try:
        if path.suffix == ".npy":
            return _read_npy(path, targets)
        return _read_npz(path) if path.suffix == ".npz" else _read_hdf5(path)
    except KernregError:
        raise
    except Exception as error:  # a damaged file makes NumPy, zlib, tokenize and HDF5 raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KernregError(f"cannot read {path}: {reason}; save X and y into it again") from None


def default_normalise(source: Source) -> str:
    """ "standard" for 8-bit images; "none" for everything else, whose scale was somebody's choice."""
    return "standard" if source.white is not None and source.x.ndim == 4 else "none"


def inputs(arrays: Arrays, key: str, path: Path) -> NDArray[Any]:
    """(n, d) or (n, H, W, C) of what a file holds under `key`; KernregError says what is wrong with it."""
    if key not in arrays:
        raise KernregError(f"{path} has no {key}; save the inputs under the name X and the targets under y")
    x = arrays[key]
    if x.dtype.kind not in "uifb":
        raise KernregError(f"{path}: {key} has dtype {x.dtype}; save real numbers")
    if x.ndim not in (2, 3, 4) or x.size == 0:
        raise KernregError(f"{path}: {key} has shape {x.shape}; it must be (n, d), (n, H, W) or (n, H, W, C)")
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[2] == x.shape[3] > 4:
        raise KernregError(
            f"{path}: {key} of shape {x.shape} looks like (n, C, H, W); save it as (n, H, W, C)"
        )
    if x.dtype.kind == "f":
        require_finite(x, f"{path}: {key}")
    return x[..., None] if x.ndim == 3 else x


def outputs(arrays: Arrays, key: str, path: Path, rows: int) -> tuple[NDArray[Any], str]:
    """(n,) integers and "labels", or (n, c) float64 and "real"; KernregError likewise."""
    if key not in arrays:
        raise KernregError(f"{path} has no {key}; save the inputs under the name X and the targets under y")
    y = arrays[key]
    if y.dtype.kind not in "uifb":
        raise KernregError(f"{path}: {key} has dtype {y.dtype}; save integer labels or real targets")
    if y.ndim not in (1, 2) or len(y) != rows or y.size == 0:
        raise KernregError(
            f"{path}: {key} has shape {y.shape}; for {rows} inputs it must be ({rows},) or ({rows}, c)"
        )
    if y.dtype.kind in "uib" and y.size == rows:
        return y.reshape(rows), "labels"
    require_finite(y, f"{path}: {key}")
    return y.reshape(rows, -1).astype(np.float64), "real"


def _number_classes(
    y: NDArray[Any], y_test: NDArray[Any] | None, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, tuple[str, ...]]:
    values, labels = np.unique(y, return_inverse=True)
    if not 2 <= len(values) <= MOST_CLASSES:
        raise KernregError(
            f"{path}: y holds {len(values)} different integers, which count as labels of 2 to {MOST_CLASSES} "
            "classes; save real targets as floats"
        )
    labels_test = None
    if y_test is not None:
        strange = np.setdiff1d(y_test, values)
        if len(strange):
            raise KernregError(f"{path}: y_test has the label {strange[0]}, which y has not")
        labels_test = np.searchsorted(values, y_test).astype(np.int64)
    return labels.astype(np.int64), labels_test, tuple(str(value) for value in values)


def _canonical(name: str) -> str:
    stem, _, tail = name.partition("_")
    return {"x": "X", "y": "y"}.get(stem.lower(), stem) + ("_" + tail if tail else "")


def _read_npz(path: Path) -> tuple[Arrays, list[Path]]:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            key = _canonical(member.filename.removesuffix(".npy"))
            if key not in ("X", "y", "X_test", "y_test"):
                continue
            if key in arrays:
                raise KernregError(f"{path} has {key} twice; keep one")
            if member.file_size > DEFLATE_LIMIT * min(member.compress_size, path.stat().st_size):
                raise ValueError(f"{key} claims {member.file_size} bytes")
            with archive.open(member) as stream:
                shape, dtype, header = _npy_header(stream)
                if dtype.hasobject:
                    raise ValueError(f"{key} holds Python objects")
                if math.prod(shape) * dtype.itemsize + header != member.file_size:
                    raise ValueError(f"{key} claims the shape {shape} and holds {member.file_size} bytes")
            with archive.open(member) as stream:
                arrays[key] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays, [path]


def _npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"it has the .npy version {version}, which plain numbers do not need")
    return shape, dtype, int(stream.tell())


def _read_npy(path: Path, targets: bool) -> tuple[Arrays, list[Path]]:
    stem = path.stem
    if stem[-1:] not in ("X", "x"):
        raise KernregError(
            f"{path} holds one array; name the inputs …X.npy and put the targets beside them as …y.npy"
        )
    paths = {"X": path}
    for key, tails in (
        ("y", ("y", "Y")),
        ("X_test", (f"{stem[-1]}_test",)),
        ("y_test", ("y_test", "Y_test")),
    ):
        for tail in tails:
            beside = path.with_name(f"{stem[:-1]}{tail}.npy")
            if beside.is_file():
                paths.setdefault(key, beside)
    if targets and "y" not in paths:
        raise KernregError(
            f"{path.with_name(stem[:-1] + 'y.npy')} is missing; it must hold the targets of {path.name}"
        )
    # A memory map fails where a claimed shape is larger than the file; an array would be allocated first.
    arrays = {key: np.array(np.load(part, mmap_mode="r", allow_pickle=False)) for key, part in paths.items()}
    return arrays, list(paths.values())


def _read_hdf5(path: Path) -> tuple[Arrays, list[Path]]:
    import h5py

    arrays = {}
    with h5py.File(path, "r") as file:
        for name in file:
            key = _canonical(name) if isinstance(name, str) else None  # bytes where it is not UTF-8
            if key not in ("X", "y", "X_test", "y_test"):
                continue
            if key in arrays:
                raise KernregError(f"{path} has {key} twice; keep one")
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name} is a link to somewhere else")
            dataset = file[name]
            if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
                raise ValueError(f"{name} is not an array")
            if dataset.is_virtual or dataset.external:
                raise ValueError(f"{name} keeps its numbers in other files")
            if dataset.dtype.kind not in "uifb":
                raise ValueError(f"{name} has dtype {dataset.dtype}, not real numbers")
            _require_stored(dataset, name)
            arrays[key] = np.asarray(dataset[()])
    return arrays, [path]


def _require_stored(dataset: Any, name: str) -> None:
    claimed, stored = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if (
        stored * (DEFLATE_LIMIT if dataset.chunks and dataset.id.get_create_plist().get_nfilters() else 1)
        < claimed
    ):
        raise ValueError(f"{name} claims {claimed} bytes and stores {stored}")
    if dataset.chunks:
        chunks = math.prod(
            -(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        )
        if dataset.id.get_num_chunks() != chunks:
            raise ValueError(f"{name} was never written to its end")
