"""Source: a data set as its files hold it, and how rows are taken from it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data.dataset import Dataset, Floats, Integers, one_hot
from kernreg.data.normalise import NORMALISATIONS, scale, statistics
from kernreg.data.subsample import TEST, require_seed, row_order, split_sizes
from kernreg.errors import KernregError, shown


@dataclass(frozen=True, eq=False)
class Source:
    """All rows of a data set, in the order and the numbers of its files.

    x        (N,H,W,C) or (N,d), the training pool, any real dtype
    y        labels (N,) int64 in 0..classes-1, or real targets (N,c) float64
    x_test   the official test set and its y, or None: then test rows come from the end of the pool's order
    classes  names of the classes, or None where y is real
    hashes   sha256 of every file's content (uncompressed), or of the arrays of an embedded set
    white    value of a white pixel, or None
    path     where it was read from, or None for an embedded set
    """

    x: NDArray[Any]
    y: NDArray[Any]
    x_test: NDArray[Any] | None
    y_test: NDArray[Any] | None
    classes: tuple[str, ...] | None
    hashes: dict[str, str]
    white: float | None = None
    path: str | None = None


def take(
    source: Source,
    name: str,
    n: int | None,
    test: int | None,
    seed: int,
    balanced: bool,
    normalise: str,
    dtype: str,
) -> Dataset:
    """The first n train and `test` test rows of the seeded order, scaled, as a Dataset."""
    require_choice("normalise", normalise, NORMALISATIONS)
    require_choice("dtype", dtype, ("float32", "float64"))
    official = None if source.x_test is None else len(source.x_test)
    n, test = split_sizes(name, n, test, len(source.x), official)
    stratified = balanced and source.classes is not None
    order = row_order(len(source.x), seed, labels=source.y if stratified else None)
    rows_train = order[:n]
    if source.x_test is None or source.y_test is None:
        x_test, y_test = source.x, source.y
        rows_test = np.ascontiguousarray(order[::-1][:test])
    else:
        x_test, y_test = source.x_test, source.y_test
        rows_test = row_order(len(x_test), seed, TEST, source.y_test if stratified else None)[:test]
    mean, std = statistics(source.x) if normalise == "standard" else (None, None)
    provenance: dict[str, Any] = {
        "name": name,
        "n": n,
        "test": test,
        "seed": int(seed),
        "balanced": balanced,
        "normalise": normalise,
        "dtype": dtype,
        "row_order": "stratified-1" if stratified else "shuffled-1",
        "pool": len(source.x),
        "official_test": official,
        "shape": list(source.x.shape[1:]),
        "targets": "real" if source.classes is None else f"one-hot minus 1/{len(source.classes)}",
        "classes": None if source.classes is None else len(source.classes),
        "class_names": None if source.classes is None else list(source.classes),
        "mean": None if mean is None else mean.tolist(),
        "std": None if std is None else std.tolist(),
        "hashes": dict(source.hashes),
        "path": source.path,
    }
    labels_train, targets_train = _targets(source, source.y, rows_train)
    labels_test, targets_test = _targets(source, y_test, rows_test)
    return Dataset(
        name=name,
        x_train=scale(source.x, rows_train, normalise, dtype, mean, std, source.white),
        y_train=targets_train,
        x_test=scale(x_test, rows_test, normalise, dtype, mean, std, source.white),
        y_test=targets_test,
        labels_train=labels_train,
        labels_test=labels_test,
        rows_train=rows_train,
        rows_test=rows_test,
        provenance=provenance,
    )


def require_choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise KernregError unless value is one of the choices."""
    if value not in choices:
        raise KernregError(f"{what} is {shown(value)}; use one of {', '.join(choices)}")


def require_number(what: str, value: object, low: float, high: float) -> None:
    """Raise KernregError unless value is a number with low ≤ value ≤ high."""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool) or not low <= value <= high:
        raise KernregError(f"{what} is {shown(value)}; it must lie in {low:g}..{high:g}")


def check_sizes(name: str, n: int, test: int, seed: int, dtype: str, **sizes: tuple[int, int]) -> None:
    """Raise KernregError unless all are integers of at least their least value, with seed and dtype in range."""
    require_seed(seed)
    require_choice("dtype", dtype, ("float32", "float64"))
    for key, (value, least) in {"n": (n, 1), "test": (test, 0), **sizes}.items():
        if not is_whole(value, least):
            raise KernregError(
                f"{name}: {key} is {shown(value)}; it must be an integer of at least {least}, below 2**31"
            )


def is_whole(value: object, least: int) -> bool:
    """Whether value is an integer of at least `least`, of 31 bits."""
    return (
        isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(least <= value < 2**31)
    )


def require_room(name: str, values: int) -> None:
    """Raise KernregError, with the amounts, if so many float64 numbers are more than the memory of this machine."""
    if 8 * values > machine_bytes():
        raise KernregError(
            f"{name}: these sizes take {8 * values / 2**30:.3g} GiB, and this machine has "
            f"{machine_bytes() / 2**30:.3g} GiB; use smaller ones"
        )


def machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def array_hash(*arrays: NDArray[Any]) -> str:
    """sha256 over dtype, shape and bytes of the arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _targets(source: Source, y: NDArray[Any], rows: Integers) -> tuple[Integers | None, Floats]:
    if source.classes is None:
        return None, np.ascontiguousarray(y[rows], dtype=np.float64)
    labels: Integers = y[rows].astype(np.int64)
    return labels, one_hot(labels, len(source.classes))
