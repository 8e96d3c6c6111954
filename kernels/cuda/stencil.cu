// The depth-fused stencil: kernels of LCN, VEC, GAP, LCN-GAP and of local average pools, many pairs in one launch.
//
// A table holds an image of one side: its C channels, then the variances before each of its L activations, planes of H×W.
// `widen` makes the z side of shifted planes: rows (and columns, if loads are narrower than a thread's columns) twice, so that a
// circular shift is an offset, once for each alignment of a load.
#include "plane.cuh"

constexpr bool SHIFTED = KR_SHIFTED, WEIGHTED = KR_WEIGHTED, LOCAL = KR_LOCAL;
constexpr int WIDE_H = 2 * H, WIDE_W = COLUMNS > VECTOR ? 2 * W : W;
constexpr int ACROSS = KR_ACROSS; // pairs of a block: SLOTS / ACROSS rows of ACROSS

DEVICE double warp_total(double v) {
#pragma unroll
    for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(ALL_LANES, v, o);
    return v;
}

// Of one image, all layers: S and T in units of the last activation. `x`, `z`: tables at the thread's first pixel.
template <bool SHIFT, bool SELF>
DEVICE void plane(Tile &S, Tile &T, const Place &at, const Cuts &cut, const real *x, const real *z, real *own, int channels,
                  int layers, const real *affine, real *edges, int &side) {
    constexpr int pitch = SHIFT ? WIDE_W : W, step = SHIFT ? WIDE_H * WIDE_W : H * W;
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) S[i][c] = T[i][c] = 0;
#pragma unroll 1
    for (int k = 0; k < channels; ++k, x += H * W, z += step) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            real u[COLUMNS], v[COLUMNS];
            load(x + i * W, u);
            load(z + i * pitch, v);
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) S[i][c] = mad(u[c], v[c], S[i][c]);
        }
    }
    layer<SHIFT, SELF, true>(S, T, at, cut, x, z, pitch, own, affine[0], affine[1], edges + side * SLOTS * EDGES);
#pragma unroll 1
    for (int l = 1; l < layers; ++l) {
        side ^= 1; // the other half of the shared memory, so that a layer needs to meet once
        x += H * W, z += step, affine += 2;
        if (SELF) own += H * W;
        layer<SHIFT, SELF, false>(S, T, at, cut, x, z, pitch, own, affine[0], affine[1], edges + side * SLOTS * EDGES);
    }
    side ^= 1;
}

// Rows (n, H, W, C) to the first C planes of their tables, divided by a scale: the root mean square of each image if
// `homogeneous` is set, else `unit`. One warp an image. top: largest magnitude.
template <typename In>
DEVICE void images(const In *rows, real *tables, double *scale, double *top, int channels, int layers, double unit,
                   int homogeneous) {
    const long long image = blockIdx.x;
    const In *row = rows + image * H * W * channels;
    real *table = tables + image * (channels + layers) * H * W;
    double largest = 0, squares = 0, divisor = unit;
    for (int e = threadIdx.x; e < H * W * channels; e += 32) largest = fmax(largest, fabs(double(row[e])));
#pragma unroll
    for (int o = 16; o > 0; o /= 2) largest = fmax(largest, __shfl_xor_sync(ALL_LANES, largest, o));
    if (homogeneous) {
        const double by = largest > 0 ? largest : 1;
        for (int e = threadIdx.x; e < H * W * channels; e += 32) squares += (row[e] / by) * (row[e] / by);
        squares = warp_total(squares) / (double(H * W) * channels);
        divisor = squares > 0 ? by * sqrt(squares) : 1;
    }
    for (int e = threadIdx.x; e < H * W * channels; e += 32)
        table[(e % channels) * (H * W) + e / channels] = real(row[e] / divisor);
    if (threadIdx.x == 0) scale[image] = divisor, top[image] = largest;
}

extern "C" __global__ void images_float32(const float *rows, real *tables, double *scale, double *top, int channels,
                                          int layers, double unit, int homogeneous) {
    images(rows, tables, scale, top, channels, layers, unit, homogeneous);
}

extern "C" __global__ void images_float64(const double *rows, real *tables, double *scale, double *top, int channels,
                                          int layers, double unit, int homogeneous) {
    images(rows, tables, scale, top, channels, layers, unit, homogeneous);
}

