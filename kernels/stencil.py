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

from kernreg.kernels.maps import INNER, SIMD, erf, lanes_of, relu, relu_nngp
from kernreg.kernels.program import (
    H_IN,
    H_OUT,
    KX,
    KY,
    LOW_X,
    LOW_Y,
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


@njit(**INNER)
def box_columns(source, target, w, w_out, g, lanes):
    """target[j] = Σ_δ source[s·j + δ − low], δ = 0 … k−1 in this order: the horizontal half of a box sum, one row."""
    k, s, low, wrap = g[KX], g[SX], g[LOW_X], g[WRAP]
    if k == 3 and s == 1 and low == 1 and not wrap and w > 1:
        n = w * lanes
        left, mid, right = source[: n - 2 * lanes], source[lanes : n - lanes], source[2 * lanes : n]
        inner = target[lanes : n - lanes]
        for m in range(n - 2 * lanes):
            inner[m] = left[m] + mid[m] + right[m]
        last, before = source[n - lanes : n], source[n - 2 * lanes : n - lanes]
        far, next_one = target[n - lanes : n], source[lanes : 2 * lanes]
        for m in range(lanes):
            target[m] = source[m] + next_one[m]
        for m in range(lanes):
            far[m] = before[m] + last[m]
        return
    for j in range(w_out):
        total = target[j * lanes : (j + 1) * lanes]
        for m in range(lanes):
            total[m] = 0
        for d in range(k):
            q = s * j + d - low
            if wrap:
                q = q % w
            elif q < 0 or q >= w:
                continue
            pixel = source[q * lanes : (q + 1) * lanes]
            for m in range(lanes):
                total[m] += pixel[m]


@njit(**INNER)
def box_ahead(plane, boxed, done, h, w, w_out, g, r, lanes):
    """Horizontal sums of the input rows that output row r needs and that are not `done`; returns how many are now.

    Just ahead of their use they are still in the nearest cache, and the rows they came from may be overwritten.
    """
    need = h if g[WRAP] else min(g[SY] * r - g[LOW_Y] + g[KY], h)
    for q in range(done, need):
        box_columns(plane[q], boxed[q], w, w_out, g, lanes)
    return max(done, need)


@njit(**INNER)
def repeat(values, lines, w, lanes):
    """One value a pixel, repeated over the lanes; `lines` is a row of W·lanes numbers as lines of 64 bytes."""
    per_line = lanes_of(lines)
    k = lanes // per_line
    for j in range(w):
        value = values[j]
        for b in range(j * k, j * k + k):
            for m in range(per_line):
                lines[b, m] = value


@njit(**INNER)
def box_rows(rows, n, h, g, r, scratch, zeros):
    """Three rows whose sum is Σ_δ rows[s·r + δ − low]: the vertical half. Windows of another height are summed here."""
    k, low, wrap = g[KY], g[LOW_Y], g[WRAP]
    first = g[SY] * r - low
    if k == 3:
        if wrap:
            return rows[first % h, :n], rows[(first + 1) % h, :n], rows[(first + 2) % h, :n]
        a = rows[first, :n] if 0 <= first < h else zeros[:n]
        b = rows[first + 1, :n] if 0 <= first + 1 < h else zeros[:n]
        c = rows[first + 2, :n] if 0 <= first + 2 < h else zeros[:n]
        return a, b, c
    total = scratch[:n]
    for m in range(n):
        total[m] = 0
    for d in range(k):
        q = first + d
        if wrap:
            q = q % h
        elif q < 0 or q >= h:
            continue
        source = rows[q, :n]
        for m in range(n):
            total[m] += source[m]
    return total, zeros[:n], zeros[:n]


@njit(**INNER)
def relu_both_row(n, a, b, c, ta, tb, tc, Qx, Qz, w, bias, S_out, T_out):
    for m in range(n):
        S = (a[m] + b[m] + c[m]) * w + bias
        T = (ta[m] + tb[m] + tc[m]) * w + S
        new, slope = relu(S, np.sqrt(Qx[m] * Qz[m]))
        S_out[m] = new
        T_out[m] = T * slope


@njit(**INNER)
def relu_nngp_row(n, a, b, c, Qx, Qz, w, bias, S_out):
    for m in range(n):
        S_out[m] = relu_nngp((a[m] + b[m] + c[m]) * w + bias, np.sqrt(Qx[m] * Qz[m]))


@njit(**INNER)
def erf_both_row(n, a, b, c, ta, tb, tc, Qx, Qz, w, bias, S_out, T_out):
    for m in range(n):
        S = (a[m] + b[m] + c[m]) * w + bias
        T = (ta[m] + tb[m] + tc[m]) * w + S
        new, slope = erf(S, np.sqrt(Qx[m] * Qz[m]), Qx[m], Qz[m])
        S_out[m] = new
        T_out[m] = T * slope


@njit(**INNER)
def erf_nngp_row(n, a, b, c, Qx, Qz, w, bias, S_out):
    for m in range(n):
        S = (a[m] + b[m] + c[m]) * w + bias
        new, _ = erf(S, np.sqrt(Qx[m] * Qz[m]), Qx[m], Qz[m])
        S_out[m] = new


@njit(**INNER)
def products(x, z, h, w, ox, oz, W, lanes, over_C, S, repeated, lines):
    """S[r, m] = Σ_c x[c]·z[c]/C on a rectangle that begins at ox in x and oz in z (offsets in pixels)."""
    n = w * lanes
    u = repeated[:n]
    for r in range(h):
        row = S[r, :n]
        i, j = ox + r * W, (oz + r * W) * lanes
        for c in range(x.shape[0]):
            repeat(x[c, i : i + w], lines, w, lanes)
            v = z[c, j : j + n]
            if c == 0:
                for m in range(n):
                    row[m] = u[m] * v[m]
            else:
                for m in range(n):
                    row[m] += u[m] * v[m]
        for m in range(n):
            row[m] *= over_C


@njit(**INNER)
def squares(z, n, over_C, S, H):
    """`products` of each image of a block with itself, in the same order."""
    for r in range(H):
        row = S[r, :n]
        for c in range(z.shape[0]):
            v = z[c, r * n : (r + 1) * n]
            if c == 0:
                for m in range(n):
                    row[m] = v[m] * v[m]
            else:
                for m in range(n):
                    row[m] += v[m] * v[m]
        for m in range(n):
            row[m] *= over_C


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
def variance_row(n, a, b, c, w, bias, is_relu, Q, S_out):
    for m in range(n):
        Q[m] = (a[m] + b[m] + c[m]) * w + bias
    if is_relu:
        for m in range(n):
            S_out[m] = Q[m]
    else:
        for m in range(n):
            new, _ = erf(Q[m], Q[m], Q[m], Q[m])
            S_out[m] = new


@njit(**INNER)
def add_up(plane, h, n, lanes, total):
    """total[lane] += Σ of a plane; rows in the planes' precision, their sum in float64."""
    for r in range(h):
        source = plane[r]
        sums = source[:lanes]
        for j in range(lanes, n, lanes):
            for m in range(lanes):
                sums[m] += source[j + m]
        for m in range(lanes):
            total[m] += sums[m]


@njit(**INNER)
def roll(z, Q, rolled_z, rolled_q, geometry, lanes, dy, dx):
    """A block displaced circularly by (dy, dx) pixels of the last layer: the pixels, and Q of every layer."""
    g = geometry[0]
    for c in range(len(z)):
        roll_one(
            z[c], rolled_z[c], g[H_IN], g[W_IN], 0, lanes, dy * g[STEP_Y] * g[SY], dx * g[STEP_X] * g[SX]
        )
    for l in range(len(geometry)):
        g = geometry[l]
        roll_one(Q, rolled_q, g[H_OUT], g[W_OUT], g[START] * lanes, lanes, dy * g[STEP_Y], dx * g[STEP_X])


@njit(**INNER)
def roll_one(source, target, H, W, start, lanes, dy, dx):
    n = W * lanes
    cut = (dx % W) * lanes
    for r in range(H):
        i, j = start + r * n, start + ((r + dy) % H) * n
        for m in range(n - cut):
            target[i + m] = source[j + cut + m]
        for m in range(cut):
            target[i + n - cut + m] = source[j + m]


@njit(nogil=True, cache=True, **SIMD)
def pairs(first, last, jobs, X, Z, QX, QZ, geometry, affine, over_C, tangent, pooled, lanes, out_S, out_T):
    """Σ over pixels (and displacements, if pooled) of the last S and T: (n, blocks·lanes) each, in float64.

    Args:
        first, last: which jobs; jobs: (k, 2) int64, pairs (image of X, block of Z). Other entries stay.
        X: (n, C, H·W); Z: (blocks, C, H·W·lanes); QX, QZ: their variances.
        pooled: all displacements (GAP) or 0 alone (VEC).
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
    for k in range(first, last):
        i, block = jobs[k]
        z, qz = Z[block], QZ[block]
        sum_S, sum_T = np.zeros(lanes), np.zeros(lanes)
        for dy in range(0 if wrap else 1 - reach_y, reach_y):
            for dx in range(0 if wrap else 1 - reach_x, reach_x):
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
                add_up(S, h, w * lanes, lanes, sum_S)
                if tangent:
                    add_up(T, h, w * lanes, lanes, sum_T)
        for m in range(lanes):
            out_S[i, block * lanes + m] = sum_S[m]
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
