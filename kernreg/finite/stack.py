"""E networks of one shape as one function: batched products of matrices, (E, n·pixels, fan-in)·(E, fan-in, width).

What `torch.func.vmap` makes of a single network (`functional_call` over `stack_module_state`) computes the same, at about half
the speed on a CPU: it copies windows more often, and the gradient of `Tensor.unfold` is a slow kernel there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kernreg.finite.modules import ConvLayer, DenseLayer, LocalConvLayer, ResidualLayer, Weights
from kernreg.finite.networks import Network
from kernreg.finite.windows import Pad, padded, windows

NO_PAD = Pad((0, 0), (0, 0), False)


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
    h = x.reshape(E * n, *x.shape[2:]) if network.spatial else x.reshape(E * n, 1, 1, -1)
    for i, layer in enumerate(network.layers):
        h = _layer(layer, f"layers.{i}.", weights, h, E)
    return h.reshape(E, n, network.outputs)


def _layer(layer: nn.Module, name: str, weights: Mapping[str, Tensor], x: Tensor, E: int) -> Tensor:
    match layer:
        case DenseLayer():
            return _product(layer, name, weights, x, E)
        case LocalConvLayer():
            return _local(layer, name, weights, x, E)
        case ConvLayer():
            return _product(layer, name, weights, _windows(layer, x), E)
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


def _product(layer: Weights, name: str, weights: Mapping[str, Tensor], x: Tensor, E: int) -> Tensor:
    """(E·n, H, W, fan-in) → (E·n, H, W, width)."""
    W = weights[f"{name}weight"]
    width = W.shape[-1]
    b = weights.get(f"{name}bias")
    y = _affine(
        layer, None if b is None else b[:, None], x.reshape(E, -1, x.shape[-1]), W.reshape(E, -1, width)
    )
    return y.reshape(*x.shape[:-1], width)


def _local(layer: LocalConvLayer, name: str, weights: Mapping[str, Tensor], x: Tensor, E: int) -> Tensor:
    """One product for each network and place."""
    W, b = weights[f"{name}weight"], weights.get(f"{name}bias")
    places, fan_in, width = W.shape[1:]
    patches = _windows(layer, x).reshape(E, -1, places, fan_in).transpose(1, 2)
    bias = None if b is None else b.reshape(E * places, 1, width)
    y = _affine(layer, bias, patches.reshape(E * places, -1, fan_in), W.reshape(E * places, fan_in, width))
    return y.reshape(E, places, -1, width).transpose(1, 2).reshape(len(x), *layer.grid, width)


def _affine(layer: Weights, bias: Tensor | None, x: Tensor, W: Tensor) -> Tensor:
    """`Weights.affine` of batched matrices; biases ride in the product, and the factor acts on the smallest array."""
    s, σ = (layer.weight_factor, layer.bias_factor) if layer.ntk else (1.0, 1.0)
    if bias is None:
        y = torch.bmm(x, W)
    elif s:
        y = torch.baddbmm(bias if s == σ else bias * (σ / s), x, W)
    else:
        return torch.bmm(x, W) * s + bias * σ
    return y if s == 1.0 else y.mul_(s)


def _windows(layer: ConvLayer | LocalConvLayer, x: Tensor) -> Tensor:
    pad = layer.pad
    if layer.filter == (1, 1):
        return padded(x, pad)[:, :: layer.strides[0], :: layer.strides[1]]
    if pad.circular:
        x, pad = padded(x, pad), NO_PAD
    seen: Tensor = Windows.apply(x, layer.filter, layer.strides, pad)
    return seen


class Windows(torch.autograd.Function):
    """`windows` of a zero-padded image, with a gradient that adds slices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[int, int], strides: tuple[int, int], pad: Pad) -> Tensor:
        """(n, H, W, C) → (n, H', W', kh·kw·C)."""
        ctx.shape, ctx.window, ctx.strides, ctx.pad = x.shape, window, strides, pad
        return windows(padded(x, pad), window, strides)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Every place gives its gradient back to the pixels that it read."""
        (g,) = gradients
        n, H, W, C = ctx.shape
        (kh, kw), (sh, sw), pad = ctx.window, ctx.strides, ctx.pad
        h, w = g.shape[1:3]
        g = g.reshape(n, h, w, kh, kw, C)
        out = g.new_zeros((n, H + sum(pad.rows), W + sum(pad.columns), C))
        for i in range(kh):
            for j in range(kw):
                out[:, i : i + sh * (h - 1) + 1 : sh, j : j + sw * (w - 1) + 1 : sw] += g[:, :, :, i, j]
        inside = out[:, pad.rows[0] : pad.rows[0] + H, pad.columns[0] : pad.columns[0] + W]
        return inside, None, None, None
