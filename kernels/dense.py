"""Fully connected networks: one BLAS product, then all layers at once on each block of it.

The epilogue carries c = S/√(Qx·Qz) together with D = 1 − c and E = 1 + c and never subtracts nearly equal numbers: the
square root of arccos at c = ±1 would turn a rounding error ε into √ε. A dense layer moves D by (docs/kernels.md)

    D' = (σw²·uv·D + gap)/u'v',   gap = u'v' − σw²·uv − σb² = σw²σb²(u − v)²/(u'v' + σw²·uv + σb²),   u = √Qx, v = √Qz.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import os
from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernreg.kernels.geometry import check_range
from kernreg.kernels.maps import SIMD, arccos_over_root, arcsin_over, g_over_root
from kernreg.kernels.threads import in_parallel, one_blas_thread
from kernreg.layers import Activation, Dense

Array: TypeAlias = NDArray[np.floating[Any]]

ROWS, COLS = 768, 1536  # of a block of the product: large, for BLAS, and still in the outer cache
FEWEST = 192  # rows, where there are many cores to share the blocks
SQUARE = 64  # of a transposed copy: both squares in the first-level cache
DENSE, RELU, ERF = 0, 1, 2


def compute(
    x: Array, z: Array | None, layers: tuple[Dense | Activation, ...], kernel: str, real: np.dtype[Any]
) -> dict[str, Array]:
    """K(x, z) of a fully connected network on vectors (n, d) and (m, d); z None means x, and an exactly symmetric result."""
    steps = _steps(layers, real)
    homogeneous = (
        not any(isinstance(a, Activation) and a.fn == "erf" for a in layers) and not steps[:, 2].any()
    )
    X, u = _normalised(x, homogeneous, steps, real)
    Z, v = (X, u) if z is None else _normalised(z, homogeneous, steps, real)
    U, V = _deviations(u, layers, homogeneous, real), _deviations(v, layers, homogeneous, real)
    n, m = len(X), len(Z)
    out = {name: np.empty((n, m), real) for name in ("nngp", "ntk") if kernel in (name, "both")}
    nowhere = np.empty((0, 0), real)
    near = real.type(1e-2 if real.itemsize == 4 else 1e-4)
    blocks = _blocks(n, m, z is None)

    def compute_blocks(first: int, last: int) -> None:
        products = np.empty(ROWS * COLS, real)
        for rows, cols in blocks[first:last]:
            shape = (rows.stop - rows.start, cols.stop - cols.start)
            product = products[: shape[0] * shape[1]].reshape(shape)
            np.matmul(X[rows], Z[cols].T, out=product)
            S, T = (out[k][rows, cols] if k in out else nowhere for k in ("nngp", "ntk"))
            v = np.ascontiguousarray(V[cols].T)
            _epilogue(product, X[rows], Z[cols], U[rows], v, steps, near, S, T)

    # a core works on blocks of its own: BLAS threads that wait for the next product would take cores from the epilogue
    with one_blas_thread():
        in_parallel(compute_blocks, len(blocks), (), step=1)
    for K in out.values():
        if homogeneous:
            K *= u[:, None].astype(real)
            K *= v.astype(real)
        if z is None:
            mirror(K)
    return out


def _blocks(n: int, m: int, symmetric: bool) -> list[tuple[slice, slice]]:
    """Rows and columns of the blocks of a product, those that reach the upper triangle if it is symmetric.

    Two blocks a core, if n and m allow: of the machine's cores, not of this run's, so that the bits stay the same.
    """
    height = ROWS
    while height > FEWEST and -(-n // height) * -(-m // COLS) < 2 * (os.cpu_count() or 1):
        height //= 2
    blocks = []
    for top in range(0, n, height):
        rows, left = slice(top, min(top + height, n)), 0
        if symmetric:  # half of the square on the diagonal is enough, by quarters
            middle, left = (rows.start + rows.stop) // 2, rows.stop
            blocks += [(slice(top, middle), slice(top, left))] * (middle > top)
            blocks += [(slice(middle, left), slice(middle, left))]
        blocks += [(rows, slice(j, min(j + COLS, m))) for j in range(left, m, COLS)]
    return blocks


def _steps(layers: tuple[Dense | Activation, ...], real: np.dtype[Any]) -> Array:
    """(number of layers, 3): kind, σw², σb²."""
    rows = [
        (DENSE, a.weight_variance, a.bias_variance)
        if isinstance(a, Dense)
        else (ERF if a.fn == "erf" else RELU, 0, 0)
        for a in layers
    ]
    return np.array(rows, real)


def _normalised(
    x: Array, homogeneous: bool, steps: Array, real: np.dtype[Any]
) -> tuple[Array, NDArray[np.float64]]:
    """x/|x| (rows of zeros stay zero) and |x|/√d."""
    X, size, largest = np.empty(x.shape, real), np.empty(len(x)), np.empty(len(x))
    rows = x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
    in_parallel(_normalise, len(x), (rows, X, size, largest))
    if not homogeneous:
        check_range(largest, real, low=False)
    return X, size / np.sqrt(x.shape[1])


@njit(nogil=True, cache=True, **SIMD)
def _normalise(first, last, x, X, size, largest):
    """X = x/|x|, size = |x| and the largest |entry| of rows first … last − 1, in float64.

    Each row is divided by its largest entry first, so that no square leaves the range.
    """
    for i in range(first, last):
        row = x[i]
        top = 0.0
        for k in range(row.size):
            top = max(top, abs(np.float64(row[k])))
        largest[i] = top
        if top == 0.0:
            X[i], size[i] = 0, 0
            continue
        total = 0.0
        for k in range(row.size):
            total += (np.float64(row[k]) / top) ** 2
        norm = np.sqrt(total)
        size[i] = top * norm
        for k in range(row.size):
            X[i, k] = np.float64(row[k]) / top / norm


def mirror(K: Array) -> None:
    """Copy the upper triangle of a square matrix to the lower one."""
    in_parallel(_mirror, -(-len(K) // SQUARE), (K,))


@njit(nogil=True, cache=True)
def _mirror(first, last, K):
    """Below the diagonal of squares first … last − 1 of the diagonal, down to the last row; cache lines are written whole."""
    n = len(K)
    for a in range(first * SQUARE, last * SQUARE, SQUARE):
        stop = min(a + SQUARE, n)
        for b in range(a, n, SQUARE):
            for i in range(b, min(b + SQUARE, n)):
                for j in range(a, min(stop, i)):
                    K[i, j] = K[j, i]


def _deviations(
    u: NDArray[np.float64], layers: tuple[Dense | Activation, ...], homogeneous: bool, real: np.dtype[Any]
) -> Array:
    """√Q of each row before every layer and after the last: (n, layers + 1)."""
    Q = np.ones_like(u) if homogeneous else u**2
    out = [Q]
    for layer in layers:
        if isinstance(layer, Dense):
            Q = layer.weight_variance * Q + layer.bias_variance
        elif layer.fn == "relu":
            Q = Q / 2
        else:
            Q = 2 / np.pi * np.arctan2(2 * Q, np.sqrt(1 + 4 * Q))
        out.append(Q)
    return np.sqrt(np.stack(out, axis=1)).astype(real)


@njit(nogil=True, cache=True, **SIMD)
def _epilogue(product, X, Z, U, V, steps, near, S_out, T_out):
    """All layers on a block X·Zᵀ of unit vectors; results into S_out, T_out unless these are empty.

    U: (r, layers + 1), √Q of the rows; V: (layers + 1, m), of the columns.
    """
    n, m = product.shape
    D, E, T = np.empty(m, product.dtype), np.empty(m, product.dtype), np.empty(m, product.dtype)
    for i in range(n):
        c = product[i]
        T[:] = 0
        _start(c, X[i], Z, near, D, E)
        for k in range(len(steps)):
            kind, w, b = steps[k]
            u, new = U[i, k], U[i, k + 1]
            if kind == DENSE:
                _dense(c, D, E, T, u, V[k], new, V[k + 1], w, b)
            elif kind == RELU:
                _relu(c, D, E, T)
            else:
                _erf(c, D, E, T, u, V[k], new, V[k + 1])
        if T_out.size:
            T_out[i] = T
        if S_out.size:
            u, v, S = U[i, len(steps)], V[len(steps)], S_out[i]
            for j in range(m):
                S[j] = u * v[j] * c[j]


@njit(**SIMD)
def _start(c, x, Z, near, D, E):
    """1 ∓ c; nearly parallel rows anew as ½|x ∓ z|², which does not cancel (a product in float32 is good to 1e-7 only)."""
    one, half = D.dtype.type(1), D.dtype.type(0.5)
    for j in range(c.size):
        D[j] = one - c[j]
        E[j] = one + c[j]
    for j in range(c.size):
        if min(D[j], E[j]) < near:
            apart, across = 0.0, 0.0
            z = Z[j]
            for k in range(x.size):
                minus, plus = np.float64(x[k]) - np.float64(z[k]), np.float64(x[k]) + np.float64(z[k])
                apart += minus * minus
                across += plus * plus
            total = apart + across  # 4, but for rounding
            D[j] = 2 * apart / total
            E[j] = 2 * across / total
            c[j] = half * (E[j] - D[j])


@njit(**SIMD)
def _dense(c, D, E, T, u, v, u_new, v_new, w, b):
    one, two = D.dtype.type(1), D.dtype.type(2)
    if b == 0:
        # the angle stays, to the bit: twenty roundings of σw²·uv/u'v' ≈ 1 would show
        for j in range(D.size):
            T[j] = u_new * v_new[j] * c[j] + w * T[j]
        return
    for j in range(D.size):
        old, P = w * u * v[j], u_new * v_new[j]
        gap = w * b * (u - v[j]) * (u - v[j]) / (P + old + b)
        S = old * c[j] + b
        c[j] = S * (one / P)
        D[j] = (old * D[j] + gap) * (one / P)
        E[j] = (old * E[j] + gap + two * b) * (one / P)
        T[j] = S + w * T[j]


@njit(**SIMD)
def _relu(c, D, E, T):
    half, one, zero = D.dtype.type(0.5), D.dtype.type(1), D.dtype.type(0)
    for j in range(D.size):
        a = min(D[j], E[j])
        root = np.sqrt(a)
        acute = root * arccos_over_root(a)
        g = a * root * g_over_root(a)
        T[j] *= half * (acute if c[j] < zero else one - acute)
        # κ1 = max(c, 0) + g
        D[j] = max(min(D[j], one) - g, zero)
        c[j] = max(c[j], zero) + g
        E[j] = one + c[j]


@njit(**SIMD)
def _erf(c, D, E, T, u, v, u_new, v_new):
    real = D.dtype.type
    zero, half, one, two, four = real(0), real(0.5), real(1), real(2), real(4)
    two_over_pi, four_over_pi = real(2 / np.pi), real(4 / np.pi)
    for j in range(D.size):
        q, r, P = u * u, v[j] * v[j], u * v[j]
        a = abs(P * c[j])
        N2 = one + two * (q + r) + four * P * P * (D[j] * E[j])  # AB − 4S²
        M = np.sqrt((one + two * q) * (one + two * r))
        rho = two * a / M
        near = rho > half
        y = half * N2 / (M * (M + two * a)) if near else rho * rho
        t = arcsin_over(y)
        arcsin = one - two_over_pi * two * np.sqrt(y) * t if near else two_over_pi * rho * t
        T[j] *= four_over_pi / np.sqrt(N2)
        new = u_new * v_new[j]
        cosine = min(arcsin / new, one) if new > zero else zero
        cosine = -cosine if c[j] < zero else cosine
        same = D[j] == zero and u == v[j]
        D[j] = zero if same else one - cosine
        E[j] = one + cosine
        c[j] = cosine
