"""The fused stencil: one displacement of one image against a block of images, from the first layer to the last.

A convolution adds the same δ to p and p', so the plane S[p, p+Δ] of one displacement Δ goes through all layers without
meeting another (docs/kernels.md). VEC and LCN need Δ = 0, GAP the mean over all Δ. A plane is a rectangle of x and an
equal, displaced rectangle of z, zero outside. Lanes are innermost: [row][column][lane], one lane per image of the block of z,
so that every image size fills them and a displacement is an offset.

Layout, for blocks of `lanes` images (a multiple of a cache line, 16 float32 or 8 float64): pixels (blocks, C, H·W·lanes);
variances (blocks, Σ_l H_l·W_l·lanes), the layers one after another. The images of x have no lanes: (n, C, H·W), (n, Σ_l H_l·W_l).
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import njit

from kernreg.kernels.maps import INNER, SIMD, lanes_of
from kernreg.kernels.program import (
    H_IN,
    H_OUT,
    PHI,
    RELU,
    START,
    STEP_X,
    STEP_Y,
    SX,
    SY,
    W_IN,
    W_OUT,
    WRAP,
)
from kernreg.kernels.rows import (
    add_up,
    add_up_weighted,
    box_ahead,
    box_rows,
    erf_both_row,
    erf_nngp_row,
    products,
    relu_both_row,
    relu_nngp_row,
    repeat,
    roll,
    squares,
    variance_row,
)


@njit(**INNER)
def plane(x, z, Qx, Qz, geometry, affine, over_C, tangent, dy, dx, lanes, S, T, hS, hT, row, lines):
    """One displacement through all layers; leaves the last S and T in `S`, `T`, and returns their height and width.

    Args:
        x: (C, H·W); z: (C, H·W·lanes); Qx, Qz: variances of the pre-activations, one layer after another.
        geometry: (L, 15) int64 (kernels/program.py); affine: (L, 2), σw²/k² (with the ½ of a preceding ReLU) and σb².
        dy, dx: displacement on the grid of the last layer's output; 0 for CIRCULAR planes, whose z is rolled instead.
        S, T, hS, hT: scratch planes (H, W·lanes); row: (4, W·lanes); row[2] is zero, row[3] is `lines`, cut into 64 bytes.
    """
    g = geometry[0]
    W = g[W_IN]
    y, u = dy * g[STEP_Y] * g[SY], dx * g[STEP_X] * g[SX]
    h, w = g[H_IN] - abs(y), W - abs(u)
    products(
        x, z, h, w, max(0, -y) * W + max(0, -u), max(0, y) * W + max(0, u), W, lanes, over_C, S, row[3], lines
    )
    zeros = row[2]
    for l in range(len(geometry)):
        g = geometry[l]
        W = g[W_OUT]
        y, u = dy * g[STEP_Y], dx * g[STEP_X]
        h_out, w_out = g[H_OUT] - abs(y), W - abs(u)
        n = w_out * lanes
        weight, bias = affine[l, 0], affine[l, 1]
        done_S, done_T = 0, 0
        qx = row[3, :n]
        for r in range(h_out):
            done_S = box_ahead(S, hS, done_S, h, w, w_out, g, r, lanes)
            if tangent and l > 0:
                done_T = box_ahead(T, hT, done_T, h, w, w_out, g, r, lanes)
            i = g[START] + (max(0, -y) + r) * W + max(0, -u)
            j = (g[START] + (max(0, y) + r) * W + max(0, u)) * lanes
            repeat(Qx[i : i + w_out], lines, w_out, lanes)
            qz = Qz[j : j + n]
            a, b, c = box_rows(hS, n, h, g, r, row[0], zeros)
            if tangent:
                ta, tb, tc = zeros[:n], zeros[:n], zeros[:n]  # T = 0 at the input
                if l > 0:
                    ta, tb, tc = box_rows(hT, n, h, g, r, row[1], zeros)
                if g[PHI] == RELU:
                    relu_both_row(n, a, b, c, ta, tb, tc, qx, qz, weight, bias, S[r], T[r])
                else:
                    erf_both_row(n, a, b, c, ta, tb, tc, qx, qz, weight, bias, S[r], T[r])
            elif g[PHI] == RELU:
                relu_nngp_row(n, a, b, c, qx, qz, weight, bias, S[r])
            else:
                erf_nngp_row(n, a, b, c, qx, qz, weight, bias, S[r])
        h, w = h_out, w_out
    return h, w


@njit(**INNER)
def variances(z, geometry, affine, over_C, lanes, Q, S, hS, row):
    """Q of every layer for a block of images: shift 0 of each with itself, through the same operations as `plane`, so
    that identical patches agree to the bit."""
    g = geometry[0]
    h, w = g[H_IN], g[W_IN]
    squares(z, w * lanes, over_C, S, h)
    for l in range(len(geometry)):
        g = geometry[l]
        h_out, w_out = g[H_OUT], g[W_OUT]
        n = w_out * lanes
        done = 0
        for r in range(h_out):
            done = box_ahead(S, hS, done, h, w, w_out, g, r, lanes)
            a, b, c = box_rows(hS, n, h, g, r, row[0], row[2])
            i = g[START] * lanes + r * n
            variance_row(n, a, b, c, affine[l, 0], affine[l, 1], g[PHI] == RELU, Q[i : i + n], S[r])
        h, w = h_out, w_out


@njit(**INNER)
def diagonal(weights, d, wrap, out):
    """The weights of pixel pairs at displacement d, one for each row (or column) of its plane; whether any is not 0."""
    n = len(weights)
    any_weight = False
    for r in range(n if wrap else n - abs(d)):
        out[r] = weights[r, (r + d) % n] if wrap else weights[r + max(0, -d), r + max(0, d)]
        any_weight = any_weight or out[r] != 0
    return any_weight


@njit(nogil=True, cache=True, **SIMD)
def pairs(
    first,
    last,
    jobs,
    X,
    Z,
    QX,
    QZ,
    geometry,
    affine,
    over_C,
    tangent,
    pooled,
    weights_y,
    weights_x,
    lanes,
    out_S,
    out_T,
):
    """Σ over pixels (and displacements, if pooled) of the last S and T: (n, blocks·lanes) each, in float64.

    Args:
        first, last: which jobs; jobs: (k, 2) int64, pairs (image of X, block of Z). Other entries stay.
        X: (n, C, H·W); Z: (blocks, C, H·W·lanes); QX, QZ: their variances.
        pooled: all displacements (GAP) or 0 alone (VEC).
        weights_y, weights_x: (H, H) and (W, W) float64, of pixel pairs, if an average pool is read; else empty.
    """
    end = geometry[len(geometry) - 1]
    reach_y, reach_x = (end[H_OUT], end[W_OUT]) if pooled else (1, 1)
    wrap = geometry[0, WRAP] == 1 and pooled
    rows = max(geometry[:, H_IN].max(), geometry[:, H_OUT].max())
    cols = max(geometry[:, W_IN].max(), geometry[:, W_OUT].max()) * lanes
    S, T = np.empty((rows, cols), X.dtype), np.empty((rows, cols), X.dtype)
    hS, hT = np.empty((rows, cols), X.dtype), np.empty((rows, cols), X.dtype)
    row = np.zeros((4, cols), X.dtype)
    lines = row[3].reshape((-1, lanes_of(row)))
    rolled_z, rolled_q = np.empty_like(Z[0]), np.empty_like(QZ[0])
    weighted = weights_y.size > 0
    weight_y, weight_x = np.empty(len(weights_y)), np.empty(len(weights_x))
    for k in range(first, last):
        i, block = jobs[k]
        z, qz = Z[block], QZ[block]
        sum_S, sum_T = np.zeros(lanes), np.zeros(lanes)
        for dy in range(0 if wrap else 1 - reach_y, reach_y):
            if weighted and not diagonal(weights_y, dy, wrap, weight_y):
                continue
            for dx in range(0 if wrap else 1 - reach_x, reach_x):
                if weighted and not diagonal(weights_x, dx, wrap, weight_x):
                    continue
                y, u = dy, dx
                if wrap:
                    roll(Z[block], QZ[block], rolled_z, rolled_q, geometry, lanes, dy, dx)
                    z, qz, y, u = rolled_z, rolled_q, 0, 0
                h, w = plane(
                    X[i],
                    z,
                    QX[i],
                    qz,
                    geometry,
                    affine,
                    over_C,
                    tangent,
                    y,
                    u,
                    lanes,
                    S,
                    T,
                    hS,
                    hT,
                    row,
                    lines,
                )
                if weighted:
                    add_up_weighted(S, h, w, lanes, weight_y, weight_x, sum_S)
                    if tangent:
                        add_up_weighted(T, h, w, lanes, weight_y, weight_x, sum_T)
                    continue
                add_up(S, h, w * lanes, lanes, sum_S)
                if tangent:
                    add_up(T, h, w * lanes, lanes, sum_T)
        for m in range(lanes):
            out_S[i, block * lanes + m] = sum_S[m]
        if tangent:
            for m in range(lanes):
                out_T[i, block * lanes + m] = sum_T[m]


@njit(nogil=True, cache=True, **SIMD)
def all_variances(first, last, Z, QZ, geometry, affine, over_C, lanes):
    """`variances` of blocks first … last − 1: fills QZ (blocks, Σ_l H_l·W_l·lanes)."""
    rows = max(geometry[:, H_IN].max(), geometry[:, H_OUT].max())
    cols = max(geometry[:, W_IN].max(), geometry[:, W_OUT].max()) * lanes
    S, hS = np.empty((rows, cols), Z.dtype), np.empty((rows, cols), Z.dtype)
    row = np.zeros((4, cols), Z.dtype)
    for block in range(first, last):
        variances(Z[block], geometry, affine, over_C, lanes, QZ[block], S, hS, row)
