"""sphere and sphere-product: polynomial targets whose sample complexity is known.

    sphere           x uniform on the sphere of radius √d in d dimensions: vectors (d,)
    sphere-product   a grid of pixels, the p channels of each uniform on the sphere of radius √p: images (H, W, p)

One target for each degree ℓ asked for: a sum over all places of the grid of monomials of ℓ different coordinates (of
ℓ different pixels) within a window, `range` coordinates long or `range`×`range` pixels large, circularly. Such
monomials are harmonic, so a target is of degree ℓ and nothing else, and different ones are orthogonal; E[y²] = 1
exactly. With cyclic = true the coefficients are the same at all places, so that the target does not change under
circular shifts; else they are independent normal numbers.

With rotation-invariant kernels degree ℓ takes d^ℓ samples; locality and shifts save what
`kernreg.complexity.sample_complexity` says (Mei, Misiakiewicz and Montanari 2021; Misiakiewicz and Mei 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data.dataset import Dataset, Floats
from kernreg.data.polynomials import Pattern, Target
from kernreg.data.source import check_sizes, is_whole, require_room
from kernreg.data.subsample import TEST, TRAIN
from kernreg.errors import KernregError, shown

COEFFICIENTS = 2  # the stream of the targets, beside those of the train and the test rows
MOST_PATTERNS = 16  # monomials of a target, up to their place
MOST_CHOICES = 200_000
ROWS_AT_ONCE = 256


def sphere(
    n: int = 512,
    test: int = 512,
    dimension: int = 30,
    degrees: Sequence[int] = (1, 2, 3),
    range: int = 0,
    cyclic: bool = False,
    seed: int = 0,
    dtype: str = "float64",
) -> Dataset:
    """n train and `test` test rows (d,) on one sphere, one target for each of `degrees`.

    Args:
        dimension: d ≥ 2.
        degrees: of the targets, each at most `range`.
        range: window of a monomial, at most d/2; 0: as long as the degree, so neighbours alone are multiplied.
        cyclic: coefficients the same at all places.
        seed: of rows and targets; other sizes give the same rows in the same order.

    Raises:
        KernregError: a setting out of range.
    """
    check_sizes("sphere", n, test, seed, dtype, dimension=(dimension, 2))
    targets = local_targets("sphere", (1, dimension), 1, dimension, degrees, range, cyclic, seed)
    settings = {"dimension": dimension, "degrees": list(degrees), "range": range, "cyclic": cyclic}
    return of_spheres("sphere", (dimension,), dimension, targets, n, test, seed, dtype, settings)


def sphere_product(
    n: int = 512,
    test: int = 512,
    height: int = 8,
    width: int = 8,
    p: int = 4,
    degrees: Sequence[int] = (1, 2, 3),
    range: int = 0,
    cyclic: bool = False,
    seed: int = 0,
    dtype: str = "float64",
) -> Dataset:
    """n train and `test` test images (height, width, p), a sphere a pixel, one target for each of `degrees`.

    Args:
        height, width: of the grid; p: dimensions of each sphere, p ≥ 2.
        degrees: of the targets, each at most the pixels of a window.
        range: side of the window, at most half the grid's; 0: the smallest square that holds the degree.
        cyclic: coefficients the same at all places.
        seed: of rows and targets; other sizes give the same rows in the same order.

    Raises:
        KernregError: a setting out of range.
    """
    name = "sphere-product"
    check_sizes(name, n, test, seed, dtype, height=(height, 1), width=(width, 1), p=(p, 2))
    targets = local_targets(name, (height, width), p, p, degrees, range, cyclic, seed)
    settings: dict[str, Any] = {"height": height, "width": width, "p": p}
    settings |= {"degrees": list(degrees), "range": range, "cyclic": cyclic}
    return of_spheres(name, (height, width, p), p, targets, n, test, seed, dtype, settings)


def local_targets(
    name: str,
    grid: tuple[int, int],
    channels: int,
    p: int,
    degrees: Sequence[int],
    reach: int,
    cyclic: bool,
    seed: int,
) -> list[Target]:
    """A target of each degree on a grid (H, W) of pixels with `channels` coordinates each, p coordinates a sphere."""
    if (
        not isinstance(degrees, list | tuple)
        or not degrees
        or not all(is_whole(degree, 1) for degree in degrees)
    ):
        raise KernregError(
            f"{name}: degrees is {shown(degrees)}; it must be a list of integers of at least 1"
        )
    if not is_whole(reach, 0) or not isinstance(cyclic, bool):
        raise KernregError(
            f"{name}: range is {shown(reach)} and cyclic {shown(cyclic)}; give an integer and true or false"
        )
    # a monomial takes some 50 numbers while the targets are normalised
    require_room(name, 50 * MOST_PATTERNS * len(degrees) * grid[0] * grid[1] * channels)
    source = stream(seed, COEFFICIENTS)
    targets = []
    for degree in degrees:
        side = reach or (degree if grid[0] == 1 else int(np.ceil(np.sqrt(degree))))
        window = (min(side, grid[0]), side)
        if any(w > 1 and 2 * w > g for w, g in zip(window, grid, strict=True)):
            raise KernregError(
                f"{name}: a window of {window[0]}×{window[1]} does not fit twice into a grid of {grid[0]}×{grid[1]}; "
                "use a smaller range or degree, or a larger grid"
            )
        patterns = _patterns(name, degree, window, channels, source)
        targets.append(_target(f"degree {degree}", patterns, grid, channels, cyclic, source).normalised(p))
    return targets


def of_spheres(
    name: str,
    shape: tuple[int, ...],
    p: int,
    targets: Sequence[Target],
    n: int,
    test: int,
    seed: int,
    dtype: str,
    settings: dict[str, Any],
) -> Dataset:
    """A data set of rows of `shape` in patches of p consecutive coordinates, each on a sphere, one output a target."""
    require_room(name, (n + test + ROWS_AT_ONCE) * int(np.prod(shape)))
    x_train, x_test = (
        _rows(rows, shape, p, stream(seed, s), dtype) for rows, s in ((n, TRAIN), (test, TEST))
    )
    # Functions of the stored x, whatever its dtype.
    y_train, y_test = (
        np.stack([target.values(x.reshape(len(x), int(np.prod(shape)))) for target in targets], axis=1)
        for x in (x_train, x_test)
    )
    provenance = {
        "name": name,
        "n": int(n),
        "test": int(test),
        "seed": int(seed),
        "dtype": dtype,
        "shape": list(shape),
        "targets": "real",
        "target_names": [target.name for target in targets],
        **settings,
    }
    return Dataset(
        name=name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        labels_train=None,
        labels_test=None,
        rows_train=np.arange(n, dtype=np.int64),
        rows_test=np.arange(test, dtype=np.int64),
        provenance=provenance,
    )


def stream(seed: int, number: int) -> np.random.PCG64:
    """One of the independent random streams of a seed."""
    return np.random.PCG64(np.random.SeedSequence([int(seed), number]))


def normal(source: np.random.PCG64, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Normal numbers, the quantile function of raw 64-bit ones, whose stream NumPy keeps for ever."""
    from scipy.special import ndtri

    raw = source.random_raw(int(np.prod(shape))).reshape(shape)
    return np.asarray(ndtri(((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53))


def _rows(n: int, shape: tuple[int, ...], p: int, source: np.random.PCG64, dtype: str) -> Floats:
    """(n, …): a row takes the next numbers of the stream, so that more rows leave the first alone."""
    x: Floats = np.empty((n, *shape), dtype=dtype)
    for start in range(0, n, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, n - start)
        patches = normal(source, (count, int(np.prod(shape)) // p, p))
        patches *= np.sqrt(p / np.square(patches).sum(axis=2, keepdims=True))
        x[start : start + count] = patches.reshape(count, *shape)
    return x


def _patterns(
    name: str, degree: int, window: tuple[int, int], channels: int, source: np.random.PCG64
) -> list[tuple[tuple[int, int, int], ...]]:
    """Sets of `degree` pixels (row, column, channel) that touch the window's upper and left side: no two are the same up
    to their place."""
    pixels = [(r, c) for r in range(window[0]) for c in range(window[1])]
    if comb(len(pixels), degree) > MOST_CHOICES:
        raise KernregError(
            f"{name}: a window of {window[0]}×{window[1]} has {comb(len(pixels), degree)} monomials of degree {degree}; "
            "use a smaller range or degree"
        )
    sets = [
        chosen
        for chosen in combinations(pixels, degree)
        if min(r for r, _ in chosen) == 0 and min(c for _, c in chosen) == 0
    ]
    if not sets:
        raise KernregError(
            f"{name}: a window of {window[0]}×{window[1]} holds no {degree} different pixels; use a larger range"
        )
    order = np.argsort(source.random_raw(len(sets)), kind="stable")[:MOST_PATTERNS]
    which = (
        (source.random_raw(len(order) * degree) % np.uint64(channels)).astype(np.int64).reshape(-1, degree)
    )
    return [
        tuple((r, c, int(channel)) for (r, c), channel in zip(sets[i], row, strict=True))
        for i, row in zip(order.tolist(), which, strict=True)
    ]


def _target(
    name: str,
    patterns: Sequence[tuple[tuple[int, int, int], ...]],
    grid: tuple[int, int],
    channels: int,
    cyclic: bool,
    source: np.random.PCG64,
) -> Target:
    index = np.arange(grid[0] * grid[1] * channels).reshape(*grid, channels)
    K = grid[0] * grid[1]
    parts = []
    for pixels in patterns:
        places = np.stack([np.roll(index[:, :, c], (-y, -x), axis=(0, 1)).reshape(-1) for y, x, c in pixels])
        coefficients = normal(source, (1,)).repeat(K) if cyclic else normal(source, (K,))
        parts.append(Pattern(places, (1,) * len(pixels), coefficients))
    return Target(name, tuple(parts))
