"""Rows of a plane: the inner loops of `stencil.py`, each a flat loop over columns × lanes that fills SIMD registers.

They hold no reference counts and allocate nothing (`INNER`), because a count is an atomic instruction; so those that return views
may be called from such functions only.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import njit

from kernreg.kernels.maps import INNER, erf, lanes_of, relu, relu_nngp
from kernreg.kernels.program import (
    H_IN,
    H_OUT,
    KX,
    KY,
    LOW_X,
    LOW_Y,
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
def add_up_weighted(plane, h, w, lanes, weight_y, weight_x, total):
    """`add_up` with a weight for each row and column, in float64."""
    for r in range(h):
        source = plane[r]
        for j in range(w):
            weight = weight_y[r] * weight_x[j]
            for m in range(lanes):
                total[m] += weight * source[j * lanes + m]


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
