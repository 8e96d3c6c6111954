"""NNGP and NTK on the CPU: the presets, float32 or float64, all cores.

Convolutional networks run through the fused stencil of `stencil.py`, one displacement at a time; fully connected ones are
a BLAS product with a fused epilogue (`dense.py`). Tested only against `reference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.kernels import dense, stencil
from kernreg.kernels.geometry import check_range
from kernreg.kernels.program import H_OUT, PHI, RELU, START, W_OUT, Program, convolutional
from kernreg.kernels.threads import in_parallel
from kernreg.layers import Activation, Dense, Flatten, GlobalAvgPool

Array: TypeAlias = NDArray[np.floating[Any]]

ROW_BYTES = 1536  # of a row of a plane, at least; measured: docs/performance.md


def covers(architecture: Architecture, shape: tuple[int, ...]) -> None:
    """Raise NotImplementedError, naming the layer, unless this backend computes the network on rows of this shape."""
    if _dense_layers(architecture) is None:
        convolutional(architecture, shape)


def compute(
    x: Array, z: Array | None, architecture: Architecture, kernel: str = "ntk", dtype: str = "float64"
) -> dict[str, Array]:
    """K(x, z) between all rows; arguments and result as in `reference.compute`.

    Raises:
        NotImplementedError: a layer outside the presets, by name.
        KernregError: inputs whose squares leave the range of the dtype.
    """
    real = np.dtype(dtype)
    layers = _dense_layers(architecture)
    if layers is not None:
        pool = isinstance(architecture.layers[0], GlobalAvgPool)
        x, z = _vectors(x, pool), None if z is None else _vectors(z, pool)
        return dense.compute(x, z, layers, kernel, real)
    program = convolutional(architecture, x.shape[1:])
    X = _prepare(x, program, real)
    Z = X if z is None else _prepare(z, program, real)
    S, T = _sums(X, Z, program, kernel != "nngp", symmetric=z is None)
    out = _readout(S, T, X, Z, program, kernel, real)
    if z is None:
        for K in out.values():
            dense.mirror(K)
    return out


def _dense_layers(architecture: Architecture) -> tuple[Dense | Activation, ...] | None:
    """The layers of a fully connected network, or None; a flatten or gap layer in front only makes the vector."""
    layers = architecture.layers
    if isinstance(layers[0], Flatten | GlobalAvgPool):
        layers = layers[1:]
    fitting = tuple(
        layer
        for layer in layers
        if isinstance(layer, Dense) or (isinstance(layer, Activation) and layer.fn in ("relu", "erf"))
    )
    return fitting if len(fitting) == len(layers) else None


def _vectors(x: Array, pool: bool) -> Array:
    if pool and x.ndim == 4:
        return np.asarray(x, np.float64).mean(axis=(1, 2))
    return x.reshape(len(x), -1)


@dataclass(frozen=True)
class _Images:
    """Images in the stencil's layout.

    pixels: (blocks, C, H·W·lanes); Q: (blocks, Σ_l H_l·W_l·lanes), the variances before each activation; scale: (n,) float64,
    the factor taken out of each image.
    """

    n: int
    lanes: int
    pixels: Array
    Q: Array
    scale: NDArray[np.float64]

    def single(self) -> tuple[Array, Array]:
        """Pixels (n, C, H·W) and Q (n, Σ_l H_l·W_l) of each image, without lanes."""
        blocks, C, _ = self.pixels.shape
        pixels = self.pixels.reshape(blocks, C, -1, self.lanes).transpose(0, 3, 1, 2)
        Q = self.Q.reshape(blocks, -1, self.lanes).transpose(0, 2, 1)
        return (
            np.ascontiguousarray(pixels.reshape(blocks * self.lanes, C, -1)[: self.n]),
            np.ascontiguousarray(Q.reshape(blocks * self.lanes, -1)[: self.n]),
        )


def _lanes(W: int, real: np.dtype[Any]) -> int:
    """Images a block: one cache line of numbers, more for narrow images, whose loops would be too short to fill the core."""
    line = 64 // real.itemsize
    lanes = line
    while W * lanes < ROW_BYTES // real.itemsize and lanes < 8 * line:
        lanes *= 2
    return lanes


def _prepare(x: Array, program: Program, real: np.dtype[Any]) -> _Images:
    n, H, W, C = x.shape
    lanes = _lanes(W, real)
    scale = _scale(x, program, real)
    blocks = -(-n // lanes)
    padded = np.zeros((blocks * lanes, H * W, C), real)
    padded[:n] = (x.astype(np.float64) / scale[:, None, None, None]).reshape(n, H * W, C)
    pixels = np.ascontiguousarray(padded.reshape(blocks, lanes, H * W, C).transpose(0, 3, 2, 1)).reshape(
        blocks, C, -1
    )
    Q = np.empty((blocks, program.pixels * lanes), real)
    in_parallel(stencil.all_variances, blocks, (pixels, Q, *_tables(program, real, C), lanes))
    return _Images(n, lanes, pixels, Q, scale)


def _scale(x: Array, program: Program, real: np.dtype[Any]) -> NDArray[np.float64]:
    """The root mean square of each image where the kernel is homogeneous, else 1.

    Taking it out makes every scale of the input harmless, and proportional images the same.
    """
    if program.homogeneous:
        top = np.abs(x).max(axis=(1, 2, 3)).astype(np.float64)
        top[top == 0] = 1.0
        mean = np.mean((x / top[:, None, None, None]) ** 2, axis=(1, 2, 3), dtype=np.float64)
        return np.where(mean > 0, top * np.sqrt(mean), 1.0)
    check_range(x, real, low=not program.affine[:, 1].all())
    return np.ones(len(x))


def _tables(program: Program, real: np.dtype[Any], channels: int) -> tuple[Any, ...]:
    return program.geometry, program.affine.astype(real), real.type(1 / channels)


def _sums(
    X: _Images, Z: _Images, program: Program, tangent: bool, symmetric: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Σ of the last S and T over pixels, and over displacements if pooled: (n, m) each; T is empty unless asked for.

    Symmetric: only blocks that reach the upper triangle are computed, the others stay 0.
    """
    lanes, blocks = Z.lanes, len(Z.pixels)
    S = np.zeros((X.n, blocks * lanes))
    T = np.zeros(S.shape if tangent else (0, 0))
    # a block of z stays in the caches while the images of x pass
    b, i = (a.ravel() for a in np.meshgrid(np.arange(blocks), np.arange(X.n), indexing="ij"))
    if symmetric:
        keep = (b + 1) * lanes > i
        i, b = i[keep], b[keep]
    jobs = np.stack([i, b], axis=1)
    pixels, Q = X.single()
    tables = _tables(program, Z.pixels.dtype, Z.pixels.shape[1])
    pooled = program.pooled and not program.local
    weights = program.weights or (np.empty((0, 0)), np.empty((0, 0)))
    in_parallel(
        stencil.pairs,
        len(jobs),
        (jobs, pixels, Z.pixels, Q, Z.Q, *tables, tangent, pooled, *weights, lanes, S, T),
    )
    return S[:, : Z.n], T[:, : Z.n]


