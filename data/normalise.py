"""Scaling of the inputs. Nothing here depends on n, so that data sets stay nested.

"standard"   (x − mean)/std per channel of images, per feature of vectors; mean and std over the whole
             training pool, whatever n is (no labels enter). A constant channel becomes 0.
"per-image"  each row on its own: mean 0 and variance 1 over its pixels and channels; a constant row
             becomes 0.
"unit"       x/white: white is the value of a white pixel (255, for digits 16).
"none"       the numbers of the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data.dataset import Floats
from kernreg.errors import KernregError

NORMALISATIONS = ("standard", "per-image", "unit", "none")
VALUES_AT_ONCE = 2**18  # a block stays in the cache


@np.errstate(over="ignore", invalid="ignore")  # an overflow is found in the results, and refused
def statistics(x: NDArray[Any]) -> tuple[Floats, Floats]:
    """Mean and standard deviation over all axes but the last, float64 (C,); x (n,H,W,C) or (n,d).

    Pixels of 8 or 16 bits are summed as integers: exact, so the same on every machine.
    """
    count = x.size // x.shape[-1]
    # Whole rows are added up first, pixel by pixel: long additions, in an order no machine changes.
    pixels = (-1, x[0].size)
    if x.dtype.kind in "ui" and x.dtype.itemsize <= 2:
        sums = np.zeros((2, x[0].size), dtype=np.int64)
        for block in _blocks(x):
            wide = block.reshape(pixels).astype(np.int32 if x.dtype.itemsize == 1 else np.int64)
            sums += wide.sum(axis=0, dtype=np.int64), np.square(wide).sum(axis=0, dtype=np.int64)
        totals = sums.reshape(2, -1, x.shape[-1]).sum(axis=1).tolist()
        exact = [(s, count * q - s * s) for s, q in zip(*totals, strict=True)]
        return (
            np.array([s / count for s, _ in exact]),
            np.sqrt(np.array([v / (count * count) for _, v in exact])),
        )
    total = sum(block.reshape(pixels).sum(axis=0, dtype=np.float64) for block in _blocks(x))
    mean: Floats = np.asarray(total).reshape(-1, x.shape[-1]).sum(axis=0) / count
    centre = np.resize(mean, x[0].size)
    squares = sum(np.square(block.reshape(pixels) - centre).sum(axis=0) for block in _blocks(x))
    variance: Floats = np.asarray(squares).reshape(-1, x.shape[-1]).sum(axis=0) / count
    if not np.isfinite(variance).all():
        raise KernregError("the inputs are too large to be squared; divide X by a constant")
    return mean, np.sqrt(variance)


def scale(
    x: NDArray[Any],
    rows: NDArray[np.int64],
    normalise: str,
    dtype: str,
    mean: Floats | None = None,
    std: Floats | None = None,
    white: float | None = None,
) -> Floats:
    """Rows of x, scaled: (len(rows), …) C-contiguous of dtype "float32" or "float64".

    The arithmetic is float64, a block of rows at a time. "standard" needs mean and std (of `statistics`),
    "unit" needs white.
    """
    out: Floats = np.empty((len(rows), *x.shape[1:]), dtype=dtype)
    if normalise == "standard":
        if mean is None or std is None:
            raise KernregError("the standard normalisation needs the mean and std of the training pool")
        centre, spread = (np.resize(v, x[:1].size) for v in (mean, _or_infinite(std, mean)))
    at_once = max(1, VALUES_AT_ONCE // max(1, x[:1].size))
    for start in range(0, len(rows), at_once):
        block: Floats = x[rows[start : start + at_once]].astype(np.float64)
        if normalise == "standard":
            flat = block.reshape(len(block), -1)  # a view: inner loops over whole rows, not over channels
            flat -= centre
            flat /= spread
        elif normalise == "per-image":
            block = _per_image(block)
        elif normalise == "unit":
            if white is None:
                raise KernregError(
                    "normalise='unit' needs 8-bit pixels, whose white is known; use 'standard' or 'none'"
                )
            block /= white
        with np.errstate(over="ignore"):
            out[start : start + at_once] = block
        if not np.isfinite(out[start : start + at_once]).all():
            raise KernregError(
                f"inputs beyond the range of {dtype}: use normalise='standard', or divide X by a constant"
            )
    return out


@np.errstate(over="ignore", invalid="ignore")
def _per_image(block: Floats) -> Floats:
    axes = tuple(range(1, block.ndim))
    centred = block - block.mean(axis=axes, keepdims=True)
    std = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True))
    if not np.isfinite(std).all():
        raise KernregError("the inputs are too large to be squared; divide X by a constant")
    largest = np.abs(block).max(axis=axes, keepdims=True)
    constant = std <= _rounding(largest)
    scaled: Floats = np.where(constant, 0.0, centred / np.where(constant, 1.0, std))
    return scaled


def _or_infinite(std: Floats, mean: Floats) -> Floats:
    # A constant channel has a std of rounding size only; what is left of it after centring is rounding too.
    divisor: Floats = np.where(std <= _rounding(np.abs(mean)), np.inf, std)
    return divisor


def _rounding(size: Floats) -> Floats:
    rounding: Floats = 16 * np.finfo(np.float64).eps * size
    return rounding


def _blocks(x: NDArray[Any]) -> list[NDArray[Any]]:
    at_once = max(1, VALUES_AT_ONCE // max(1, x[:1].size))
    return [x[start : start + at_once] for start in range(0, len(x), at_once)]
