"""An architecture as the numbers that a compiled stencil needs, or the name of the layer that it does not cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.kernels import pooling
from kernreg.kernels.geometry import output_size, padding_low
from kernreg.layers import Activation, AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Layer, LocalConv

RELU, ERF = 0, 1
# columns of the geometry table, one row a layer: the window along y and x; the sizes of the layer's input and output; where its
# variances begin; the displacement of its output in units of the last layer's; its activation
KY, KX, SY, SX, LOW_Y, LOW_X, WRAP, H_IN, W_IN, H_OUT, W_OUT, START, STEP_Y, STEP_X, PHI = range(15)
COLUMNS = 15

Geometry: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Program:
    """[conv → activation] × L → (average pool →) flatten or gap → dense …, for images of one size.

    Attributes:
        geometry: (L, 15) int64, the columns above; START in pixels.
        affine: (L, 2) float64: σw²/k², times the ½ that a preceding ReLU leaves to it, and σb².
        pooled: all displacements are read, else 0 alone (flatten).
        weights: of pixel pairs along y and x, where an average pool stands before the readout (kernels/pooling.py); else None.
        local: local convolutions before a global average pool, whose covariance is 0 between different pixels.
        half: the factor that the last activation leaves to the readout.
        homogeneous: K(a·x, b·z) = a·b·K(x, z) for a, b > 0: ReLU without hidden biases.
        readout: the dense layers at the end.
        pixels: Σ_l H_l·W_l, the length of an image's variances.
    """

    geometry: Geometry
    affine: NDArray[np.float64]
    pooled: bool
    weights: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    local: bool
    half: float
    homogeneous: bool
    readout: tuple[Dense, ...]
    pixels: int


def convolutional(architecture: Architecture, shape: tuple[int, ...]) -> Program:
    """The program of a convolutional network on images of shape (H, W, C).

    Raises:
        NotImplementedError: names the first layer that no stencil covers.
        KernregError: a VALID window larger than the image.
    """
    hidden, pool, end, readout = _split(architecture)
    convs = [layer for layer in hidden if isinstance(layer, Conv)]
    acts = [layer for layer in hidden if isinstance(layer, Activation)]
    L = len(convs)
    geometry, affine = np.zeros((L, COLUMNS), np.int64), np.zeros((L, 2))
    H, W, start, half = shape[0], shape[1], 0, 1.0
    for l, (conv, act) in enumerate(zip(convs, acts, strict=True)):
        (ky, kx), (sy, sx), pad = conv.filter, conv.strides, conv.padding
        low = padding_low(H, ky, sy, pad), padding_low(W, kx, sx, pad)
        out = output_size(H, ky, sy, pad), output_size(W, kx, sx, pad)
        wrap, phi = int(pad == "CIRCULAR"), ERF if act.fn == "erf" else RELU
        geometry[l] = [ky, kx, sy, sx, *low, wrap, H, W, *out, start, 1, 1, phi]
        affine[l] = half * conv.weight_variance / (ky * kx), conv.bias_variance
        half = 0.5 if phi == RELU else 1.0
        start += out[0] * out[1]
        H, W = out
    for l in reversed(range(L - 1)):
        geometry[l, [STEP_Y, STEP_X]] = geometry[l + 1, [STEP_Y, STEP_X]] * geometry[l + 1, [SY, SX]]
    local = [isinstance(c, LocalConv) for c in convs]
    pooled = pool is not None or isinstance(end, GlobalAvgPool)
    if pooled:
        _check_pooled(convs, local, geometry)
    if pool is not None and any(local):
        raise _uncovered(len(hidden), pool, "flatten or gap behind local convolutions")
    return Program(
        geometry=geometry,
        affine=affine,
        pooled=pooled,
        weights=None if pool is None else pooling.weights(pool, end, H, W),
        local=pooled and all(local),
        half=half,
        homogeneous=all(a.fn == "relu" for a in acts) and not any(c.bias_variance for c in convs),
        readout=readout,
        pixels=start,
    )


def _split(
    architecture: Architecture,
) -> tuple[tuple[Layer, ...], AvgPool | None, Layer, tuple[Dense, ...]]:
    layers = architecture.layers
    ends = [k for k, layer in enumerate(layers) if isinstance(layer, Flatten | GlobalAvgPool)]
    end = after = ends[0] if ends else len(layers)
    before = layers[end - 1] if end > 2 else None
    pool = before if isinstance(before, AvgPool) else None
    end -= pool is not None
    for k, layer in enumerate(layers[:end]):
        expected = Conv if k % 2 == 0 else Activation
        if not isinstance(layer, expected) or (
            isinstance(layer, Activation) and layer.fn not in ("relu", "erf")
        ):
            raise _uncovered(k, layer, "[conv → relu or erf] × depth")
    if not ends or end % 2:
        raise _uncovered(end - 1, layers[end - 1], "activation → flatten or gap")
    readout = layers[after + 1 :]
    for k, layer in enumerate(readout):
        if not isinstance(layer, Dense):
            raise _uncovered(after + 1 + k, layer, "dense layers at the end")
    return layers[:end], pool, layers[after], tuple(layer for layer in readout if isinstance(layer, Dense))


def _check_pooled(convs: list[Conv], local: list[bool], geometry: Geometry) -> None:
    """A global average pool needs all displacements to stay apart."""
    if any(local):
        if not all(local):
            k = 2 * local.index(not local[0])
            raise _uncovered(k, convs[k // 2], "all or no conv layers local before a gap layer")
        return
    wraps = [c.padding == "CIRCULAR" for c in convs]
    if any(wraps) and not all(wraps):
        k = 2 * wraps.index(not wraps[0])
        raise _uncovered(k, convs[k // 2], "all or no conv layers CIRCULAR before a gap layer")
    if all(wraps):
        for k, g in enumerate(geometry):
            if g[H_IN] != g[SY] * g[H_OUT] or g[W_IN] != g[SX] * g[W_OUT]:
                raise _uncovered(2 * k, convs[k], "CIRCULAR strides that divide the image before a gap layer")


def _uncovered(k: int, layer: Layer, expected: str) -> NotImplementedError:
    return NotImplementedError(
        f"the fused stencil covers {expected}, not layer {k + 1}, {layer}: name the backend 'reference' for this network"
    )