// The other L planes of the tables: shift 0 of each image with itself, through the code of the pairs. SLOTS images a block.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
variances(real *tables, const real *__restrict__ affine, int n, int channels, int layers) {
    DYNAMIC_SHARED(real, edges); // 2·SLOTS·EDGES
    const Place at = place();
    const long long image = (long long)blockIdx.x * SLOTS + at.slot;
    Place mine = at;
    mine.used = at.used && image < n;
    const int first = at.group * ROWS * W + at.column;
    const real *x = tables + (image < n ? image : n - 1) * (channels + layers) * H * W + first;
    Tile S, T;
    int side = 0;
    plane<false, true>(S, T, mine, cuts<false>(at, 0, 0), x, x, const_cast<real *>(x) + (long long)channels * H * W,
                       channels, layers, affine, edges + at.slot * EDGES, side);
}

// Σ_p √Q of the last layer, for a global average pool over a locally connected one. One warp an image.
extern "C" __global__ void roots(const real *__restrict__ tables, double *sums, int channels, int layers) {
    const long long image = blockIdx.x;
    const real *last = tables + (image * (channels + layers) + channels + layers - 1) * H * W;
    double sum = 0;
    for (int p = threadIdx.x; p < H * W; p += 32) sum += sqrt(double(last[p]));
    sum = warp_total(sum);
    if (threadIdx.x == 0) sums[image] = sum;
}

// wide[image][a][plane][row][column] = table[plane][row mod H][(column + a) mod W]
extern "C" __global__ void widen(const real *__restrict__ tables, real *__restrict__ wide, long long size, int planes) {
    for (long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x; k < size; k += (long long)gridDim.x * blockDim.x) {
        const int column = int(k % WIDE_W), row = int(k / WIDE_W % WIDE_H), plane = int(k / (WIDE_H * WIDE_W) % planes);
        const long long copy = k / (WIDE_H * WIDE_W) / planes, image = copy / VECTOR;
        wide[k] = tables[((image * planes + plane) * H + row % H) * W + (column + int(copy % VECTOR)) % W];
    }
}

