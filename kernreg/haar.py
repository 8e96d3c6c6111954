"""Orthogonal matrices drawn from the Haar measure, and products of matrices with the same bits on every machine.

A product of Householder reflections that send Gaussian vectors of d, d − 1, …, 1 numbers to a multiple of their
first axis, with matching signs, is uniform on O(d) (Stewart, SIAM J. Numer. Anal. 17, 403, 1980; Mezzadri, Notices
AMS 54, 592, 2007).

BLAS and LAPACK round differently from machine to machine, from version to version and with the number of rows; a
store of rotated rows must be extended anywhere. So `product` cuts its factors into slices of so few bits that no
order of summation rounds, and adds the exact partial products in a fixed order (Ozaki, Ogita, Oishi and Rump,
Numer. Algorithms 59, 95, 2012); and the Gaussian numbers keep 24 bits behind the point, which hides the last
digits, in which libraries differ.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

MANTISSA = 53
PANEL = 128  # reflections applied at once


def haar(count: int, d: int, source: np.random.PCG64) -> Array:
    """(count, d, d) independent orthogonal matrices, uniform on O(d), from the next count·d² raw numbers of `source`.

    Orthogonal to a few 1e-15; d = 3072 takes about 600 MB for its time.
    """
    # Column k holds the k-th Gaussian vector from row k on, and then the normal v of its reflection 1 − τ·v·vᵀ.
    V = np.tril(_gaussian(source, (count, d, d)))
    size = np.sqrt(np.square(V).sum(axis=1))
    first = np.einsum("nkk->nk", V)
    sign = np.where(first < 0, -1.0, 1.0)
    τ = 1.0 / (size * (size + np.abs(first)))
    first += sign * size
    R = np.zeros((count, d, d))
    np.einsum("nkk->nk", R)[...] = -sign
    for start in reversed(range(0, d, PANEL)):
        v = V[:, start:, start : start + PANEL]
        vt = np.swapaxes(v, 1, 2)
        T = _triangle(product(vt, v), τ[:, start : start + PANEL])
        rest = R[:, start:, start:]
        rest -= product(v, product(T, product(vt, rest)))
    return R


def product(a: Array, b: Array) -> Array:
    """a·b of stacks of matrices (…, m, k) and (…, k, n), finite float64: the same bits whatever the BLAS and its threads.

    A row of the result depends on its row of a alone, not on how many others there are. Its error is that of one
    rounding of the largest terms, about k·2⁻⁵⁴·max|row of a|·max|column of b|.
    """
    return multiply(slices(a, -1), slices(b, -2))


def slices(a: Array, axis: int, digits: int = MANTISSA) -> list[Array]:
    """Matrices that add up to `a`, largest first, each of few enough bits along `axis`, the one to be summed over.

    digits: bits that are wanted, counted from the largest number along the axis.
    """
    bits, most = _bits(a.shape[axis], digits)
    parts: list[Array] = []
    while len(parts) < most:
        _, exponent = np.frexp(np.abs(a).max(axis=axis, keepdims=True))
        unit = np.ldexp(1.0, np.maximum(exponent - bits, -1074))
        parts.append(np.rint(a / unit) * unit)
        a = a - parts[-1]
        if not a.any():
            break
    return parts


def multiply(a: list[Array], b: list[Array], digits: int = MANTISSA) -> Array:
    """The product of two matrices given by their `slices`, to so many bits."""
    _, most = _bits(a[0].shape[-1], digits)
    total = np.zeros((*a[0].shape[:-1], b[0].shape[-1]))
    pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if i + j < most]
    for i, j in sorted(pairs, key=lambda pair: (-sum(pair), pair)):  # the small ones first
        total += a[i] @ b[j]
    return total


def _bits(k: int, digits: int) -> tuple[int, int]:
    """Bits of a slice so that k products of two fit a mantissa, and the slices that `digits` bits need."""
    bits = (MANTISSA - k.bit_length()) // 2
    return bits, -(-(digits + 1) // bits)


def _triangle(G: Array, τ: Array) -> Array:
    """T with (1 − τ₁v₁v₁ᵀ)·(1 − τ₂v₂v₂ᵀ)··· = 1 − V·T·Vᵀ for G = Vᵀ·V (Schreiber and Van Loan 1989): (…, b, b)."""
    T = np.zeros_like(G)
    for j in range(G.shape[-1]):
        if j:
            T[:, :j, j : j + 1] = -τ[:, j, None, None] * product(T[:, :j, :j], G[:, :j, j : j + 1])
        T[:, j, j] = τ[:, j]
    return T


def _gaussian(source: np.random.PCG64, shape: tuple[int, ...]) -> Array:
    """Independent normal numbers, odd multiples of 2⁻²⁵: none is 0.

    From raw 64-bit numbers, whose stream NumPy keeps for ever, by the quantile function.
    """
    from scipy.special import ndtri

    raw = source.random_raw(int(np.prod(shape))).reshape(shape)
    uniform = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray((np.floor(ndtri(uniform) * 2.0**24) + 0.5) * 2.0**-24)
