"""Invariance: which kernel does not change under which symmetry, deduced from the layers.

The recursion of `kernreg.kernels.reference` is run in exact arithmetic modulo 2⁶⁴ on random covariances of the input
before and after the transform, with a random function of (S, Qx·Qz, Qx + Qz) in the place of every nonlinearity. A
rotation leaves nothing of S₀[p,p'] = ⟨x_p, z_p'⟩/C but its sums over the pixels that are rotated together, so all
else is drawn anew; a permutation moves the entries. Sums stay sums and nothing else can cancel, so that the two
results are equal if the transformed kernel is the same expression of what the transform preserves, and differ with
probability 1 − 2⁻⁶⁰ if it is not. Padding, strides, windows, pooling, residual branches and local convolutions need
no rules of their own.

What this cannot see are coincidences of special values: a single channel, whose rotations are signs, under the even
activation "abs".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels.geometry import output_size, padding_low
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
from kernreg.symmetry import Transform

Residues: TypeAlias = NDArray[np.uint64]

SEED = 20220717


@dataclass(frozen=True)
class Covariances:
    """Of one x and one z between all pixels, modulo 2⁶⁴: xx, zz, xz and the tangent T, each (H, W, H, W)."""

    xx: Residues
    zz: Residues
    xz: Residues
    T: Residues


def invariant(
    architecture: Architecture, transform: Transform, kernel: str = "ntk", functional: bool = False
) -> bool:
    """Whether K(τx, τz) = K(x, z) for all x and z; functional: whether K(τx, z) = K(x, z).

    Args:
        architecture: any layer sequence that ends in one number a pair.
        transform: τ, for rows of the shape that the network is to see. Of a rotation the group alone matters, not
            the element that was drawn.
        kernel: "nngp" or "ntk".

    Raises:
        KernregError: unknown kernel, or a network that does not fit rows of this shape.
    """
    if kernel not in ("nngp", "ntk"):
        raise KernregError(f"kernel is nngp or ntk, not {kernel!r}")
    spatial = is_spatial(architecture)
    if spatial and len(transform.shape) == 1:
        raise KernregError(f"architecture {architecture.name!r} needs images (H, W, C), not vectors")
    source = np.random.PCG64(SEED)
    before = _input(transform, source)
    ends = [before, _moved(before, transform, functional, source)]
    if not spatial:
        ends = [_map(k, _flatten) for k in ends]
    one, other = (_propagate(k, architecture.layers) for k in ends)
    if one.xz.size != 1:
        raise KernregError("a network of windows needs a flatten or gap layer before its output")
    return bool((one.xz == other.xz).all() if kernel == "nngp" else (one.T == other.T).all())


def _input(transform: Transform, source: np.random.PCG64) -> Covariances:
    H, W, _ = transform.grid
    xx, zz, xz = (_drawn(H * W, source).reshape(H, W, H, W) for _ in range(3))
    return Covariances(_symmetric(xx), _symmetric(zz), xz, np.zeros_like(xz))


def _moved(k: Covariances, transform: Transform, functional: bool, source: np.random.PCG64) -> Covariances:
    """The input covariances of τx and τz, or of τx and z."""
    order, shape = transform.order, k.xz.shape
    P = shape[0] * shape[1]
    xx, zz, xz = (S.reshape(P, P) for S in (k.xx, k.zz, k.xz))
    if order is not None:
        xx, xz = xx[np.ix_(order, order)], xz[order]
        if not functional:
            zz, xz = zz[np.ix_(order, order)], xz[:, order]
    elif transform.matrices is not None:
        xx = _redrawn(xx, transform, source, symmetric=True)
        if functional:
            xz = _drawn(P, source)
        else:
            xz = _redrawn(xz, transform, source)
            zz = _redrawn(zz, transform, source, symmetric=True)
    return Covariances(xx.reshape(shape), zz.reshape(shape), xz.reshape(shape), k.T)


def _redrawn(S: Residues, transform: Transform, source: np.random.PCG64, symmetric: bool = False) -> Residues:
    """Random, but for Σ_q S[(b,q), (b',q)] over the pixels q of two blocks: all b, b' under one common rotation, b = b'
    where every block has a rotation of its own."""
    assert transform.matrices is not None
    (H, W, _), (h, w) = transform.grid, transform.block
    pixels = np.arange(H * W).reshape(H // h, h, W // w, w).transpose(0, 2, 1, 3).reshape(-1, h * w)
    new = _drawn(H * W, source)
    if symmetric:
        new = _symmetric(new)
    places = [np.ix_(q, q) for q in pixels.T]
    owed = sum((S[q] - new[q] for q in places), np.zeros((len(pixels), len(pixels)), np.uint64))
    if len(transform.matrices) > 1:
        owed *= np.eye(len(pixels), dtype=np.uint64)
    new[places[-1]] += owed
    return new


def _propagate(k: Covariances, layers: tuple[Layer, ...]) -> Covariances:
    for layer in layers:
        k = _apply(k, layer)
    return k


def _apply(k: Covariances, layer: Layer) -> Covariances:
    match layer:
        case Dense():
            return _affine(k, layer.weight_variance, layer.bias_variance)
        case Conv():
            area = layer.filter[0] * layer.filter[1]
            k = _affine(_map(k, lambda S: _box(S, layer)), layer.weight_variance / area, layer.bias_variance)
            return _map(k, _diagonal_only) if isinstance(layer, LocalConv) else k
        case Activation():
            return k if layer.fn == "identity" else _activate(k, layer.fn)
        case AvgPool():
            return _map(k, lambda S: _pool(S, layer))
        case GlobalAvgPool():
            return _map(k, lambda S: S.sum(keepdims=True))
        case Flatten():
            return _map(k, _flatten)
        case Residual(branch, shortcut):
            a, b = _propagate(k, branch), _propagate(k, shortcut)
            return Covariances(a.xx + b.xx, a.zz + b.zz, a.xz + b.xz, a.T + b.T)


def _map(k: Covariances, f: Callable[[Residues], Residues]) -> Covariances:
    return Covariances(f(k.xx), f(k.zz), f(k.xz), f(k.T))


def _affine(k: Covariances, weight: float, bias: float) -> Covariances:
    w, b = _constant(weight), _constant(bias)
    xz = w * k.xz + b
    return Covariances(w * k.xx + b, w * k.zz + b, xz, xz + w * k.T)


def _activate(k: Covariances, fn: str) -> Covariances:
    Qx, Qz = (np.einsum("hwhw->hw", S) for S in (k.xx, k.zz))
    row, column = (slice(None), slice(None), None, None), (None, None)
    slope = _mix(f"slope of {fn}", k.xz, Qx[row], Qz[column]) | np.uint64(1)
    return replace(
        k,
        xx=_mix(fn, k.xx, Qx[row], Qx[column]),
        zz=_mix(fn, k.zz, Qz[row], Qz[column]),
        xz=_mix(fn, k.xz, Qx[row], Qz[column]),
        T=k.T * slope,
    )


def _flatten(S: Residues) -> Residues:
    return np.asarray(np.einsum("hwhw->hw", S).sum(keepdims=True)[..., None, None])


def _diagonal_only(S: Residues) -> Residues:
    out = np.zeros_like(S)
    np.einsum("hwhw->hw", out)[...] = np.einsum("hwhw->hw", S)
    return out


def _box(S: Residues, layer: Conv) -> Residues:
    """Σ_δ S[s·p + δ, s·p' + δ]."""
    S, rows, columns = _windows(S, layer.filter, layer.strides, layer.padding)
    return np.asarray(sum(S[np.ix_(r, c, r, c)] for r in rows for c in columns))


def _pool(S: Residues, layer: AvgPool) -> Residues:
    """Σ over δ and δ' of S[s·p + δ, s·p' + δ'], by the numbers of real pixels under the two windows."""
    real = np.zeros_like(S)
    np.einsum("hwhw->hw", real)[...] = 1
    real, rows, columns = _windows(real, layer.window, layer.strides, layer.padding)
    count = sum(np.einsum("hwhw->hw", real[np.ix_(r, c, r, c)]) for r in rows for c in columns)
    share = _constants(np.asarray(count))
    if layer.padding != "SAME" or not layer.normalize_edges:
        share = np.full_like(share, _constant(float(layer.window[0] * layer.window[1])))
    S, rows, columns = _windows(S, layer.window, layer.strides, layer.padding)
    S = np.asarray(sum(S[np.ix_(r, c)] for r in rows for c in columns))
    S = np.asarray(sum(S[:, :, r][:, :, :, c] for r in rows for c in columns))
    return share[:, :, None, None] * share * S


def _windows(
    S: Residues, window: tuple[int, int], strides: tuple[int, int], padding: str
) -> tuple[Residues, list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """S padded on both grids, and for each offset δ of the window the rows (the columns) of it that all places read."""
    widths, reads = [], []
    for size, k, s in zip(S.shape[:2], window, strides, strict=True):
        out, low = output_size(size, k, s, padding), padding_low(size, k, s, padding)
        widths.append((low, max((out - 1) * s + k - size - low, 0)))
        reads.append([δ + s * np.arange(out) for δ in range(k)])
    S = np.pad(S, widths * 2, mode="wrap" if padding == "CIRCULAR" else "constant")
    return S, reads[0], reads[1]


def _drawn(P: int, source: np.random.PCG64) -> Residues:
    return np.asarray(source.random_raw(P * P)).reshape(P, P)


def _symmetric(S: Residues) -> Residues:
    P = S.shape[0] * S.shape[1] if S.ndim == 4 else len(S)
    upper = np.triu(S.reshape(P, P))
    return (upper + np.triu(upper, 1).T).reshape(S.shape)


def _constant(value: float) -> Residues:
    """A number of the network as a residue: odd and random, 0 for 0; equal for equal numbers. (1,) uint64."""
    digest = hashlib.sha256(repr(float(value)).encode()).digest()
    return np.array([int.from_bytes(digest[:8], "little") | 1 if value else 0], np.uint64)


def _constants(values: Residues) -> Residues:
    known = {v: _constant(float(v))[0] for v in np.unique(values).tolist()}
    return np.array([known[v] for v in values.ravel().tolist()], np.uint64).reshape(values.shape)


def _mix(name: str, S: Residues, Qx: Residues, Qz: Residues) -> Residues:
    """A random function of S, Qx·Qz and Qx + Qz, one for each name (the finaliser of splitmix64)."""
    digest = hashlib.sha256(name.encode()).digest()
    h = np.full(S.shape, int.from_bytes(digest[:8], "little"), np.uint64)
    for value in (S, Qx * Qz, Qx + Qz):
        h = h ^ value
        for shift, odd in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            h = (h ^ (h >> np.uint64(shift))) * np.array([odd], np.uint64)
        h = h ^ (h >> np.uint64(31))
    return h
