// One plane on threads: S and T of one shift of one pair of images, in registers from the first layer to the last.
//
// A thread has ROWS × COLUMNS pixels; LANES threads make a row of the plane, GROUPS of them the whole plane (kernels/planes.py
// chooses). A box sum is a horizontal half, COLUMNS − 1 of whose neighbours are in the same thread and the others one shuffle
// away, and a vertical half on rows of the same thread; only the rows at the edge of a group pass through shared memory.
//
// A circular shift (sy, sx) of z holds up to four displacements, divided by a row and a column that no window may cross
// ("cuts"). They are factors 0 and 1 of the multiply-adds that the sums consist of. Neighbours join from the outermost inwards, in
// the same order everywhere, so that equal patches have equal sums wherever they lie.
#pragma once
#include "maps.cuh"

constexpr int H = KR_HEIGHT, W = KR_WIDTH, ROWS = KR_ROWS;
constexpr int LANES = W / COLUMNS, GROUPS = H / ROWS;
constexpr int UNITS = 32 / LANES; // groups that a warp has room for
constexpr bool IN_WARP = GROUPS <= UNITS;
constexpr int PLANES = IN_WARP ? UNITS / GROUPS : 1; // of a warp
constexpr int WARPS = KR_WARPS;                      // of a block
constexpr int SLOTS = IN_WARP ? WARPS * PLANES : 1;  // planes that a block works on at a time
constexpr int LOW_Y = KR_LOW_Y, HIGH_Y = KR_HIGH_Y, LOW_X = KR_LOW_X, HIGH_X = KR_HIGH_X; // a window's reach
constexpr bool WRAP = KR_CIRCULAR, TANGENT = KR_TANGENT;
constexpr bool EXCHANGE = LOW_Y + HIGH_Y > 0 && (GROUPS > 1 || WRAP);
constexpr int EDGE = ROWS < LOW_Y + HIGH_Y ? ROWS : LOW_Y + HIGH_Y; // rows of a group that others read
constexpr int EDGES = EXCHANGE ? (TANGENT ? 2 : 1) * GROUPS * EDGE * W : VECTOR; // shared numbers of a plane

static_assert(LANES * COLUMNS == W && GROUPS * ROWS == H && LANES <= 32 && COLUMNS % VECTOR == 0, "layout");
static_assert(IN_WARP || WARPS * UNITS >= GROUPS, "a plane has more groups than the block has room for");

using Tile = real[ROWS][COLUMNS];

struct Place {
    int slot, group, column; // plane of the block, group of its rows, first column
    int left, right;         // lanes with the neighbouring columns
    bool used;               // some lanes of a warp have no part; they go through the motions on group 0
};

DEVICE Place place() {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, unit = lane / LANES, j = lane % LANES;
    Place at;
    if (IN_WARP) {
        at.used = unit < PLANES * GROUPS;
        at.group = at.used ? unit % GROUPS : 0;
        at.slot = warp * PLANES + (at.used ? unit / GROUPS : 0);
    } else {
        at.used = unit < UNITS && warp * UNITS + unit < GROUPS;
        at.group = at.used ? warp * UNITS + unit : 0;
        at.slot = 0;
    }
    at.column = j * COLUMNS;
    at.left = !at.used ? lane : j > 0 ? lane - 1 : lane + LANES - 1;
    at.right = !at.used ? lane : j < LANES - 1 ? lane + 1 : lane - j;
    return at;
}

DEVICE void meet() {
    if (IN_WARP) __syncwarp();
    else __syncthreads();
}

struct Cuts {
    real across[COLUMNS + 1]; // 0 where column c − 1 must not meet column c, else 1
    float row;                // the local row that must not meet the one above it
};

template <bool SHIFTED> DEVICE Cuts cuts(const Place &at, int sy, int sx) {
    Cuts cut;
#pragma unroll
    for (int c = 0; c <= COLUMNS; ++c) {
        const int x = at.column + c;
        cut.across[c] = x == 0 || x == W || (SHIFTED && x == W - sx) ? real(0) : real(1);
    }
    cut.row = float(H - sy - at.group * ROWS);
    return cut;
}

// near + across·far, where both are known to be in one displacement without the factor
DEVICE real join(real near, real far, real across, bool open) { return open ? near + far : mad(across, far, near); }

template <bool SHIFTED> DEVICE void box(const real (&a)[COLUMNS], real (&sum)[COLUMNS], const Place &at, const Cuts &cut) {
    real low[COLUMNS], high[COLUMNS];
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) low[c] = high[c] = a[c];
#pragma unroll
    for (int d = 0; d < LOW_X; ++d) { // low[c] = a[c] + low[c − 1] of the round before
        const real from = LANES == 1 ? low[COLUMNS - 1] : __shfl_sync(ALL_LANES, low[COLUMNS - 1], at.left);
#pragma unroll
        for (int c = COLUMNS - 1; c > 0; --c) low[c] = join(a[c], low[c - 1], cut.across[c], WRAP || !SHIFTED);
        low[0] = join(a[0], from, cut.across[0], WRAP);
    }
#pragma unroll
    for (int d = 0; d < HIGH_X; ++d) {
        const bool last = d == HIGH_X - 1; // which joins the right side to the left one
        const real from = LANES == 1 ? high[0] : __shfl_sync(ALL_LANES, high[0], at.right);
#pragma unroll
        for (int c = 0; c < COLUMNS - 1; ++c)
            high[c] = join(last ? low[c] : a[c], high[c + 1], cut.across[c + 1], WRAP || !SHIFTED);
        high[COLUMNS - 1] = join(last ? low[COLUMNS - 1] : a[COLUMNS - 1], from, cut.across[COLUMNS], WRAP);
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) sum[c] = HIGH_X > 0 ? high[c] : low[c];
}