def _readout(
    S: NDArray[np.float64],
    T: NDArray[np.float64],
    X: _Images,
    Z: _Images,
    program: Program,
    kernel: str,
    real: np.dtype[Any],
) -> dict[str, Array]:
    """From sums over pixels to the kernel, in place: mean, scale, dense layers."""
    last = program.geometry[-1]
    P = int(last[H_OUT] * last[W_OUT])
    kinds = (S, T) if T.size else (S,)
    count = 1 if program.weights else P * P if program.pooled else P
    for K in kinds:
        K *= program.half / count
    if program.local and last[PHI] == RELU:
        # between different pixels S is 0 before the ReLU and √(Qx[p]·Qz[p'])/2π after it (docs/kernels.md)
        u, v = (np.sqrt(_last_variances(I, program)) for I in (X, Z))
        S += (np.outer(u.sum(axis=1), v.sum(axis=1)) - u @ v.T) / (2 * np.pi * P * P)
    for K in kinds:
        K *= X.scale[:, None]
        K *= Z.scale
    for layer in program.readout:
        S *= layer.weight_variance
        S += layer.bias_variance
        if T.size:
            T *= layer.weight_variance
            T += S
    return {name: K.astype(real) for name, K in (("nngp", S), ("ntk", T)) if kernel in (name, "both")}


def _last_variances(images: _Images, program: Program) -> NDArray[np.float64]:
    """(n, P) float64."""
    start = int(program.geometry[-1, START])
    Q = images.Q.reshape(len(images.Q), -1, images.lanes)[:, start:].astype(np.float64)
    return np.asarray(Q.transpose(0, 2, 1).reshape(-1, Q.shape[1])[: images.n])