// Σ over pixels of the last S and T. SHIFTED: and over shifts[0 … count − 1], numbers sy·W + sx, per_slot of them in each
// slot of a block, `parts` blocks a pair; sums (n, m, parts). Otherwise shift 0 alone; sums (n, m). Pairs below the diagonal
// of a `symmetric` matrix are left out. weights_y[sy][row of x], weights_x[sx][column of x]: of a local average pool.
extern "C" __global__ void __launch_bounds__(32 * WARPS, KR_BLOCKS)
pairs(const real *__restrict__ X, const real *__restrict__ Z, const real *__restrict__ affine,
      const int *__restrict__ shifts, const real *__restrict__ weights_y, const real *__restrict__ weights_x,
      double *__restrict__ sums_S, double *__restrict__ sums_T, int n, int m, int channels, int layers, int count,
      int per_slot, int parts, int symmetric, int row0, int column0) {
    DYNAMIC_SHARED(real, edges); // 2·SLOTS·EDGES
    SHARED(double, totals, 2 * WARPS);
    const Place at = place();
    const int planes = channels + layers, first = at.group * ROWS * W + at.column;
    long long i, j;
    int part = 0;
    if (SHIFTED) {
        i = blockIdx.y, j = blockIdx.x / parts, part = blockIdx.x % parts;
        if (symmetric && column0 + j < row0 + i) return;
    } else {
        const long long i0 = (long long)blockIdx.y * (SLOTS / ACROSS), j0 = (long long)blockIdx.x * ACROSS;
        if (symmetric && column0 + j0 + ACROSS - 1 < row0 + i0) return;
        i = i0 + at.slot / ACROSS, j = j0 + at.slot % ACROSS;
    }
    const bool inside = i < n && j < m;
    const real *x = X + (i < n ? i : n - 1) * planes * H * W + first;
    const real *z = Z + (j < m ? j : m - 1) * planes * (SHIFTED ? VECTOR * WIDE_H * WIDE_W : H * W);
    double sum_S = 0, sum_T = 0;
    int side = 0;
    Tile S, T;
#pragma unroll 1
    for (int turn = 0; turn < (SHIFTED ? per_slot : 1); ++turn) {
        int sy = 0, sx = 0;
        bool counts = at.used;
        const real *shifted = z + first;
        if (SHIFTED) {
            const int k = (part * per_slot + turn) * SLOTS + at.slot;
            counts = at.used && k < count;
            const int shift = shifts[k < count ? k : 0];
            sy = shift / W, sx = shift % W;
            const int aligned = at.column + sx - sx % VECTOR;
            shifted = z + (long long)(sx % VECTOR) * planes * WIDE_H * WIDE_W + (at.group * ROWS + sy) * WIDE_W +
                      (WIDE_W == W && aligned >= W ? aligned - W : aligned);
        }
        plane<SHIFTED, false>(S, T, at, cuts<SHIFTED>(at, sy, sx), x, shifted, nullptr, channels, layers, affine,
                              edges + at.slot * EDGES, side);
        if (LOCAL && !KR_ERF) {
            // in units of the ReLU, √(Qx[p]·Qz[p']) between different pixels: here less than nothing at p = p' (kernels.md)
            const real *last_x = x + (planes - 1) * H * W, *last_z = shifted + (planes - 1) * H * W;
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) S[r][c] -= root(last_x[r * W + c] * last_z[r * W + c]);
        }
        if (WEIGHTED) {
#pragma unroll
            for (int r = 0; r < ROWS; ++r)
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) {
                    const real w = weights_y[sy * H + at.group * ROWS + r] * weights_x[sx * W + at.column + c];
                    S[r][c] *= w;
                    if (TANGENT) T[r][c] *= w;
                }
        }
        if (counts) {
            sum_S += double(total<ROWS * COLUMNS>(&S[0][0]));
            if (TANGENT) sum_T += double(total<ROWS * COLUMNS>(&T[0][0]));
        }
    }
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (SHIFTED || !IN_WARP) { // all threads of the block belong to one pair
        sum_S = warp_total(sum_S), sum_T = warp_total(sum_T);
        if (lane == 0) totals[2 * warp] = sum_S, totals[2 * warp + 1] = sum_T;
        __syncthreads();
        if (threadIdx.x != 0 || !inside) return;
        for (int w = 1; w < WARPS; ++w) sum_S += totals[2 * w], sum_T += totals[2 * w + 1];
    } else { // a plane has LANES·GROUPS neighbouring lanes: halve them
        const int k = lane % (LANES * GROUPS);
        int live = LANES * GROUPS;
#pragma unroll
        for (int o = 16; o > 0; o /= 2) {
            const double S_far = __shfl_down_sync(ALL_LANES, sum_S, o), T_far = __shfl_down_sync(ALL_LANES, sum_T, o);
            if (k + o < live) sum_S += S_far, sum_T += T_far;
            if (o < live) live = o;
        }
        if (k != 0 || !at.used || !inside) return;
    }
    const long long place_in = (i * m + j) * parts + part;
    sums_S[place_in] = sum_S;
    if (TANGENT) sums_T[place_in] = sum_T;
}

// From sums to kernels: mean, scales of the images, dense layers (σw², σb²), at (row0, column0) of a matrix of that width.
// `roots`: see above. Symmetric: both halves at once.
extern "C" __global__ void readout(const double *__restrict__ sums_S, const double *__restrict__ sums_T,
                                   const double *__restrict__ scale_x, const double *__restrict__ scale_z,
                                   const double *__restrict__ roots_x, const double *__restrict__ roots_z,
                                   const double *__restrict__ dense, real *nngp, real *ntk, double factor, long long n,
                                   long long m, long long width, int parts, int layers, int symmetric, long long row0,
                                   long long column0) {
    for (long long k = (long long)blockIdx.x * blockDim.x + threadIdx.x; k < n * m; k += (long long)gridDim.x * blockDim.x) {
        const long long i = k / m, j = k % m, row = row0 + i, column = column0 + j;
        if (symmetric && column < row) continue;
        double S = 0, T = 0;
        for (int part = 0; part < parts; ++part) {
            S += sums_S[k * parts + part];
            if (TANGENT) T += sums_T[k * parts + part];
        }
        if (LOCAL && !KR_ERF) S += roots_x[i] * roots_z[j];
        const double scale = factor * scale_x[i] * scale_z[j];
        S *= scale, T *= scale;
        for (int l = 0; l < layers; ++l) {
            S = dense[2 * l] * S + dense[2 * l + 1];
            T = dense[2 * l] * T + S;
        }
        if (nngp) {
            nngp[row * width + column] = real(S);
            if (symmetric) nngp[column * width + row] = real(S);
        }
        if (ntk) {
            ntk[row * width + column] = real(T);
            if (symmetric) ntk[column * width + row] = real(T);
        }
    }
}
