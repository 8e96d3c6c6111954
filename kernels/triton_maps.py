"""Device functions on a tile of pairs: the affine step and the dual maps of the activations.

A pair is carried as D = 1 − c, E = 1 + c and T, c = S/√(Qx·Qz); nothing subtracts nearly equal numbers (kernels/dense.py).
Where no covariance is negative (SIGNED false) E = 2 − D, and no register holds it. Polynomials: kernels/polynomials.py.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import triton
import triton.language as tl

from kernreg.kernels import polynomials, tree

NONE, RELU, ERF, RBF = (tl.constexpr(kind) for kind in (tree.NONE, tree.RELU, tree.ERF, tree.RBF))
TWO_OVER_PI = tl.constexpr(2 / math.pi)
TINY = tl.constexpr(1e-37)  # 1 − |c| that is as good as 0 and keeps its sign
# coefficients and degree in float32, and in float64
ARCCOS, G, ARCSIN = (
    tl.constexpr((c32, len(c32) - 1, c64, len(c64) - 1))
    for c32, c64 in (
        (polynomials.ARCCOS_32, polynomials.ARCCOS_64),
        (polynomials.G_32, polynomials.G_64),
        (polynomials.ARCSIN_32, polynomials.ARCSIN_64),
    )
)


@triton.jit
def horner(t, polynomial: tl.constexpr):
    """In the precision of t."""
    c: tl.constexpr = polynomial[2 if t.dtype == tl.float64 else 0]
    last: tl.constexpr = polynomial[3 if t.dtype == tl.float64 else 1]
    value = t * c[last] + c[last - 1]
    for k in tl.static_range(2, last + 1):
        value = value * t + c[last - k]
    return value


@triton.jit
def affine(D, E, T, u, v, u_new, v_new, x_inverse, z_inverse, w, b, NTK: tl.constexpr, SIGNED: tl.constexpr):
    """S ← w·S + b, T ← S + w·T; u, v: √Q of the rows and the columns before, u_new, v_new after, with their inverses."""
    P = u_new[:, None] * v_new[None, :]
    if b != 0:  # else the angle stays
        old = w * (u[:, None] * v[None, :])
        apart = u[:, None] - v[None, :]
        gap = w * b * (apart * apart) / (P + old + b)
        inverse = x_inverse[:, None] * z_inverse[None, :]
        if SIGNED:
            E = (old * E + gap + 2.0 * b) * inverse
        D = (old * D + gap) * inverse
    if NTK:
        T = P - P * D + w * T
    return D, E, T


@triton.jit
def relu(D, E, T, NTK: tl.constexpr, SIGNED: tl.constexpr):
    a = D
    if SIGNED:
        a = tl.minimum(D, E)
    root = tl.sqrt(a)
    if NTK:
        acute = root * horner(a, ARCCOS)
        slope = 1.0 - acute
        if SIGNED:
            slope = tl.where(E < D, acute, slope)
        T = T * (0.5 * slope)
    # κ1 = max(c, 0) + g
    g = a * root * horner(a, G)
    D = tl.maximum(tl.minimum(D, 1.0) - g, 0.0)
    return D, 2.0 - D, T


@triton.jit
def erf(D, E, T, u, v, x_after, z_after, NTK: tl.constexpr):
    """u, v: √Q before the activation, x_after, z_after: after it."""
    P = u[:, None] * v[None, :]
    q, r = (u * u)[:, None], (v * v)[None, :]
    size = P * tl.minimum(tl.abs(1.0 - D), 1.0)
    N2 = 1.0 + 2.0 * (q + r) + 4.0 * P * P * (D * E)  # (1 + 2q)(1 + 2r) − 4S²
    M = tl.sqrt((1.0 + 2.0 * q) * (1.0 + 2.0 * r))
    rho = 2.0 * size / M
    near = rho > 0.5
    y = tl.where(near, 0.5 * N2 / (M * (M + 2.0 * size)), rho * rho)
    t = horner(y, ARCSIN)
    arcsin = tl.where(near, 1.0 - (2.0 * TWO_OVER_PI) * tl.sqrt(y) * t, TWO_OVER_PI * rho * t)
    if NTK:
        T = T * ((2.0 * TWO_OVER_PI) / tl.sqrt(N2))
    after = x_after[:, None] * z_after[None, :]
    cosine = tl.where(after > 0, tl.minimum(arcsin / after, 1.0), 0.0)
    # a pair with itself, or with its opposite, stays so to the bit
    alike = u[:, None] == v[None, :]
    less = tl.where(alike & (tl.minimum(D, E) <= TINY), 0.0, 1.0 - cosine)
    opposite = E < D
    return tl.where(opposite, 1.0 + cosine, less), tl.where(opposite, less, 1.0 + cosine), T


@triton.jit
def rbf(D, T, u, v, NTK: tl.constexpr):
    apart = u[:, None] - v[None, :]
    gaussian = tl.exp(-(apart * apart) - 2.0 * (u[:, None] * v[None, :]) * D)
    if NTK:
        T = T * (2.0 * gaussian)
    return 1.0 - gaussian, 1.0 + gaussian, T
