"""Device code: a tile of pairs from the leaves of the tree (kernels/tree.py) to the kernel, stored or multiplied by vectors.

    leaf     D = ½|x̂ − ẑ|², E = ½|x̂ + ẑ|² of unit vectors
    mean     D = ½Σ(a_v − b_v)² + Σ a_v·b_v·D_v,   a_v = √(Qx[v]/ΣQx), b_v likewise: all terms ≥ 0, so that nothing cancels

A long leaf is a GEMM, whose 1 − c is noise near c = ±1: rows of a tile that hold nearly parallel pairs get D and E anew.
A short leaf, a patch, is the sum of squares itself.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from kernreg.kernels.triton_maps import ERF, RBF, RELU, TINY, affine, erf, rbf, relu

COLUMNS = tl.constexpr(5)  # of the table of deviations
AFTER, SHARE = tl.constexpr(3), tl.constexpr(4)  # two of them

COUNTS = ("n", "m", "stages", "tops", "readouts", "count", "each")  # one compiled kernel for all of them


@triton.jit
def deviations(table, node, rows, ld):
    """√Q of a node's input, after the affine step, its inverse, after the activation, and √(Q/ΣQ) among its siblings."""
    at = table + node * COLUMNS * ld + rows
    return tl.load(at), tl.load(at + ld), tl.load(at + 2 * ld), tl.load(at + 3 * ld), tl.load(at + 4 * ld)


