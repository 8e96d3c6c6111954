"""The finite network of an `Architecture`: the one whose limit of infinite width the kernels are.

With n the fan-in of a unit (channels times the pixels of its window, at the border too) a layer with weights computes

    "ntk":       y = √(σw²/n)·x·W + σb·b,   W, b ~ N(0, 1)                    (Jacot et al. 2018)
    "standard":  y = x·W + b,   W ~ N(0, σw²/n), b ~ N(0, σb²)               (Sohl-Dickstein et al. 2020)

The two draw the same functions and learn at different rates: a step η of gradient descent in the NTK parameterization is a
step η·σw²/n of W and η·σb² of b in the standard one. A bias variance of 0 means that there is no bias, in both.
Definitions of the layers: docs/kernels.md; where windows read: `kernreg.kernels.geometry`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.finite.modules import (
    ActivationLayer,
    AvgPoolLayer,
    ConvLayer,
    DenseLayer,
    FlattenLayer,
    GlobalAvgPoolLayer,
    LocalConvLayer,
    ResidualLayer,
    Shape,
    Weights,
    grid_of,
)
from kernreg.kernels.reference import is_spatial
from kernreg.layers import (
    Activation,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Layer,
    LocalConv,
    Residual,
)
from kernreg.training import PARAMETERIZATIONS


def network(
    architecture: Architecture,
    input_shape: Sequence[int],
    width: int,
    outputs: int = 1,
    parameterization: str = "ntk",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Network:
    """The network with `width` channels in every hidden layer.

    Args:
        architecture: any sequence of layers that ends in one number a channel.
        input_shape: (H, W, C) of an image, or (d,) of a vector.
        width: channels of every hidden layer, units of a dense one.
        outputs: of the last layer with weights.
        parameterization: "ntk" or "standard".
        seed: of the weights; the same network in every dtype.
        dtype: of the parameters.

    Raises:
        KernregError: layers that do not fit the input or each other, or that no kernel is the limit of: a nonlinearity on
            what is not a sum over independent weights, a residual sum of two such things.
    """
    made = Network(architecture, input_shape, width, outputs, parameterization, dtype)
    made.reset(seed)
    return made


class Network(nn.Module):
    """(n, H, W, C) → (n, outputs); see `network`."""

    def __init__(
        self,
        architecture: Architecture,
        input_shape: Sequence[int],
        width: int,
        outputs: int,
        parameterization: str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        if parameterization not in PARAMETERIZATIONS:
            raise KernregError(
                f"unknown parameterization {parameterization!r}; use {' or '.join(PARAMETERIZATIONS)}"
            )
        if min(width, outputs) < 1:
            raise KernregError(f"width and outputs must be at least 1, not {width} and {outputs}")
        self.architecture, self.parameterization = architecture, parameterization
        self.input_shape, self.width, self.outputs = tuple(input_shape), width, outputs
        self.spatial = is_spatial(architecture)
        shape = _image_shape(self.input_shape) if self.spatial else (1, 1, math.prod(self.input_shape))
        last = _last_weights(architecture.layers)
        made, state = [], State(shape, False)
        for i, layer in enumerate(architecture.layers):
            module, state = _module(layer, state, outputs if i == last else width, parameterization, dtype)
            made.append(module)
        if state.shape != (1, 1, outputs):
            raise KernregError(
                f"{architecture.name or 'the network'} ends in {state.shape[0]}×{state.shape[1]} pixels of "
                f"{state.shape[2]} channels for {outputs} outputs: end it with flatten or gap, and a dense layer"
            )
        self.layers = nn.ModuleList(made)

    def forward(self, x: Tensor) -> Tensor:
        """f(x), (n, outputs), of (n, H, W, C) or, where the network sees no pixels, of (n, d)."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise KernregError(
                f"the network takes rows of shape {self.input_shape}, not {tuple(x.shape[1:])}"
            )
        x = x if self.spatial and x.dim() == 4 else x.reshape(len(x), 1, 1, -1)
        for layer in self.layers:
            x = layer(x)
        return x.reshape(len(x), self.outputs)

    @torch.no_grad()
    def reset(self, generator: int | torch.Generator) -> None:
        """Draw the weights anew, layer by layer in float64 on the CPU, from a seed or a generator."""
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        for module in self.modules():
            if isinstance(module, Weights):
                module.reset(generator)


@dataclass(frozen=True)
class State:
    """What comes out of a layer.

    Attributes:
        shape: of one row.
        gaussian: whether the channels are, at infinite width, independent Gaussian processes of mean zero: what the kernel
            of an activation assumes.
    """

    shape: Shape
    gaussian: bool


def _module(
    layer: Layer, state: State, width: int, parameterization: str, dtype: torch.dtype
) -> tuple[nn.Module, State]:
    """The module of a layer, and what comes out of it."""
    H, W, C = state.shape
    given = (state.shape, width, parameterization, dtype)
    match layer:
        case Dense():
            return DenseLayer(layer, *given), State((H, W, width), True)
        case LocalConv():
            return LocalConvLayer(layer, *given), State(
                (*grid_of(state.shape, layer.filter, layer), width), True
            )
        case Conv():
            return ConvLayer(layer, *given), State((*grid_of(state.shape, layer.filter, layer), width), True)
        case Activation():
            if not state.gaussian and layer.fn != "identity":
                raise KernregError(
                    f"{layer.fn} acts on what is no sum over weights, and the kernel of such a network is not its limit: "
                    "put a dense or conv layer before it"
                )
            return ActivationLayer(layer), State(state.shape, state.gaussian and layer.fn == "identity")
        case AvgPool():
            grid = grid_of(state.shape, layer.window, layer)
            return AvgPoolLayer(layer, state.shape), State((*grid, C), state.gaussian)
        case GlobalAvgPool():
            return GlobalAvgPoolLayer(), State((1, 1, C), state.gaussian)
        case Flatten():
            # of one pixel it is nothing; of several the channels are no longer alike
            return FlattenLayer(), State((1, 1, H * W * C), state.gaussian and H * W == 1)
        case Residual(branch, shortcut):
            return _residual(branch, shortcut, state, width, parameterization, dtype)


def _residual(
    branch: Sequence[Layer], shortcut: Sequence[Layer], state: State, *given: Any
) -> tuple[nn.Module, State]:
    paths, ends = [], []
    for layers in (branch, shortcut):
        end, modules = state, []
        for layer in layers:
            module, end = _module(layer, end, *given)
            modules.append(module)
        paths.append(modules)
        ends.append(end)
    if ends[0].shape != ends[1].shape:
        raise KernregError(
            f"a residual sum of {ends[0].shape} and {ends[1].shape}: give the shortcut a layer with weights and the strides "
            "of the branch"
        )
    if not (ends[0].gaussian or ends[1].gaussian):
        raise KernregError("a residual sum of two activations is not independent: end one path with weights")
    return ResidualLayer(*paths), State(ends[0].shape, ends[0].gaussian and ends[1].gaussian)


def _last_weights(layers: Sequence[Layer]) -> int:
    """The place of the last layer with weights; its channels are the outputs."""
    for i in reversed(range(len(layers))):
        if isinstance(layers[i], Residual):
            break
        if isinstance(layers[i], Dense | Conv):
            return i
    raise KernregError("the last layer with weights must be a dense or conv layer outside of residual sums")


def _image_shape(shape: tuple[int, ...]) -> Shape:
    if len(shape) == 3:
        return (shape[0], shape[1], shape[2])
    raise KernregError(f"a network of windows takes images (H, W, C), not rows of shape {shape}")
