"""The layers of a finite network as PyTorch modules, channels last: (n, H, W, C) → (n, H', W', C')."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kernreg.finite.windows import Pad, avg_pool, padded, product, windows
from kernreg.kernels.geometry import output_size
from kernreg.layers import Activation, AvgPool, Conv, Dense, LocalConv

Shape = tuple[int, int, int]  # rows, columns, channels


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
    """Σ_δ x[s·p + δ]·W[δ]; W is (kh, kw, C, width)."""

    def __init__(self, layer: Conv, shape: Shape, width: int, parameterization: str, dtype: Any) -> None:
        weight = (*layer.filter, shape[2], width)
        super().__init__(layer, weight, (width,), math.prod(weight[:3]), parameterization, dtype)
        self.pad, self.filter, self.strides = Pad.of(shape, layer.filter, layer), layer.filter, layer.strides

    def forward(self, x: Tensor) -> Tensor:
        x = padded(x, self.pad)
        if self.filter == (1, 1):
            # PyTorch 2.14 on the CPU writes beyond its memory in a 1×1 convolution of stride 2 with channels last
            return self.affine(product(x[:, :: self.strides[0], :: self.strides[1]], self.weight[0, 0]))
        image, weight = x.permute(0, 3, 1, 2), self.weight.permute(3, 2, 0, 1)
        y = nn.functional.conv2d(image, weight, stride=self.strides)
        return self.affine(y.permute(0, 2, 3, 1))


class LocalConvLayer(Weights):
    """Σ_δ x[s·p + δ]·W[p, δ] with weights and biases of every place p's own; W is (H'·W', kh·kw·C, width)."""

    def __init__(self, layer: LocalConv, shape: Shape, width: int, parameterization: str, dtype: Any) -> None:
        grid, fan_in = grid_of(shape, layer.filter, layer), math.prod(layer.filter) * shape[2]
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
        covered = avg_pool(padded(self.ones.to(x.dtype), self.pad), self.layer.window, self.layer.strides)
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


def grid_of(shape: Shape, window: tuple[int, int], layer: Conv | AvgPool) -> tuple[int, int]:
    """Rows and columns that a windowed layer puts out."""
    rows, columns = (
        output_size(size, k, s, layer.padding)
        for size, k, s in zip(shape[:2], window, layer.strides, strict=True)
    )
    return rows, columns
