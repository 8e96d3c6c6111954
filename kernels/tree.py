"""A network whose windows do not overlap as a tree, the form that the Triton kernels run; or the name of the layer that is none.

Leaves are the windows of the first layer. Layers are grouped into stages, each a mean over the children of a node, an affine
step and an activation, so that a node's kernel is a function of its children's alone (Xiao 2022, the recursion on a DAG):

    S_u = σw²·mean_v S_v + σb²,   T_u = S_u + σw²·mean_v T_v,   then the activation of docs/kernels.md

A fully connected network is the tree of one leaf. S-CNN, D-CNN and HR-CNN have strides equal to their filters. The first
layer may overlap and pad as it likes: its windows are gathered, not summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.kernels.geometry import output_size, padding_low
from kernreg.layers import Activation, Conv, Dense, Flatten, GlobalAvgPool, Layer, LocalConv

Indices: TypeAlias = NDArray[np.int64]

NONE, RELU, ERF, RBF = 0, 1, 2, 3
KINDS = {"identity": NONE, "relu": RELU, "erf": ERF, "rbf": RBF}


@dataclass(frozen=True)
class Stage:
    """Mean over `children` nodes, then S ← weight·S + bias, then the activation `kind`."""

    children: int
    weight: float
    bias: float
    kind: int = NONE


@dataclass(frozen=True, eq=False)
class Tree:
    """
    Attributes:
        order: (leaves, q): for each leaf, left to right, the places of its numbers in a row of the input, of length `size`;
            `size` itself stands for a zero of the padding.
        stages: from the leaves up.
        tops: nodes left at the end, 1 but for a global average pool over more.
        readout: dense layers after a global average pool.
        size: numbers in a row of the input.
    """

    order: Indices
    stages: tuple[Stage, ...]
    tops: int
    readout: tuple[Dense, ...]
    size: int

    def equals(self, other: Tree) -> bool:
        """Whether both stand for one network on rows of one shape."""
        alike = (self.stages, self.readout, self.size) == (other.stages, other.readout, other.size)
        return alike and np.array_equal(self.order, other.order)

    @property
    def leaves(self) -> int:
        return len(self.order)

    @property
    def levels(self) -> int:
        """The number of the last stage that takes a mean over more than one child; those after it are a chain."""
        return max((s for s, stage in enumerate(self.stages) if stage.children > 1), default=0)

    @property
    def nodes(self) -> tuple[int, ...]:
        """Of each stage."""
        counts = [self.leaves]
        for stage in self.stages[1:]:
            counts.append(counts[-1] // stage.children)
        return tuple(counts)

    @property
    def kinds(self) -> frozenset[int]:
        return frozenset(stage.kind for stage in self.stages) - {NONE}

    @property
    def signed(self) -> bool:
        """Whether S may be negative after the first activation."""
        return ERF in self.kinds or self.stages[0].kind == NONE

    @property
    def homogeneous(self) -> bool:
        """K(a·x, b·z) = a·b·K(x, z) for a, b > 0 up to the pool: ReLU without biases."""
        return self.kinds <= {RELU} and not any(stage.bias for stage in self.stages)


@dataclass(frozen=True)
class _Window:
    """The window of a layer on an image of `size` (H, W) pixels."""

    filter: tuple[int, int]
    strides: tuple[int, int]
    padding: str
    size: tuple[int, int]

    @property
    def out(self) -> tuple[int, int]:
        H, W = (
            output_size(*axis, self.padding)
            for axis in zip(self.size, self.filter, self.strides, strict=True)
        )
        return H, W

    @property
    def low(self) -> tuple[int, int]:
        y, x = (
            padding_low(*axis, self.padding)
            for axis in zip(self.size, self.filter, self.strides, strict=True)
        )
        return y, x

    @property
    def apart(self) -> bool:
        """Whether no input pixel is read twice, and none outside the image."""
        axes = zip(self.size, self.filter, self.strides, self.out, self.low, strict=True)
        return all(low == 0 and k <= s and (out - 1) * s + k <= size for size, k, s, out, low in axes)

    def reads(self, places: Indices) -> Indices:
        """The input pixels (…, ky·kx, 2) of output pixels (…, 2)."""
        window = np.stack(np.meshgrid(*map(np.arange, self.filter), indexing="ij"), axis=-1).reshape(-1, 2)
        read: Indices = places[..., None, :] * np.array(self.strides) + window - np.array(self.low)
        return read


@lru_cache(maxsize=64)
def tree(architecture: Architecture, shape: tuple[int, ...]) -> Tree:
    """The tree of a network on rows of this shape, (H, W, C) or (d,).

    Raises:
        NotImplementedError: names the first layer that does not fit.
        KernregError: a VALID window larger than the image.
    """
    layers = architecture.layers
    spatial = len(shape) == 3 and not all(isinstance(layer, Dense | Activation) for layer in layers)
    size = (shape[0], shape[1]) if spatial else (1, 1)
    channels = shape[2] if spatial else prod(shape)
    if isinstance(layers[0], Flatten):
        size, channels = (1, 1), prod(shape)
    stages: list[Stage] = []
    windows: list[_Window] = []
    readout: list[Dense] = []
    pooled, flattened, pending = False, False, 1
    for k, layer in enumerate(layers):
        match layer:
            case Flatten() | GlobalAvgPool() if k > 0 and not flattened and size != (1, 1):
                pooled = isinstance(layer, GlobalAvgPool)
                flattened, pending = True, 1 if pooled else size[0] * size[1]
                local = [j for j, other in enumerate(layers) if isinstance(other, LocalConv)]
                if pooled and local:
                    raise _uncovered(local[0], layers, "no local conv layer before a gap layer")
            case Flatten():
                pass
            case GlobalAvgPool() if k > 0:
                pass
            case Dense() if pooled:
                readout.append(layer)
            case Dense() if flattened:
                stages.append(Stage(pending, layer.weight_variance, layer.bias_variance))
                pending = 1
            case Dense() | Conv() if not flattened:
                window = _window(layer, size)
                if windows and not window.apart:
                    raise _uncovered(k, layers, "windows that do not overlap or pad after the first layer")
                area = prod(window.filter) if windows else 1
                stages.append(Stage(area, layer.weight_variance, layer.bias_variance))
                windows.append(window)
                size = window.out
            case Activation() if (
                layer.fn in KINDS and k > 0 and isinstance(layers[k - 1], Dense | Conv) and not pooled
            ):
                last = stages[-1]
                stages[-1] = Stage(last.children, last.weight, last.bias, KINDS[layer.fn])
            case _:
                raise _uncovered(
                    k, layers, "[dense or conv → relu, erf or rbf] × depth → flatten or gap → dense"
                )
    if not stages or pending > 1 or (size != (1, 1) and not flattened):
        raise _uncovered(len(layers) - 1, layers, "a dense layer after a flatten layer at the end")
    tops = size[0] * size[1] if pooled else 1
    return Tree(_order(windows, size, channels), tuple(stages), tops, tuple(readout), prod(shape))


def _window(layer: Dense | Conv, size: tuple[int, int]) -> _Window:
    if isinstance(layer, Conv):
        return _Window(layer.filter, layer.strides, layer.padding, size)
    return _Window((1, 1), (1, 1), "VALID", size)


def _order(windows: list[_Window], top: tuple[int, int], channels: int) -> Indices:
    """From the nodes at the top down to the numbers of each leaf."""
    places = np.stack(np.meshgrid(*map(np.arange, top), indexing="ij"), axis=-1).reshape(-1, 2)
    for window in reversed(windows[1:]):
        places = window.reads(places).reshape(-1, 2)
    places = windows[0].reads(places)
    H, W = windows[0].size
    if windows[0].padding == "CIRCULAR":
        places = places % np.array((H, W))
    y, x = places[..., 0], places[..., 1]
    outside = (y < 0) | (y >= H) | (x < 0) | (x >= W)
    numbers = (y * W + x)[..., None] * channels + np.arange(channels)
    numbers[outside] = H * W * channels
    return np.ascontiguousarray(numbers.reshape(len(places), -1))


def _uncovered(k: int, layers: tuple[Layer, ...], expected: str) -> NotImplementedError:
    return NotImplementedError(
        f"backend triton covers {expected}, not layer {k + 1}, {layers[k]}: "
        "name another backend, 'reference' covers every network"
    )
