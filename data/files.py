"""A user's own file: .npz or .h5 with X and y, or X.npy with y.npy beside it.

Names are X and y (or x, Y), optionally X_test and y_test. X is (n,d), (n,H,W) or (n,H,W,C); y holds labels
(integers, (n,) or (n,1)) or real targets (floats, (n,) or (n,c); integers (n,c) with c ≥ 2 count as real).

Nothing in a file runs code, and no claimed size is believed: a shape must agree with the bytes stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data.dataset import require_finite
from kernreg.data.hdf5reader import read_hdf5
from kernreg.data.source import Source
from kernreg.errors import KernregError, one_line, reason
from kernreg.npzfile import read_header, read_npz

SUFFIXES = (".npz", ".npy", ".h5", ".hdf5")
KEYS = ("X", "y", "X_test", "y_test")
SPELLINGS = [(key.replace(key[0], letter, 1), key) for key in KEYS for letter in (key[0], key[0].swapcase())]
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
        return read_npz(path, _canonical) if path.suffix == ".npz" else read_hdf5(path, SPELLINGS), [path]
    except (KernregError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes NumPy, zlib and HDF5 raise anything
        raise KernregError(f"cannot read {path}: {reason(error)}; save X and y into it again") from None


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


def _canonical(name: str) -> str | None:
    stem, _, tail = name.partition("_")
    key = {"x": "X", "y": "y"}.get(stem.lower(), stem) + ("_" + tail if tail else "")
    return key if key in KEYS else None


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
    return {key: _plain_array(part) for key, part in paths.items()}, list(paths.values())


def _plain_array(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:
        shape, dtype, header = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{path.name} holds Python objects")
        size = path.stat().st_size
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize + header != size:
            raise ValueError(f"{path.name} claims the shape {one_line(str(shape))} and has {size} bytes")
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