using Boxed = real[LOW_Y + ROWS + HIGH_Y][COLUMNS]; // horizontal sums of a thread's rows and of those around them

template <bool SHIFTED> DEVICE real stack(const Boxed &rows, int i, int c, const Cuts &cut) {
    const bool open = WRAP || !SHIFTED; // rows outside the image are 0
    real sum = rows[LOW_Y + i][c];
    if (LOW_Y > 0) {
        real above = rows[i][c];
#pragma unroll
        for (int d = LOW_Y - 1; d > 0; --d)
            above = join(rows[LOW_Y + i - d][c], above, cut.row != float(i - d) ? real(1) : real(0), open);
        sum = join(sum, above, cut.row != float(i) ? real(1) : real(0), open);
    }
    if (HIGH_Y > 0) {
        real below = rows[LOW_Y + i + HIGH_Y][c];
#pragma unroll
        for (int d = HIGH_Y - 1; d > 0; --d)
            below = join(rows[LOW_Y + i + d][c], below, cut.row != float(i + d + 1) ? real(1) : real(0), open);
        sum = join(sum, below, cut.row != float(i + 1) ? real(1) : real(0), open);
    }
    return sum;
}

DEVICE constexpr bool is_edge(int i) { return EXCHANGE && (i < HIGH_Y || i >= ROWS - LOW_Y); }

// Where local row i of a group lies in the shared memory of one plane.
DEVICE int edge(int group, int i) {
    const int k = ROWS <= LOW_Y + HIGH_Y || i < HIGH_Y ? i : i - ROWS + LOW_Y + HIGH_Y;
    return (group * EDGE + k) * W;
}

template <bool SHIFTED>
DEVICE void share(const Tile &tile, Boxed &rows, const Place &at, const Cuts &cut, real *edges) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
        if (is_edge(i)) {
            box<SHIFTED>(tile[i], rows[LOW_Y + i], at, cut);
            if (at.used) store(edges + edge(at.group, i) + at.column, rows[LOW_Y + i]);
        }
}

// The horizontal sums of local row i: a row of this thread, of another group, or outside the image.
template <bool SHIFTED>
DEVICE void fetch(int i, const Tile &tile, Boxed &rows, const Place &at, const Cuts &cut, const real *edges) {
    real(&row)[COLUMNS] = rows[LOW_Y + i];
    if (i >= 0 && i < ROWS) {
        if (!is_edge(i)) box<SHIFTED>(tile[i], row, at, cut);
        else if (i >= HIGH_Y) load(edges + edge(at.group, i) + at.column, row);
        return;
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) row[c] = 0;
    if (!EXCHANGE) return;
    const int away = i < 0 ? -((ROWS - 1 - i) / ROWS) : i / ROWS;
    const int group = at.group + away;
    if (WRAP) load(edges + edge((group + 8 * GROUPS) % GROUPS, i - away * ROWS) + at.column, row);
    else if (group >= 0 && group < GROUPS) load(edges + edge(group, i - away * ROWS) + at.column, row);
}

// Convolution and activation. `row_x`, `row_z`: the variances of x and of shifted z; SELF: x is z, and its variances,
// which are S itself, go to `own`.
template <bool SHIFTED, bool SELF, bool FIRST>
DEVICE void layer(Tile &S, Tile &T, const Place &at, const Cuts &cuts, const real *row_x, const real *row_z, int pitch_z,
                  real *own, real weight, real bias, real *edges) {
    constexpr bool WITH_T = TANGENT && !SELF, BOX_T = WITH_T && !FIRST; // T is 0 at the input
    Boxed rows, rows_T;
    Cuts cut = cuts;
    opaque(cut.row);
    real *const edges_T = edges + GROUPS * EDGE * W;
    if (EXCHANGE) {
        share<SHIFTED>(S, rows, at, cut, edges);
        if (BOX_T) share<SHIFTED>(T, rows_T, at, cut, edges_T);
        meet();
    }
#pragma unroll
    for (int i = -LOW_Y; i < HIGH_Y; ++i) {
        fetch<SHIFTED>(i, S, rows, at, cut, edges);
        if (BOX_T) fetch<SHIFTED>(i, T, rows_T, at, cut, edges_T);
    }
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
        fetch<SHIFTED>(i + HIGH_Y, S, rows, at, cut, edges);
        if (BOX_T) fetch<SHIFTED>(i + HIGH_Y, T, rows_T, at, cut, edges_T);
        real Qx[COLUMNS], Qz[COLUMNS];
        if (!SELF) {
            load(row_x + i * W, Qx);
            load(row_z + i * pitch_z, Qz);
        }
        real before[COLUMNS];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
            const real s = mad(stack<SHIFTED>(rows, i, c, cut), weight, bias);
            before[c] = s;
            real slope;
            activate<!FIRST>(s, SELF ? s : Qx[c], SELF ? s : Qz[c], S[i][c], slope);
            if (WITH_T) T[i][c] = (FIRST ? s : mad(stack<SHIFTED>(rows_T, i, c, cut), weight, s)) * slope;
        }
        if (SELF && at.used) store(own + i * W, before);
    }
}
