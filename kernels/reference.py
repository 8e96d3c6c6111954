"""The definition: NNGP and NTK of any layer sequence, float64, literal, slow.

S[p,p'] is the covariance of the pre-activations of x at pixel p and of z at pixel p', T[p,p'] the tangent kernel, both
kept in full over all pairs of pixels. Every other backend is tested only against this file.

Sources: Lee et al. (2018) and Jacot et al. (2018) for dense layers, Novak et al. (2019), Garriga-Alonso et al. (2019) and
Arora et al. (2019) for convolutions; conventions of `parameterization='ntk'` (docs/kernels.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.kernels.activations import dual
from kernreg.kernels.geometry import output_size, padding_low
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

Array: TypeAlias = NDArray[np.float64]

BLOCK_BYTES = 64 << 20  # of one 4-D covariance of a block of pairs


@dataclass(frozen=True)
class Covariances:
    """Of a block of images x (n) and z (m), between all pixels: trailing axes (H, W, H, W).

    xx: S of each x with itself, (n, H, W, H, W); zz: likewise, (m, …); xz: S of the pairs, (n, m, …); T: tangent, (n, m, …).
    """

    xx: Array
    zz: Array
    xz: Array
    T: Array


def compute(
    x: NDArray[np.floating],
    z: NDArray[np.floating] | None,
    architecture: Architecture,
    kernel: str = "ntk",
    dtype: str = "float64",
) -> dict[str, NDArray[np.floating]]:
    """K(x, z) between all rows.

    Args:
        x: images (n, H, W, C), or vectors (n, d).
        z: likewise with m rows; None means x, and the result is exactly symmetric.
        architecture: any layer sequence. One without a windowed or pooling layer sees an image as a vector.
        kernel: "nngp", "ntk" or "both".
        dtype: of the result; the arithmetic is float64 whatever it is.

    Returns:
        {"nngp": (n, m), "ntk": (n, m)}, or the one asked for.
    """
    X = _images(x, architecture)
    Z = X if z is None else _images(z, architecture)
    n, m = len(X), len(Z)
    out: dict[str, Array] = {name: np.empty((n, m)) for name in ("nngp", "ntk") if kernel in (name, "both")}
    for rows, cols in _blocks(n, m, X.shape[1] * X.shape[2]):
        if z is None and cols.stop <= rows.start:
            continue
        k = _propagate(_input(X[rows], Z[cols]), architecture.layers)
        for name, value in (("nngp", k.xz), ("ntk", k.T)):
            if name in out:
                out[name][rows, cols] = value[:, :, 0, 0, 0, 0]
    if z is None:
        lower = np.tril_indices(n, -1)
        for K in out.values():
            K[lower] = K.T[lower]
    return {name: K.astype(dtype, copy=False) for name, K in out.items()}


def covers(architecture: Architecture, shape: tuple[int, ...]) -> None:
    """Everything whose output is one number a pair; raises NotImplementedError otherwise."""
    if is_spatial(architecture) and not any(
        isinstance(a, Flatten | GlobalAvgPool) for a in architecture.layers
    ):
        raise NotImplementedError(
            "reference: a network of windows needs a flatten or gap layer before its output"
        )


def is_spatial(architecture: Architecture) -> bool:
    """Whether the network sees pixels; otherwise an image is one long vector."""
    return not all(isinstance(layer, Dense | Activation) for layer in architecture.layers)


def _images(x: NDArray[np.floating], architecture: Architecture) -> Array:
    rows = np.ascontiguousarray(x, dtype=np.float64)
    if rows.ndim == 4 and is_spatial(architecture):
        return rows
    return rows.reshape(len(rows), 1, 1, -1)


def _blocks(n: int, m: int, pixels: int) -> Iterator[tuple[slice, slice]]:
    side = max(1, int((BLOCK_BYTES / (8 * pixels**2)) ** 0.5))
    for i in range(0, n, side):
        for j in range(0, m, side):
            yield slice(i, min(i + side, n)), slice(j, min(j + side, m))


def _input(x: Array, z: Array) -> Covariances:
    """S = ⟨x_p, z_p'⟩/C, no centring; T = 0. The sums run over channels in one order for all three, so that
    identical patches agree to the bit."""
    xz = np.stack([[_products(a, b) for b in z] for a in x])
    return Covariances(
        xx=np.stack([_products(a, a) for a in x]),
        zz=np.stack([_products(b, b) for b in z]),
        xz=xz,
        T=np.zeros_like(xz),
    )


def _products(a: Array, b: Array) -> Array:
    C = a.shape[-1]
    if a.shape[0] * a.shape[1] == 1:
        return np.asarray(np.sum(a * b) / C).reshape(1, 1, 1, 1)
    S = np.zeros(a.shape[:2] + b.shape[:2])
    for c in range(C):
        S += np.multiply.outer(a[:, :, c], b[:, :, c])
    return np.asarray(S / C)


def _propagate(k: Covariances, layers: tuple[Layer, ...]) -> Covariances:
    for layer in layers:
        k = _apply(k, layer)
    return k


def _apply(k: Covariances, layer: Layer) -> Covariances:
    match layer:
        case Dense():
            return _affine(k, layer.weight_variance, layer.bias_variance)
        case Conv():
            # LocalConv is one too: independent weights at different places leave only p = p'
            k = _affine(_map(k, lambda S: _box(S, layer)), layer.weight_variance, layer.bias_variance)
            return _map(k, _diagonal_only) if isinstance(layer, LocalConv) else k
        case Activation():
            return _activate(k, layer)
        case AvgPool():
            return _map(k, lambda S: _pool(S, layer))
        case GlobalAvgPool():
            return _map(k, lambda S: S.mean(axis=(-4, -3, -2, -1), keepdims=True))
        case Flatten():
            return _map(k, lambda S: _diagonal(S).mean(axis=(-2, -1))[..., None, None, None, None])
        case Residual(branch, shortcut):
            a, b = _propagate(k, branch), _propagate(k, shortcut)
            return Covariances(a.xx + b.xx, a.zz + b.zz, a.xz + b.xz, a.T + b.T)


def _map(k: Covariances, f: Callable[[Array], Array]) -> Covariances:
    return Covariances(f(k.xx), f(k.zz), f(k.xz), f(k.T))


def _affine(k: Covariances, w: float, b: float) -> Covariances:
    xz = w * k.xz + b
    return Covariances(w * k.xx + b, w * k.zz + b, xz, xz + w * k.T)


def _activate(k: Covariances, activation: Activation) -> Covariances:
    Qx, Qz = _diagonal(k.xx), _diagonal(k.zz)
    xz, slope = dual(
        activation, k.xz, Qx[:, None, :, :, None, None], np.broadcast_to(Qz[None, :, None, None], k.xz.shape)
    )
    k = replace(k, xz=xz, T=k.T * slope)
    for side, Q in (("xx", Qx), ("zz", Qz)):
        S = getattr(k, side)
        new, _ = dual(activation, S, Q[:, :, :, None, None], np.broadcast_to(Q[:, None, None], S.shape))
        k = replace(k, **{side: new})
    return k


def _diagonal(S: Array) -> Array:
    """S[…, h, w, h, w] at p = p': (…, H, W)."""
    return np.asarray(np.einsum("...hwhw->...hw", S))


