"""The matrix of symmetries: kernels × transforms, the measured change of the kernel beside what the layers imply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import DEPTH, FILTER, Architecture, Window
from kernreg.errors import KernregError
from kernreg.gram import gram
from kernreg.invariance import invariant
from kernreg.layers import Flatten, GlobalAvgPool
from kernreg.provenance import KERNELS
from kernreg.symmetry import TRANSFORMS, Transform, transform

INVARIANT = 1e-10  # the largest relative change, in float64, that counts as none
FLOOR = 1e-2  # an entry below this share of √(K(x,x)·K(z,z)) is compared with that share of it
FUNCTIONAL = "shift of x alone"
ROWS = 3  # images of standard normal numbers


@dataclass(frozen=True)
class Cell:
    """One kernel of one architecture under one transform.

    Attributes:
        architecture, transform, kernel: their names.
        change: largest relative change of an entry of the kernel, float64.
        expected: whether the layers imply that there is none.
    """

    architecture: str
    transform: str
    kernel: str
    change: float
    expected: bool

    @property
    def invariant(self) -> bool:
        """Whether the change is within rounding."""
        return self.change < INVARIANT

    @property
    def agrees(self) -> bool:
        """Whether measurement and theory say the same."""
        return self.invariant == self.expected

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        names = {"architecture": self.architecture, "transform": self.transform, "kernel": self.kernel}
        judged = {"change": self.change, "invariant": self.invariant, "expected": self.expected}
        return {**names, **judged, "agrees": self.agrees}

    def __str__(self) -> str:
        said = "invariant" if self.expected else "broken"
        return f"{self.architecture} {self.kernel} under {self.transform}: changes by {self.change:.1e}, expected {said}"


def ladder(
    depth: int = DEPTH, filter: Window = FILTER, patch: Window | None = FILTER, **settings: Any
) -> dict[str, Architecture]:
    """The architectures that differ in their symmetries, by name; settings are those of `Architecture.vec`.

    vec-patch and gap-patch begin with a convolution whose filter and stride are the patch; without one they are left out.
    """
    rungs = {"fcn": Architecture.preset("fcn", depth=depth, **settings)}
    for name in ("lcn", "vec", "gap", "lcn-gap"):
        rungs[name] = Architecture.preset(name, depth=depth, filter=filter, **settings)
    for name in ("vec", "gap"):
        circular = Architecture.preset(name, depth=depth, filter=filter, padding="CIRCULAR", **settings)
        rungs[f"{name}-circular"] = circular
    pools: tuple[tuple[str, Flatten | GlobalAvgPool], ...] = (("vec", Flatten()), ("gap", GlobalAvgPool()))
    for name, pool in pools:
        if patch is not None:
            rungs[f"{name}-patch"] = _patches(f"{name}-patch", pool, depth, filter, patch, settings)
    return rungs


def default_patch(shape: tuple[int, int, int]) -> Window | None:
    """3, or else the smallest size above 1 of square patches that tile images of this shape; None where none does."""
    sides = [k for k in range(2, min(shape[:2]) + 1) if shape[0] % k == 0 == shape[1] % k]
    return 3 if 3 in sides else min(sides, default=None)


def symmetry_matrix(
    architectures: Mapping[str, Architecture],
    shape: tuple[int, int, int] = (6, 6, 3),
    patch: Window | None = None,
    kernels: Sequence[str] = KERNELS,
    seed: int = 0,
    backend: str = "auto",
) -> Iterator[Cell]:
    """The cells one after another, by architecture; every transform that rows of this shape have, and `FUNCTIONAL`.

    Measured in float64 on images of standard normal numbers: the largest |K(τx, τz) − K(x, z)| relative to
    |K(x, z)|, or to 1 % of √(K(x,x)·K(z,z)) where that is more, over `ROWS` images and their pairs.

    Args:
        architectures: by the names that the cells give.
        shape: (H, W, C).
        patch: of patch-rotation; None leaves it out.
        kernels: "nngp", "ntk" or both.
        seed: of the images and of the transforms.
        backend: that computes the kernels.

    Raises:
        KernregError: images that a network does not fit, or a patch that does not tile them.
        NotImplementedError: names a layer that the backend does not cover.
    """
    if len(shape) != 3 or min(shape) < 1 or shape[0] * shape[1] == 1:
        raise KernregError(
            f"images of shape (H, W, C) and more than one pixel are needed, not {tuple(shape)}"
        )
    x = np.random.default_rng(seed).standard_normal((ROWS, *shape))
    moves = _moves(shape, patch, seed)
    for name, architecture in architectures.items():
        before = _both(x, x, architecture, backend)
        for move, τ in moves.items():
            moved, functional = τ.apply(x), move == FUNCTIONAL
            after = _both(moved, x if functional else moved, architecture, backend)
            for kernel in kernels:
                expected = invariant(architecture, τ, kernel, functional)
                yield Cell(name, move, kernel, _change(before[kernel], after[kernel]), expected)


def _moves(shape: tuple[int, int, int], patch: Window | None, seed: int) -> dict[str, Transform]:
    names = [
        name
        for name in TRANSFORMS
        if (name != "patch-rotation" or patch is not None) and (name != "transpose" or shape[0] == shape[1])
    ]
    moves = {n: transform(n, seed, shape, patch if n == "patch-rotation" else None) for n in names}
    return {**moves, FUNCTIONAL: moves["shift"]}


def _both(
    x: NDArray[np.float64], z: NDArray[np.float64], architecture: Architecture, backend: str
) -> dict[str, NDArray[np.float64]]:
    return gram(x, None if z is x else z, architecture, "both", backend, "float64")._asdict()


def _change(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    size = np.sqrt(np.outer(before.diagonal(), before.diagonal()))
    return float(np.max(np.abs(after - before) / np.maximum(np.abs(before), FLOOR * size)))


def _patches(
    name: str,
    pool: Flatten | GlobalAvgPool,
    depth: int,
    filter: Window,
    patch: Window,
    settings: dict[str, Any],
) -> Architecture:
    """[conv patch/patch VALID → act] → [conv → act] × (depth − 1) → pool → dense."""
    if depth < 1:
        return Architecture((pool, *Architecture.fcn(0, **settings).layers), name)
    vec = Architecture.vec(depth, filter, **settings)
    first = Architecture.vec(1, patch, stride=patch, padding="VALID", **settings)
    return Architecture((*first.layers[:2], *vec.layers[2 : 2 * depth], pool, vec.layers[-1]), name)
