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
from kernreg.finite.windows import Pad, avg_pool, padded, product, windows
from kernreg.kernels.geometry import output_size
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

PARAMETERIZATIONS = ("ntk", "standard")

Shape = tuple[int, int, int]  # rows, columns, channels


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
            module, state = _module(
                layer, state, outputs if i == last else width, parameterization, dtype
            )
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


class Weights(nn.Module):
    """A layer with weights and, where their variance is not 0, biases.

    Attributes:
        weight, bias: parameters.  weight_factor, bias_factor: √(σw²/n) and σb.
    """

    def __init__(
        self,
        layer: Dense | Conv,
        shape: tuple[int, ...],
        bias_shape: tuple[int, ...],
        fan_in: int,
        parameterization: str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.weight_factor = math.sqrt(layer.weight_variance / fan_in)
        self.bias_factor = math.sqrt(layer.bias_variance)
        self.ntk = parameterization == "ntk"
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(bias_shape, dtype=dtype)) if self.bias_factor else None

    def reset(self, generator: torch.Generator) -> None:
        """Draw weights, then biases."""
        for parameter, factor in ((self.weight, self.weight_factor), (self.bias, self.bias_factor)):
            if parameter is not None:
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(drawn if self.ntk else drawn * factor)

    def affine(self, y: Tensor) -> Tensor:
        """√(σw²/n)·y + σb·b of y = x·W."""
        if not self.ntk:
            return y if self.bias is None else y + self.bias
        y = y * self.weight_factor
        return y if self.bias is None else y + self.bias * self.bias_factor


class DenseLayer(Weights):
    """x·W over the channels of every pixel; W is (C, width)."""

    def __init__(self, layer: Dense, shape: Shape, width: int, parameterization: str, dtype: Any) -> None:
        super().__init__(layer, (shape[2], width), (width,), shape[2], parameterization, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(product(x, self.weight))


class ConvLayer(Weights):
    """Σ_δ x[s·p + δ]·W[δ]; W is (kh, kw, C, width).

    Attributes:
        unfold: multiply matrices of windows instead of calling `conv2d`: what `vmap` over weights is fast with.
    """

    def __init__(self, layer: Conv, shape: Shape, width: int, parameterization: str, dtype: Any) -> None:
        weight = (*layer.filter, shape[2], width)
        super().__init__(layer, weight, (width,), math.prod(weight[:3]), parameterization, dtype)
        self.pad, self.filter, self.strides = Pad.of(shape, layer.filter, layer), layer.filter, layer.strides
        self.unfold = False

    def forward(self, x: Tensor) -> Tensor:
        x = padded(x, self.pad)
        if self.unfold:
            return self.affine(product(windows(x, self.filter, self.strides), self.weight.flatten(0, 2)))
        image, weight = x.permute(0, 3, 1, 2), self.weight.permute(3, 2, 0, 1)
        y = nn.functional.conv2d(image, weight, stride=self.strides)
        return self.affine(y.permute(0, 2, 3, 1))


class LocalConvLayer(Weights):
    """Σ_δ x[s·p + δ]·W[p, δ] with weights and biases of every place p's own; W is (H'·W', kh·kw·C, width)."""

    def __init__(self, layer: LocalConv, shape: Shape, width: int, parameterization: str, dtype: Any) -> None:
        grid, fan_in = _grid(shape, layer.filter, layer), math.prod(layer.filter) * shape[2]
        places = math.prod(grid)
        weight, bias = (places, fan_in, width), (*grid, width)
        super().__init__(layer, weight, bias, fan_in, parameterization, dtype)
        self.pad, self.filter, self.strides = Pad.of(shape, layer.filter, layer), layer.filter, layer.strides
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        patches = windows(padded(x, self.pad), self.filter, self.strides).flatten(1, 2)
        y = torch.matmul(patches.transpose(0, 1), self.weight).transpose(0, 1)
        return self.affine(y.unflatten(1, self.grid))


class ActivationLayer(nn.Module):
    """φ, pointwise."""

    def __init__(self, layer: Activation) -> None:
        super().__init__()
        self.fn, self.slope = layer.fn, layer.slope

    def forward(self, x: Tensor) -> Tensor:
        match self.fn:
            case "relu":
                return torch.relu(x)
            case "erf":
                return torch.erf(x)
            case "rbf":
                return math.sqrt(2) * torch.sin(math.sqrt(2) * x + math.pi / 4)
            case "identity":
                return x
            case "abs":
                return x.abs()
            case _:
                return nn.functional.leaky_relu(x, float(self.slope or 0.0))


class AvgPoolLayer(nn.Module):
    """Mean over a window; what it reads beyond the border counts as 0, or is left out with `normalize_edges`."""

    def __init__(self, layer: AvgPool, shape: Shape) -> None:
        super().__init__()
        self.layer, self.pad = layer, Pad.of(shape, layer.window, layer)
        self.normalize = layer.normalize_edges and layer.padding == "SAME"
        self.ones: Tensor
        self.register_buffer("ones", torch.ones((1, *shape[:2], 1)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = avg_pool(padded(x, self.pad), self.layer.window, self.layer.strides)
        if not self.normalize:
            return y
        covered = avg_pool(
            padded(self.ones.to(x.dtype), self.pad), self.layer.window, self.layer.strides
        )
        return y / covered


class GlobalAvgPoolLayer(nn.Module):
    """Mean over all pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2), keepdim=True)


class FlattenLayer(nn.Module):
    """One pixel with the channels of all."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), 1, 1, -1)


class ResidualLayer(nn.Module):
    """The sum of two paths; an empty one is the identity."""

    def __init__(self, branch: Sequence[nn.Module], shortcut: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branch, self.shortcut = nn.Sequential(*branch), nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total


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
            return LocalConvLayer(layer, *given), State((*_grid(state.shape, layer.filter, layer), width), True)
        case Conv():
            return ConvLayer(layer, *given), State((*_grid(state.shape, layer.filter, layer), width), True)
        case Activation():
            if not state.gaussian and layer.fn != "identity":
                raise KernregError(
                    f"{layer.fn} acts on what is no sum over weights, and the kernel of such a network is not its limit: "
                    "put a dense or conv layer before it"
                )
            return ActivationLayer(layer), State(state.shape, state.gaussian and layer.fn == "identity")
        case AvgPool():
            grid = _grid(state.shape, layer.window, layer)
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


def _grid(shape: Shape, window: tuple[int, int], layer: Conv | AvgPool) -> tuple[int, int]:
    """Rows and columns that a windowed layer puts out."""
    rows, columns = (
        output_size(size, k, s, layer.padding)
        for size, k, s in zip(shape[:2], window, layer.strides, strict=True)
    )
    return rows, columns


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
