"""E networks of one shape as one function: grouped convolutions and batched products, channels of all networks side by side.

Arrays are (n, H, W, E·C). What `torch.func.vmap` makes of a single network (`functional_call` over
`stack_module_state`) computes the same, at less than half of the speed on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kernreg.finite.modules import ConvLayer, DenseLayer, FlattenLayer, LocalConvLayer, ResidualLayer, Weights
from kernreg.finite.networks import Network
from kernreg.finite.windows import padded


def stacked(network: Network, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """f_e(x[e]).

    Args:
        network: whose layers these are; its own weights take no part.
        weights: (E, …) by the names of the network's parameters.
        x: (E, n, …) rows.

    Returns:
        (E, n, outputs).
    """
    E, n = x.shape[:2]
    rows = x.movedim(0, -2) if network.spatial and x.dim() == 5 else x.reshape(E, n, 1, 1, -1).movedim(0, -2)
    h = rows.flatten(3)
    for i, layer in enumerate(network.layers):
        h = _layer(layer, f"layers.{i}.", weights, h, E)
    return h.reshape(n, E, network.outputs).transpose(0, 1)


def _layer(layer: nn.Module, name: str, weights: Mapping[str, Tensor], x: Tensor, E: int) -> Tensor:
    match layer:
        case LocalConvLayer():
            return _local(layer, name, weights, x, E)
        case ConvLayer() if layer.filter != (1, 1):
            return _conv(layer, name, weights, x, E)
        case ConvLayer():
            return _product(layer, name, weights, x[:, :: layer.strides[0], :: layer.strides[1]], E)
        case DenseLayer():
            return _product(layer, name, weights, x, E)
        case FlattenLayer():
            return x.unflatten(3, (E, -1)).permute(0, 3, 1, 2, 4).reshape(len(x), 1, 1, -1)
        case ResidualLayer():
            paths = []
            for path, modules in (("branch", layer.branch), ("shortcut", layer.shortcut)):
                h = x
                for i, module in enumerate(modules):
                    h = _layer(module, f"{name}{path}.{i}.", weights, h, E)
                paths.append(h)
            return paths[0] + paths[1]
        case _:
            return layer(x)


def _conv(layer: ConvLayer, name: str, weights: Mapping[str, Tensor], x: Tensor, E: int) -> Tensor:
    """One group of channels a network."""
    W = weights[f"{name}weight"].permute(0, 4, 3, 1, 2).flatten(0, 1)
    image = padded(x, layer.pad).permute(0, 3, 1, 2)
    y = nn.functional.conv2d(image, W, stride=layer.strides, groups=E).permute(0, 2, 3, 1)
    return _affine(layer, y, weights.get(f"{name}bias"))


def _product(layer: Weights, name: str, weights: Mapping[str, Tensor], x: Tensor, E: int) -> Tensor:
    """One product of matrices a network, over the channels of every pixel."""
    W = weights[f"{name}weight"].flatten(1, -2)
    y = torch.bmm(x.reshape(-1, E, W.shape[1]).transpose(0, 1), W).transpose(0, 1)
    return _affine(layer, y.reshape(*x.shape[:3], -1), weights.get(f"{name}bias"))


def _local(layer: LocalConvLayer, name: str, weights: Mapping[str, Tensor], x: Tensor, E: int) -> Tensor:
    """One product of matrices for each network and place."""
    W, b = weights[f"{name}weight"].flatten(0, 1), weights.get(f"{name}bias")
    x = padded(x, layer.pad).unflatten(3, (E, -1))
    patches = LocalWindows.apply(x, layer.filter, layer.strides)
    y = torch.bmm(patches.reshape(len(W), len(x), -1), W).reshape(E, *layer.grid, len(x), -1)
    return _affine(
        layer, y.permute(3, 1, 2, 0, 4).flatten(3), None if b is None else b.movedim(0, 2).flatten(2)
    )


def _affine(layer: Weights, y: Tensor, bias: Tensor | None) -> Tensor:
    """`Weights.affine` with the biases of all networks side by side."""
    b = None if bias is None else bias.flatten() if bias.dim() == 2 else bias
    if not layer.ntk:
        return y if b is None else y + b
    # both factors act on the smallest arrays there are
    return (
        y * layer.weight_factor
        if b is None
        else torch.add(b * layer.bias_factor, y, alpha=layer.weight_factor)
    )


class LocalWindows(torch.autograd.Function):
    """What each place of each network reads, with a gradient that adds slices: that of `Tensor.unfold` is slow on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[int, int], strides: tuple[int, int]) -> Tensor:
        """Padded (n, H, W, E, C) → (E, H', W', n, kh, kw, C)."""
        ctx.shape, ctx.window, ctx.strides = x.shape, window, strides
        seen = x.unfold(1, window[0], strides[0]).unfold(2, window[1], strides[1])
        return seen.permute(3, 1, 2, 0, 5, 6, 4).contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Every place gives its gradient back to the pixels that it read."""
        (g,) = gradients
        (kh, kw), (sh, sw), (h, w) = ctx.window, ctx.strides, g.shape[1:3]
        out = g.new_zeros(ctx.shape)
        for i in range(kh):
            for j in range(kw):
                part = g[:, :, :, :, i, j].permute(3, 1, 2, 0, 4)
                out[:, i : i + sh * (h - 1) + 1 : sh, j : j + sw * (w - 1) + 1 : sw] += part
        return out, None, None
