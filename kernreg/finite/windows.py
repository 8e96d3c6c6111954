"""Windows of images with channels last, (n, H, W, C): padding, patches, means; differentiable, and usable under `vmap`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kernreg.kernels.geometry import output_size, padding_low
from kernreg.layers import AvgPool, Conv


class Pad(NamedTuple):
    """Pixels before and after the rows, before and after the columns; zeros, or the other side's."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    circular: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], window: tuple[int, int], layer: Conv | AvgPool) -> Pad:
        """What a layer pads an image (H, W, …) with."""
        widths = []
        for size, k, s in zip(shape[:2], window, layer.strides, strict=True):
            low = padding_low(size, k, s, layer.padding)
            reach = (output_size(size, k, s, layer.padding) - 1) * s + k
            widths.append((low, max(reach - size - low, 0)))
        return cls(widths[0], widths[1], layer.padding == "CIRCULAR")


def padded(x: Tensor, pad: Pad) -> Tensor:
    """(n, H, W, C) with its padding."""
    if not any(pad.rows + pad.columns):
        return x
    if not pad.circular:
        return nn.functional.pad(x, (0, 0, *pad.columns, *pad.rows))
    return _wrapped(_wrapped(x, 1, *pad.rows), 2, *pad.columns)


def _wrapped(x: Tensor, axis: int, low: int, high: int) -> Tensor:
    """`low` pixels before and `high` after, going round as often as it takes."""
    size = x.shape[axis]
    whole = low // size + 1 + high // size
    head, tail = x.narrow(axis, size - low % size, low % size), x.narrow(axis, 0, high % size)
    return torch.cat([head, *[x] * whole, tail], dim=axis)


def windows(x: Tensor, window: tuple[int, int], strides: tuple[int, int]) -> Tensor:
    """(n, H', W', kh·kw·C): what each place reads, of a padded (n, H, W, C)."""
    seen = x.unfold(1, window[0], strides[0]).unfold(2, window[1], strides[1])  # (n, H', W', C, kh, kw)
    return seen.permute(0, 1, 2, 4, 5, 3).flatten(3)


def avg_pool(x: Tensor, window: tuple[int, int], strides: tuple[int, int]) -> Tensor:
    """(n, H', W', C): means over windows of a padded (n, H, W, C)."""
    return nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), window, strides).permute(0, 2, 3, 1)


def product(x: Tensor, W: Tensor) -> Tensor:
    """(…, C) times (C, width) as one product of matrices."""
    return (x.flatten(0, -2) @ W).unflatten(0, x.shape[:-1])
