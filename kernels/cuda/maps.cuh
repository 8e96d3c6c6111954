// The activations: what they do to S, and the factor of T, each up to a constant that the next layer's weight makes good.
//
// With Q the variances and r = QxQz − S², identical patches have S = Qx = Qz to the bit, so r = 0 exactly and with it 1 − |c|.
// QxQz and S² both carry `tiny`: where a patch is all zero, r is still 0, and nothing is divided by 0.
#pragma once
#include "real.cuh"

constexpr double PI = 3.14159265358979323846;

// acos(a)/√(1 − a²) on [0, 1], analytic at a = 1, too; minimax in what counts, the error of acos itself.
// asin(√y)/√y on [0, 1/4]. A multiply-add takes a float32 constant along, a float64 one from constant memory.
#if KR_FLOAT64
__constant__ real ARCCOS[] = {
    1.570796326794896459, -0.9999999999998632017, 0.7853981633779597932, -0.666666665563367166,
    0.5890485894496935258, -0.5333327248808375466, 0.4908663747490587418, -0.457077805321217098,
    0.429097600213093158, -0.4043208665027307997, 0.3789102108744017287, -0.3466130222267298381,
    0.2999372315132596155, -0.235395934757253853, 0.1596805793475632285, -8.892373909200305459e-2,
    3.836436131412943543e-2, -1.188617929645749639e-2, 2.334759379677027437e-3, -2.17259373277257647e-4};
__constant__ real ARCSIN[] = {
    0.9999999999999998, 0.166666666666897064, 0.0749999999562441448, 0.0446428603860315581,
    0.0303818207522217691, 0.0223749288236056912, 0.0173137009459098955, 0.0143242351499445705,
    9.37647348105665381e-3, 0.018256370242133529, -0.0116935596795313177, 0.0315047767516243118};
#endif

DEVICE real arccos_over_sine(real a) {
#if KR_FLOAT64
    return horner(ARCCOS, a);
#else
    constexpr real c[] = {1.570796265f, -0.9999884914f, 0.7850417035f, -0.6623697074f, 0.5625099244f,
                          -0.4372512554f, 0.269385223f, -0.1086160911f, 2.049324162e-2f};
    return horner(c, a);
#endif
}

DEVICE real arcsin_over(real y) {
#if KR_FLOAT64
    return horner(ARCSIN, y);
#else
    constexpr real c[] = {0.999999996f, 0.1666678201f, 0.07494696687f, 0.04552063563f, 0.02399399965f, 0.04241737376f};
    return horner(c, y);
#endif
}

// ReLU: 2π·E[φ(u)φ(v)] = √(QxQz − S²) + (π − θ)·S and 2π·E[φ'(u)φ'(v)] = π − θ. POSITIVE: S ≥ 0, as after any ReLU.
template <bool POSITIVE> DEVICE void relu(real S, real Qx, real Qz, real &value, real &slope) {
    const real P2 = mad(Qx, Qz, tiny()), S2 = mad(S, S, tiny());
    real r = P2 - S2;
#if KR_FLOAT64
    // 1 − |c| below 8ε is the rounding error of S itself: proportional patches (kernels/activations.py)
    r = r > 16 * 2.220446049250313e-16 * P2 ? r : 0;
#endif
    const real P_sine = root(magnitude(r)), over_P = inverse_root(P2);
    const real sine = P_sine * over_P, c = (POSITIVE ? S : magnitude(S)) * over_P;
    const real arc = arccos_over_sine(c);
    slope = !POSITIVE && S < 0 ? sine * arc : mad(-sine, arc, real(PI));
    value = mad(S, slope, P_sine);
    if (!POSITIVE) value = value > 0 ? value : 0; // opposite patches: a difference of rounded terms
}

// erf: asin(ρ) = π/2·E[φ(u)φ(v)] and 2/N = π/2·E[φ'(u)φ'(v)], ρ = 2S/√AB, N² = AB − 4S² without its cancellation.
DEVICE void erf_map(real S, real Qx, real Qz, real &value, real &slope) {
    const real r = Qx * Qz - S * S, AB = mad(Qx, real(2), real(1)) * mad(Qz, real(2), real(1));
    const real N2 = mad(real(4), r > 0 ? r : 0, mad(real(2), Qx + Qz, real(1)));
    const real over_M = inverse_root(AB), rho = 2 * magnitude(S) * over_M;
    const real gap = N2 * over_M * over_M * inverse(1 + rho); // 1 − ρ
    const bool near = rho > real(0.5);
    const real y = near ? gap / 2 : rho * rho, b = arcsin_over(y);
    const real arcsin = near ? mad(-2 * root(y), b, real(PI / 2)) : rho * b;
    value = S < 0 ? -arcsin : arcsin;
    slope = 2 * inverse_root(N2);
}

template <bool POSITIVE> DEVICE void activate(real S, real Qx, real Qz, real &value, real &slope) {
    if (KR_ERF) erf_map(S, Qx, Qz, value, slope);
    else relu<POSITIVE>(S, Qx, Qz, value, slope);
}
