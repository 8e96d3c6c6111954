// Numbers: float or double, their approximate roots, and loads of a few neighbours at once.
//
// Fused multiply-adds are written out, and the compiler makes none of its own: identical patches must give identical bits in
// every kernel (docs/kernels.md, Precision). What the tests replace when they run this on a CPU is behind KR_ON_CPU.
#pragma once

#define DEVICE __device__ __forceinline__
#define ALL_LANES 0xffffffffu

#if KR_FLOAT64
using real = double;
#else
using real = float;
#endif

#ifndef KR_ON_CPU
#define SHARED(type, name, size) __shared__ type name[size]
#define DYNAMIC_SHARED(type, name) \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    type *const name = reinterpret_cast<type *>(dynamic_shared)

DEVICE float root(float a) {
    float r;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
    return r;
}
DEVICE float inverse_root(float a) {
    float r;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
    return r;
}
DEVICE float inverse(float a) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
    return r;
}
DEVICE double inverse_root_seed(double a) { // to 2^-20
    double r;
    asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(r) : "d"(a));
    return r;
}
#endif

// Keeps the compiler from computing what depends on `a` once for all layers: registers are dearer than a comparison.
DEVICE void opaque(float &a) {
#ifndef KR_ON_CPU
    asm volatile("" : "+f"(a));
#endif
}


DEVICE float mad(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE double mad(double a, double b, double c) { return fma(a, b, c); }
// The library's roots take three times as long, for the last bit and for arguments that do not occur: a is normal and positive.
DEVICE double inverse_root(double a) {
    const double y = inverse_root_seed(a), e = fma(-(a * y), y, 1.0);
    return fma(y * e, fma(0.375, e, 0.5), y); // third order: 2^-20 becomes 2^-60
}
DEVICE double root(double a) { return a * inverse_root(a + 2.2250738585072014e-308); }
DEVICE double inverse(double a) { return 1.0 / a; }

DEVICE float magnitude(float a) { return fabsf(a); }
DEVICE double magnitude(double a) { return fabs(a); }

// The smallest normal number: p + TINY is p, unless p is 0.
DEVICE real tiny() { return KR_FLOAT64 ? real(2.2250738585072014e-308) : real(1.17549435e-38f); }

// c[0] + c[1]·t + …, written out by the unrolled loop
template <int N> DEVICE real horner(const real (&c)[N], real t) {
    real value = c[N - 1];
#pragma unroll
    for (int k = N - 2; k >= 0; --k) value = mad(value, t, c[k]);
    return value;
}

// Balanced, so that the rounding error grows with the logarithm of N.
template <int N> DEVICE real total(const real *v) {
    if constexpr (N == 1) return v[0];
    else return total<N / 2>(v) + total<N - N / 2>(v + N / 2);
}

constexpr int COLUMNS = KR_COLUMNS; // of a thread
constexpr int VECTOR = KR_VECTOR;   // reals that one load takes; divides COLUMNS

struct alignas(VECTOR * sizeof(real)) Vector {
    real v[VECTOR];
};

DEVICE void load(const real *from, real (&to)[COLUMNS]) {
#pragma unroll
    for (int c = 0; c < COLUMNS; c += VECTOR) {
        const Vector part = *reinterpret_cast<const Vector *>(from + c);
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) to[c + v] = part.v[v];
    }
}

DEVICE void store(real *to, const real (&from)[COLUMNS]) {
#pragma unroll
    for (int c = 0; c < COLUMNS; c += VECTOR) {
        Vector part;
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) part.v[v] = from[c + v];
        *reinterpret_cast<Vector *>(to + c) = part;
    }
}