@triton.jit
def long_leaf(
    x, z, i, j, rows, cols, q, ld_x, ld_z, SAME: tl.constexpr, NEAR: tl.constexpr, PRECISION: tl.constexpr,
    SEGMENT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """D and E of leaf i of x and leaf j of z; x: (n, leaves·q), q a multiple of BK, padded with zeros."""
    k = tl.arange(0, BK)
    x_rows, z_rows = rows * ld_x + i * q, cols * ld_z + j * q
    x_at, z_at = x + x_rows[:, None] + k[None, :], z + z_rows[None, :] + k[:, None]
    c = tl.zeros((BM, BN), x.dtype.element_ty)
    for start in range(0, q, SEGMENT):  # short sums: a long one loses digits of 1 − c
        part = tl.zeros((BM, BN), x.dtype.element_ty)
        for term in range(start, tl.minimum(start + SEGMENT, q), BK):
            part = tl.dot(tl.load(x_at + term), tl.load(z_at + term), part, PRECISION, out_dtype=c.dtype)
        c += part
    # one number for both, to save registers: D where it is the smaller, else −E
    s = tl.where(c < 0, -1.0 - c, 1.0 - c)
    place = tl.arange(0, BM)
    # not the copies of the last row that fill a ragged tile
    near = (tl.abs(s) < NEAR) & (rows - tl.min(rows, axis=0) == place)[:, None]
    if SAME:
        itself = (rows[:, None] == cols[None, :]) & (i == j)
        s = tl.where(itself, 0.0, s)
        near = near & (itself == 0)
    waiting = tl.where(tl.max(near.to(tl.int32), axis=1) > 0, place, BM)
    row = tl.min(waiting, axis=0)
    while row < BM:
        x_row = tl.sum(tl.where(place == row, x_rows, 0), axis=0)
        apart, across = line(x, z, x_row, z_rows, q, BN, BK)
        exact = tl.where(across < apart, -tl.maximum(across, TINY), apart)
        s = tl.where((place == row)[:, None] & (tl.abs(s) < NEAR), exact[None, :], s)
        row = tl.min(tl.where(waiting > row, waiting, BM), axis=0)
    return tl.where(s < 0, 2.0 + s, s), tl.where(s < 0, -s, 2.0 - s)


@triton.jit
def line(x, z, x_row, z_rows, q, BN: tl.constexpr, BK: tl.constexpr):
    """½|x̂ ∓ ẑ|² of one row of x and all columns of the tile."""
    k = tl.arange(0, BK)
    minus = tl.zeros((BN, BK), x.dtype.element_ty)
    plus = tl.zeros((BN, BK), x.dtype.element_ty)
    for start in range(0, q, BK):
        a = tl.load(x + x_row + start + k)[None, :]
        b = tl.load(z + z_rows[:, None] + start + k[None, :])
        minus += (a - b) * (a - b)
        plus += (a + b) * (a + b)
    return halves(tl.sum(minus, axis=1), tl.sum(plus, axis=1))


@triton.jit
def short_leaf(x, z, i, j, rows, cols, q, ld_x, ld_z, BM: tl.constexpr, BN: tl.constexpr):
    """D and E; x: (leaves·q, n)."""
    minus = tl.zeros((BM, BN), x.dtype.element_ty)
    plus = tl.zeros((BM, BN), x.dtype.element_ty)
    x_at, z_at = x + i * q * ld_x + rows, z + j * q * ld_z + cols
    for _ in range(q):
        a, b = tl.load(x_at)[:, None], tl.load(z_at)[None, :]
        minus += (a - b) * (a - b)
        plus += (a + b) * (a + b)
        x_at += ld_x
        z_at += ld_z
    return halves(minus, plus)


@triton.jit
def halves(minus, plus):
    """(D, E) of |x̂ ∓ ẑ|²: divided by their sum, which is 4 but for rounding; two zero vectors count as orthogonal."""
    total = minus + plus
    factor = tl.where(total > 0, 2.0 / tl.where(total > 0, total, 1.0), 0.0)
    return tl.where(total > 0, factor * minus, 1.0), tl.where(total > 0, factor * plus, 1.0)


@triton.jit
def stage(
    D, E, T, s, i, j, rows, cols, tables, steps, NTK: tl.constexpr, SIGNED: tl.constexpr, KINDS: tl.constexpr
):
    """Affine step and activation of node i of x and node j of z in stage s."""
    x_table, z_table, ld_x, ld_z = tables
    starts, affines, kinds, _ = steps
    if not SIGNED:
        E = D  # 2 − D where it is wanted, and no register until then
    first = tl.load(starts + s)
    u, u_new, u_inverse, u_after, _ = deviations(x_table, first + i, rows, ld_x)
    v, v_new, v_inverse, v_after, _ = deviations(z_table, first + j, cols, ld_z)
    w, b = tl.load(affines + 2 * s), tl.load(affines + 2 * s + 1)
    D, E, T = affine(D, E, T, u, v, u_new, v_new, u_inverse, v_inverse, w, b, NTK, SIGNED)
    kind = tl.load(kinds + s)
    if KINDS & 2:  # noqa: SIM102  (one is known to the compiler, the other is not)
        if kind == RELU:
            D, E, T = relu(D, E, T, NTK, SIGNED)
    if KINDS & 4:  # noqa: SIM102
        if kind == ERF:
            D, E, T = erf(D, E, T, u_new, v_new, u_after, v_after, NTK)
    if KINDS & 8:  # noqa: SIM102
        if kind == RBF:
            D, E, T = rbf(D, T, u_new, v_new, NTK)
    return D, E, T


@triton.jit
def node(
    LEVEL: tl.constexpr, i, j, rows, cols, leaves, tables, steps, NTK: tl.constexpr, SIGNED: tl.constexpr,
    KINDS: tl.constexpr, LONG: tl.constexpr, SAME: tl.constexpr, NEAR: tl.constexpr, PRECISION: tl.constexpr,
    SEGMENT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """D, E, T of node i of x and node j of z after stage LEVEL, and all below it."""
    x, z, q, ld_x, ld_z = leaves
    x_table, z_table, ld_xt, ld_zt = tables
    starts, groups = steps[0], steps[3]
    T = tl.zeros((BM, BN), x.dtype.element_ty)
    if LEVEL == 0:
        if LONG:
            D, E = long_leaf(
                x, z, i, j, rows, cols, q, ld_x, ld_z, SAME, NEAR, PRECISION, SEGMENT, BM, BN, BK
            )
        else:
            D, E = short_leaf(x, z, i, j, rows, cols, q, ld_x, ld_z, BM, BN)
        # signs end with the first activation, if it is none of an erf
        D, E, T = stage(D, E, T, 0, i, j, rows, cols, tables, steps, NTK, True, KINDS)
    else:
        D = tl.zeros((BM, BN), x.dtype.element_ty)
        E = tl.zeros((BM, BN), x.dtype.element_ty)
        below = tl.load(starts + LEVEL - 1)
        count = tl.load(groups + LEVEL)
        for child in range(count):
            k, l = i * count + child, j * count + child
            d, e, t = node(
                LEVEL - 1, k, l, rows, cols, leaves, tables, steps, NTK, SIGNED, KINDS, LONG, SAME, NEAR, PRECISION,
                SEGMENT, BM, BN, BK,
            )  # fmt: skip
            a = deviations(x_table, below + k, rows, ld_xt)[SHARE][:, None]
            b = deviations(z_table, below + l, cols, ld_zt)[SHARE][None, :]
            gap = 0.5 * ((a - b) * (a - b))
            D += gap + a * b * d
            if SIGNED:
                E += gap + a * b * e
            if NTK:
                T += t
        if NTK:
            T = T / count.to(x.dtype.element_ty)
        D, E, T = stage(D, E, T, LEVEL, i, j, rows, cols, tables, steps, NTK, SIGNED, KINDS)
    return D, E, T


@triton.jit
def top(
    i, j, rows, cols, leaves, tables, steps, stages, LEVELS: tl.constexpr, NTK: tl.constexpr, SIGNED: tl.constexpr,
    KINDS: tl.constexpr, LONG: tl.constexpr, SAME: tl.constexpr, NEAR: tl.constexpr, PRECISION: tl.constexpr,
    SEGMENT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """(NNGP, NTK) of node i of x and node j of z after the last stage."""
    x_table, z_table, ld_x, ld_z = tables
    D, E, T = node(
        LEVELS, i, j, rows, cols, leaves, tables, steps, NTK, SIGNED, KINDS, LONG, SAME, NEAR, PRECISION, SEGMENT, BM, BN, BK,
    )  # fmt: skip
    for s in range(LEVELS + 1, stages):
        D, E, T = stage(D, E, T, s, i, j, rows, cols, tables, steps, NTK, SIGNED, KINDS)
    last = tl.load(steps[0] + stages - 1)
    u, v = deviations(x_table, last + i, rows, ld_x)[AFTER], deviations(z_table, last + j, cols, ld_z)[AFTER]
    return (u[:, None] * v[None, :]) * (1.0 - D), T


@triton.jit
def values(
    rows, cols, leaves, tables, steps, scales, stages, tops, readout, readouts, LEVELS: tl.constexpr,
    POOLED: tl.constexpr, NTK: tl.constexpr, SIGNED: tl.constexpr, KINDS: tl.constexpr, LONG: tl.constexpr,
    SAME: tl.constexpr, NEAR: tl.constexpr, PRECISION: tl.constexpr, SEGMENT: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """(NNGP, NTK) of a tile; the NTK is 0 unless asked for."""
    real: tl.constexpr = scales[0].dtype.element_ty
    if POOLED:
        S = tl.zeros((BM, BN), real)
        T = tl.zeros((BM, BN), real)
        for i in range(tops):
            S_row = tl.zeros((BM, BN), real)
            T_row = tl.zeros((BM, BN), real)
            for j in range(tops):
                s, t = top(
                    i, j, rows, cols, leaves, tables, steps, stages, LEVELS, NTK, SIGNED, KINDS, LONG, SAME, NEAR,
                    PRECISION, SEGMENT, BM, BN, BK,
                )  # fmt: skip
                S_row += s
                if NTK:
                    T_row += t
            S += S_row
            if NTK:
                T += T_row
        pairs = (tops * tops).to(real)
        S, T = scaled(S / pairs, T / pairs, rows, cols, scales, NTK)
        for r in range(readouts):
            w, b = tl.load(readout + 2 * r), tl.load(readout + 2 * r + 1)
            S = w * S + b
            if NTK:
                T = S + w * T
    else:
        S, T = top(
            0, 0, rows, cols, leaves, tables, steps, stages, LEVELS, NTK, SIGNED, KINDS, LONG, SAME, NEAR, PRECISION,
            SEGMENT, BM, BN, BK,
        )  # fmt: skip
        S, T = scaled(S, T, rows, cols, scales, NTK)
    return S, T


@triton.jit
def scaled(S, T, rows, cols, scales, NTK: tl.constexpr):
    x_scale, z_scale = tl.load(scales[0] + rows)[:, None], tl.load(scales[1] + cols)[None, :]
    if NTK:
        T = T * x_scale * z_scale
    return S * x_scale * z_scale, T


@triton.jit
def store(K, out, rows, cols, n, m, ld, SAME: tl.constexpr):
    """One tile; of K(x, x) the entries on and above the diagonal, and each of them mirrored."""
    inside = (rows[:, None] < n) & (cols[None, :] < m)
    if SAME:
        tl.store(out + rows[:, None] * ld + cols[None, :], K, mask=inside & (rows[:, None] <= cols[None, :]))
        mirrored = inside & (rows[:, None] < cols[None, :])
        tl.store(out + cols[:, None] * ld + rows[None, :], tl.trans(K), mask=tl.trans(mirrored))
    else:
        tl.store(out + rows[:, None] * ld + cols[None, :], K, mask=inside)


@triton.jit(do_not_specialize=COUNTS)
def gram_kernel(
    x, z, x_table, z_table, x_scale, z_scale, starts, affines, kinds, groups, readout, tiles, nngp, ntk,
    n, m, q, ld_x, ld_z, ld_xt, ld_zt, ld_nngp, ld_ntk, stages, tops, readouts,
    LEVELS: tl.constexpr, POOLED: tl.constexpr, NNGP: tl.constexpr, NTK: tl.constexpr, SIGNED: tl.constexpr,
    KINDS: tl.constexpr, LONG: tl.constexpr, SAME: tl.constexpr, NEAR: tl.constexpr, PRECISION: tl.constexpr,
    SEGMENT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One program, one tile: entry (rows, columns) of the list `tiles`."""
    tile = tiles + 2 * tl.program_id(0).to(tl.int64)
    rows = tl.load(tile).to(tl.int64) * BM + tl.arange(0, BM)
    cols = tl.load(tile + 1).to(tl.int64) * BN + tl.arange(0, BN)
    leaves = (x, z, q, tl.cast(ld_x, tl.int64), tl.cast(ld_z, tl.int64))
    tables = (x_table, z_table, tl.cast(ld_xt, tl.int64), tl.cast(ld_zt, tl.int64))
    steps = (starts, affines, kinds, groups)
    # rows beyond the last are computed as the last, and not stored
    S, T = values(
        tl.minimum(rows, n - 1), tl.minimum(cols, m - 1), leaves, tables, steps, (x_scale, z_scale), stages, tops, readout,
        readouts, LEVELS, POOLED, NTK, SIGNED, KINDS, LONG, SAME, NEAR, PRECISION, SEGMENT, BM, BN, BK,
    )  # fmt: skip
    if NNGP:
        store(S, nngp, rows, cols, n, m, tl.cast(ld_nngp, tl.int64), SAME)
    if NTK:
        store(T, ntk, rows, cols, n, m, tl.cast(ld_ntk, tl.int64), SAME)


@triton.jit(do_not_specialize=COUNTS)
def product_kernel(
    x, z, x_table, z_table, x_scale, z_scale, starts, affines, kinds, groups, readout, vectors, out,
    n, m, q, ld_x, ld_z, ld_xt, ld_zt, ld_v, stages, tops, readouts, count, each,
    LEVELS: tl.constexpr, POOLED: tl.constexpr, NTK: tl.constexpr, SIGNED: tl.constexpr, KINDS: tl.constexpr,
    LONG: tl.constexpr, SAME: tl.constexpr, NEAR: tl.constexpr, PRECISION: tl.constexpr, SEGMENT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Program (i, p, c): block row i times BC vectors from c·BC on, summed over block columns p·each … (p+1)·each − 1.

    vectors: (count, m); out: (parts, count, n). Sums in the precision of the vectors.
    """
    block, part, first = tl.program_id(0), tl.program_id(1), tl.program_id(2) * BC
    rows = block.to(tl.int64) * BM + tl.arange(0, BM)
    ld_v = tl.cast(ld_v, tl.int64)
    leaves = (x, z, q, tl.cast(ld_x, tl.int64), tl.cast(ld_z, tl.int64))
    tables = (x_table, z_table, tl.cast(ld_xt, tl.int64), tl.cast(ld_zt, tl.int64))
    steps = (starts, affines, kinds, groups)
    lane = tl.arange(0, BC)
    wide: tl.constexpr = out.dtype.element_ty
    total = tl.zeros((BM, BC), wide)
    for t in range(part * each, tl.minimum((part + 1) * each, tl.cdiv(m, BN))):
        cols = tl.cast(t, tl.int64) * BN + tl.arange(0, BN)
        S, T = values(
            tl.minimum(rows, n - 1), tl.minimum(cols, m - 1), leaves, tables, steps, (x_scale, z_scale), stages, tops,
            readout, readouts, LEVELS, POOLED, NTK, SIGNED, KINDS, LONG, SAME, NEAR, PRECISION, SEGMENT, BM, BN, BK,
        )  # fmt: skip
        K = S
        if NTK:
            K = T
        K = K.to(wide)
        for c in range(tl.minimum(BC, count - first)):
            v = tl.load(vectors + (first + c) * ld_v + cols, mask=cols < m, other=0.0)
            y = tl.sum(K * v[None, :], axis=1)
            total += tl.where(lane[None, :] == c, y[:, None], 0.0)
    at = out + (part.to(tl.int64) * count + first + lane)[None, :] * tl.cast(n, tl.int64) + rows[:, None]
    tl.store(at, total, mask=(rows[:, None] < n) & ((first + lane)[None, :] < count))