def _diagonal_only(S: Array) -> Array:
    out = np.zeros_like(S)
    np.einsum("...hwhw->...hw", out)[...] = _diagonal(S)
    return out


def _box(S: Array, layer: Conv) -> Array:
    """mean over δ of S[s·p + δ, s·p' + δ]: the same δ on both sides; always divided by k², at the border too."""
    S, (H, W) = _pad(S, layer.filter, layer.strides, layer.padding)
    kh, kw = layer.filter
    sh, sw = layer.strides
    total: Array = np.zeros(())
    for dy in range(kh):
        for dx in range(kw):
            rows, cols = slice(dy, dy + sh * (H - 1) + 1, sh), slice(dx, dx + sw * (W - 1) + 1, sw)
            total = total + S[..., rows, cols, rows, cols]
    return total / (kh * kw)


def _pool(S: Array, layer: AvgPool) -> Array:
    """Local average: independent δ on the two sides."""
    real = np.ones((*S.shape[-4:-2], 1, 1))
    real, _ = _pad(real[..., :, :], layer.window, layer.strides, layer.padding, sides=1)
    S, (H, W) = _pad(S, layer.window, layer.strides, layer.padding)
    (kh, kw), (sh, sw) = layer.window, layer.strides
    rows = [slice(d, d + sh * (H - 1) + 1, sh) for d in range(kh)]
    cols = [slice(d, d + sw * (W - 1) + 1, sw) for d in range(kw)]
    S = np.asarray(sum(S[..., r, c, :, :] for r in rows for c in cols))
    S = np.asarray(sum(S[..., r, c] for r in rows for c in cols))
    count = np.asarray(sum(real[r, c, 0, 0] for r in rows for c in cols))
    if layer.padding != "SAME" or not layer.normalize_edges:
        count = np.full((H, W), float(kh * kw))
    return np.asarray(S / (count[:, :, None, None] * count))


def _pad(
    S: Array, window: tuple[int, int], strides: tuple[int, int], padding: str, sides: int = 2
) -> tuple[Array, tuple[int, int]]:
    """S with both pixel grids (or the first only) padded for a window, and the size of the output grid."""
    H, W = S.shape[-4:-2]
    out, widths = [], []
    for size, k, s in ((H, window[0], strides[0]), (W, window[1], strides[1])):
        out.append(output_size(size, k, s, padding))
        low = padding_low(size, k, s, padding)
        widths.append((low, max((out[-1] - 1) * s + k - size - low, 0)))
    if sides == 1:
        widths += [(0, 0), (0, 0)]
    else:
        widths *= 2
    pad = [(0, 0)] * (S.ndim - 4) + widths
    return np.pad(S, pad, mode="wrap" if padding == "CIRCULAR" else "constant"), (out[0], out[1])
