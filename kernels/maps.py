"""The activation maps as polynomials, for compiled code: scalar functions that SIMD loops inline.

With D = 1 − |c|, c = S/P, P = √(Qx·Qz), both maps of the ReLU are a square root and a polynomial on D ∈ [0, 1]:

    arccos(|c|)/π            = √D · A(D)
    (√(1−c²) − |c|·arccos|c|)/π = D·√D · G(D)

and asin(a) = a·B(a²) serves the erf for a² ≤ 1/4 and, through asin(a) = π/2 − 2·asin(√((1−a)/2)), beyond it. The coefficients
are Chebyshev interpolants computed with 60 digits; relative error: float32 2e-8, 2e-8, 5e-9, float64 5e-15, 2e-15, 3e-16
(checked in tests/test_maps.py against closed forms).

Numba types a literal as float64, which would halve the lanes of a float32 loop: the constants are frozen per dtype by
`overload`, so this file has one body and two precisions.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

_ARCCOS_32 = (
    0.450158153,
    0.03751382808,
    8.427089512e-3,
    2.615466698e-3,
    4.70735702e-4,
    1.062651139e-3,
    -6.336413341e-4,
    3.857081116e-4,
)
_G_32 = (
    0.3001054422,
    0.01500493536,
    2.416836967e-3,
    5.278484159e-4,
    2.362693249e-4,
    -5.608631495e-5,
    7.4634554e-5,
)
_ARCSIN_32 = (
    0.999999996,
    0.1666678201,
    0.07494696687,
    0.04552063563,
    0.02399399965,
    0.04241737376,
)
_ARCCOS_64 = (
    0.450158158078551691,
    0.0375131798405669651,
    8.44046540579963705e-3,
    2.51204523106679993e-3,
    8.54758740134957142e-4,
    3.15073141719490125e-4,
    1.19630972168046581e-4,
    6.04979475711018105e-5,
    -1.75532805436669308e-5,
    9.92772291149572262e-5,
    -1.53595671611213553e-4,
    1.97792936780425462e-4,
    -1.71450716266679268e-4,
    1.01731683440507953e-4,
    -3.62030837318542777e-5,
    6.19154523630447168e-6,
)
_G_64 = (
    0.300105438719035755,
    0.0150052719357724565,
    2.41156157445726547e-3,
    5.58231453866302141e-4,
    1.55422739953194422e-4,
    4.83643505335727056e-5,
    1.65929728349560412e-5,
    4.49480531054916957e-6,
    5.74794566039159164e-6,
    -6.37623790560885904e-6,
    1.0461338101663576e-5,
    -9.80264826382495363e-6,
    6.52371806504739584e-6,
    -2.53157085622508203e-6,
    4.8508722445596671e-7,
)
_ARCSIN_64 = (
    0.9999999999999998,
    0.166666666666897064,
    0.0749999999562441448,
    0.0446428603860315581,
    0.0303818207522217691,
    0.0223749288236056912,
    0.0173137009459098955,
    0.0143242351499445705,
    9.37647348105665381e-3,
    0.018256370242133529,
    -0.0116935596795313177,
    0.0315047767516243118,
)

# 1 − |c| below this is rounding noise of S in float64 (kernels/activations.py). In float32 identical patches give 0 to the bit,
# and near-identical ones keep what little they have.
_PARALLEL = {32: 0.0, 64: 8 * float(np.finfo(np.float64).eps)}

SIMD: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "boundscheck": False}
INNER = {**SIMD, "_nrt": False}


def relu(S: Any, P: Any) -> tuple[Any, Any]:
    """ReLU: (2·E[φ(u)φ(v)], 2·E[φ'(u)φ'(v)]); the factors ½ are left to the weight variance of the next layer.

    Args:
        S: covariance of the pre-activations.
        P: √(Qx·Qz), correctly rounded, so that P − |S| is 0 to the bit for identical patches.
    """
    raise NotImplementedError("compiled code only")


def relu_nngp(S: Any, P: Any) -> Any:
    """The first result of `relu` alone."""
    raise NotImplementedError("compiled code only")


def erf(S: Any, P: Any, Qx: Any, Qz: Any) -> tuple[Any, Any]:
    """erf: (E[φ(u)φ(v)], E[φ'(u)φ'(v)])."""
    raise NotImplementedError("compiled code only")


def arccos_over_root(D: Any) -> Any:
    """A(D) = arccos(1 − D)/(π·√D)."""
    raise NotImplementedError("compiled code only")


def g_over_root(D: Any) -> Any:
    """G(D) = (√(1−c²) − c·arccos c)/(π·D·√D) at c = 1 − D."""
    raise NotImplementedError("compiled code only")


def arcsin_over(y: Any) -> Any:
    """B(y) = asin(√y)/√y."""
    raise NotImplementedError("compiled code only")


def _forget_stale_code() -> None:
    """Delete compiled code older than any source beside it: Numba's cache compares a function with its own file only, and
    would keep yesterday's polynomials inside today's stencil."""
    folder = Path(__file__).parent
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in folder.glob("__pycache__/*.nbi"):
        with contextlib.suppress(OSError):  # a read-only installation, or another process was faster
            if index.stat().st_mtime < newest:
                index.unlink()


_forget_stale_code()


def lanes_of(values: Any) -> int:
    """How many numbers of this dtype fill 64 bytes: a cache line, and the widest register."""
    raise NotImplementedError("compiled code only")


@overload(lanes_of, jit_options=SIMD, inline="always")
def _lanes_of(values):
    lanes = 512 // values.dtype.bitwidth

    def impl(values):
        return lanes

    return impl


@overload(relu, jit_options=SIMD)
def _relu(S, P):
    real, parallel = _real(P), _real(P)(_PARALLEL[P.bitwidth])
    one, zero = real(1), real(0)

    def impl(S, P):
        D = (P - abs(S)) / P
        D = D if parallel < D else zero  # also where P = 0 and D is NaN
        root = np.sqrt(D)
        acute = root * arccos_over_root(D)
        return max(S, zero) + P * (D * root * g_over_root(D)), (acute if zero > S else one - acute)

    return impl


@overload(relu_nngp, jit_options=SIMD)
def _relu_nngp(S, P):
    real, parallel = _real(P), _real(P)(_PARALLEL[P.bitwidth])
    zero = real(0)

    def impl(S, P):
        D = (P - abs(S)) / P
        D = D if parallel < D else zero
        return max(S, zero) + P * (D * np.sqrt(D) * g_over_root(D))

    return impl


@overload(erf, jit_options=SIMD)
def _erf(S, P, Qx, Qz):
    real = _real(P)
    zero, half, one, two, four = real(0), real(0.5), real(1), real(2), real(4)
    two_over_pi, four_over_pi = real(2 / np.pi), real(4 / np.pi)

    def impl(S, P, Qx, Qz):
        A, B, a = one + two * Qx, one + two * Qz, abs(S)
        # N² = AB − 4S² without its cancellation for large inputs
        N2 = one + two * (Qx + Qz) + four * max(P - a, zero) * (P + a)
        M = np.sqrt(A * B)
        rho = two * a / M
        gap = N2 / (M * (M + two * a))  # 1 − ρ
        near = rho > half
        y = half * gap if near else rho * rho
        b = arcsin_over(y)
        arcsin = one - two_over_pi * two * np.sqrt(y) * b if near else two_over_pi * rho * b
        return (-arcsin if zero > S else arcsin), four_over_pi / np.sqrt(N2)

    return impl


def _real(P: types.Float) -> type[np.floating[Any]]:
    return np.float32 if P.bitwidth == 32 else np.float64


def _horner(stub, coefficients):
    """Give a stub its polynomial, written out: a loop over coefficients would not vectorise past degree 12."""

    @overload(stub, jit_options=SIMD)
    def _polynomial(t):
        c = [_real(t)(v) for v in coefficients[t.bitwidth]]
        names = {f"c{k}": v for k, v in enumerate(c)}
        text = f"c{len(c) - 1}"
        for k in reversed(range(len(c) - 1)):
            text = f"c{k} + t * ({text})"
        exec(f"def impl(t): return {text}", names)
        return names["impl"]


_horner(arccos_over_root, {32: _ARCCOS_32, 64: _ARCCOS_64})
_horner(g_over_root, {32: _G_32, 64: _G_64})
_horner(arcsin_over, {32: _ARCSIN_32, 64: _ARCSIN_64})
