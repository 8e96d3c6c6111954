"""Symmetries: changes of coordinates of all the data, each drawn once from a seed.

A kernel is invariant under a transform τ if K(τx, τz) = K(x, z); which are is what `kernreg.invariance` says. Data
that are transformed alike in train and test cost an invariant kernel nothing, and the others the prior knowledge
that τ destroys (Xiao & Pennington, ICML 2022).

    rotation           O(H·W·C): all numbers of an image, or of a vector
    pixel-rotations    O(C)^(H·W): the channels of every pixel, each by a rotation of its own
    channel-rotation   O(C): the channels of every pixel, all by the same rotation
    patch-rotation     O(h·w·C): non-overlapping patches of h×w pixels, all by the same rotation
    permutation        of the pixels, channels staying together
    shift              circular, by a drawn number of rows and columns, not both 0
    mirror             left ↔ right
    transpose          rows ↔ columns

Rotations are uniform on the group, reflections included. The same name, seed, shape and patch give the same bits
on every machine (`kernreg.haar`), and a row's image does not depend on the other rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError
from kernreg.haar import MANTISSA, haar, multiply, slices

Array: TypeAlias = NDArray[Any]
Window: TypeAlias = int | tuple[int, int]

# The place in this list is part of the random stream: new names go to the end.
TRANSFORMS = (
    "rotation",
    "pixel-rotations",
    "channel-rotation",
    "patch-rotation",
    "permutation",
    "shift",
    "mirror",
    "transpose",
)
NAMES = ("none", *TRANSFORMS)
UNDRAWN = ("none", "mirror", "transpose")  # one element, whatever the seed
OF_IMAGES = ("pixel-rotations", "channel-rotation", "transpose")
STREAM = 16  # the streams of the data sets are below
VALUES_AT_ONCE = 2**21  # float64 numbers of one block of rows
SINGLE = 36  # bits of a product that is to be rounded to the 24 of float32


@dataclass(frozen=True, eq=False)
class Transform:
    """An orthogonal change of coordinates of rows of one shape, from `transform`.

    Attributes:
        name: one of NAMES; seed: of the draw, None where nothing is drawn.
        shape: (H, W, C) or (d,) of a row.
        block: (h, w), the pixels that are rotated together.
        matrices: (k, D, D) orthogonal, D = h·w·C; k = 1 for all blocks alike, else the number of blocks. None for
            a permutation of pixels.
        order: (H·W,) int64, pixel p of the result is pixel order[p] of the row; None for rotations.
    """

    name: str
    seed: int | None
    shape: tuple[int, ...]
    block: tuple[int, int]
    matrices: NDArray[np.float64] | None
    order: NDArray[np.int64] | None

    @property
    def grid(self) -> tuple[int, int, int]:
        """(H, W, C); a vector (d,) is a row of d pixels."""
        return _grid(self.shape)

    @property
    def patch(self) -> tuple[int, int] | None:
        """The patch of a patch-rotation, else None."""
        return self.block if self.name == "patch-rotation" else None

    @cached_property
    def hash(self) -> str:
        """sha256 of the element itself, 32 hexadecimal digits: two equal ones are the same transform to the bit."""
        digest = hashlib.sha256(f"{self.shape}{self.block}".encode())
        for array, dtype in ((self.matrices, "<f8"), (self.order, "<i8")):
            if array is not None:
                digest.update(np.ascontiguousarray(array, dtype).data)
        return digest.hexdigest()[:32]

    @cached_property
    def inverse(self) -> Transform:
        """The transform that undoes this one."""
        matrices, order = self.matrices, self.order
        return replace(
            self,
            matrices=None if matrices is None else np.ascontiguousarray(np.swapaxes(matrices, 1, 2)),
            order=None if order is None else np.argsort(order),
        )

    def apply(self, x: Array) -> Array:
        """The rows x (n, …) of any floating dtype, transformed: same shape and dtype, C-contiguous.

        Rotations are computed in float64, a block of rows at a time; for float32 to 36 bits of the largest numbers.

        Raises:
            KernregError: rows of another shape, or not floating-point.
        """
        if x.shape[1:] != self.shape or x.dtype.kind != "f":
            raise KernregError(
                f"the {self.name} is made for floating-point rows of shape {self.shape}, "
                f"not for {x.dtype} rows of shape {tuple(x.shape[1:])}"
            )
        H, W, C = self.grid
        if self.order is not None:
            return np.ascontiguousarray(x.reshape(len(x), H * W, C)[:, self.order]).reshape(x.shape)
        if self.matrices is None:
            return np.ascontiguousarray(x)
        out = np.empty(x.shape, x.dtype)
        at_once = max(1, VALUES_AT_ONCE // (H * W * C))
        for start in range(0, len(x), at_once):
            rows = slice(start, start + at_once)
            out[rows] = self._rotated(x[rows].astype(np.float64), SINGLE if x.itemsize <= 4 else MANTISSA)
        return out

    def to_dict(self) -> dict[str, Any]:
        """What a provenance keeps of it, JSON-able: name, seed, patch and hash."""
        patch = None if self.patch is None else list(self.patch)
        return {"name": self.name, "seed": self.seed, "patch": patch, "hash": self.hash}

    def _rotated(self, x: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
        assert self.matrices is not None
        (H, W, C), (h, w), n = self.grid, self.block, len(x)
        tiles = x.reshape(n, H // h, h, W // w, w, C).transpose(1, 3, 0, 2, 4, 5)
        rows = tiles.reshape(len(self.matrices), -1, h * w * C)
        turned = multiply(slices(rows, -1, digits), self._slices, digits).reshape(tiles.shape)
        return turned.transpose(2, 0, 3, 1, 4, 5).reshape(n, *self.shape)

    @cached_property
    def _slices(self) -> list[NDArray[np.float64]]:
        assert self.matrices is not None
        return slices(np.swapaxes(self.matrices, 1, 2), -2)


def transform(name: str, seed: int, shape: tuple[int, ...], patch: Window | None = None) -> Transform:
    """The element of the group `name` that a seed draws, for rows of a shape.

    Args:
        name: one of NAMES; "none" leaves rows as they are.
        seed: 0 … 2**64 − 1; mirror and transpose have one element whatever it is.
        shape: (H, W, C) or (d,) of a row.
        patch: k or (h, w), of patch-rotation alone; of vectors (1, w).

    Raises:
        KernregError: unknown name, a seed or patch out of range, or a shape that has no such symmetry.
    """
    shape = tuple(int(s) for s in shape)
    if name not in NAMES:
        raise KernregError(f"unknown transform {name!r}; known: {', '.join(NAMES)}")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise KernregError(f"the seed of a transform is an integer from 0 to 2**64 - 1, not {seed!r}")
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise KernregError(f"a row must be a vector (d,) or an image (H, W, C), not of shape {shape}")
    if len(shape) == 1 and name in OF_IMAGES:
        raise KernregError(
            f"{name} needs images (H, W, C), and these rows are vectors of {shape[0]} numbers; vectors have "
            "rotation, permutation, shift, mirror and patch-rotation"
        )
    H, W, C = _grid(shape)
    block = _block(name, (H, W), patch)
    matrices, order = None, None
    if name != "none":
        source = np.random.PCG64(np.random.SeedSequence([int(seed), STREAM + TRANSFORMS.index(name)]))
        if "rotation" in name:
            count = H * W if name == "pixel-rotations" else 1
            matrices = haar(count, block[0] * block[1] * C, source)
        else:
            order = _order(name, (H, W), source)
    return Transform(name, None if name in UNDRAWN else int(seed), shape, block, matrices, order)


def _grid(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (1, shape[0], 1)


def _block(name: str, size: tuple[int, int], patch: Window | None) -> tuple[int, int]:
    if name != "patch-rotation":
        if patch is not None:
            raise KernregError(f"a patch belongs to patch-rotation, not to {name}")
        return size if name == "rotation" else (1, 1)
    if patch is None:
        raise KernregError("patch-rotation needs the size of a patch: patch=4, on the command line --patch 4")
    h, w = (patch, patch) if isinstance(patch, int | np.integer) else (int(patch[0]), int(patch[1]))
    if min(h, w) < 1 or size[0] % h or size[1] % w:
        raise KernregError(
            f"patches of {h}×{w} pixels do not tile a grid of {size[0]}×{size[1]}: use sizes that divide it"
        )
    return int(h), int(w)


def _order(name: str, size: tuple[int, int], source: np.random.PCG64) -> NDArray[np.int64]:
    H, W = size
    pixels = np.arange(H * W, dtype=np.int64).reshape(H, W)
    match name:
        case "permutation":
            pixels = np.argsort(source.random_raw(H * W), kind="stable").astype(np.int64)
        case "mirror":
            pixels = pixels[:, ::-1]
        case "transpose":
            if H != W:
                raise KernregError(f"transpose needs square images, and these have {H}×{W} pixels")
            pixels = pixels.T
        case _:
            if H * W == 1:
                raise KernregError("shift needs more than one pixel")
            step = 1 + int(source.random_raw()) % (H * W - 1)
            pixels = np.roll(pixels, (step // W, step % W), axis=(0, 1))
    return np.ascontiguousarray(pixels).reshape(-1)
