"""The activation maps as polynomials (`polynomials.py`), for compiled code: scalar functions that SIMD loops inline.

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

from kernreg.kernels.polynomials import ARCCOS_32, ARCCOS_64, ARCSIN_32, ARCSIN_64, G_32, G_64

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


_horner(arccos_over_root, {32: ARCCOS_32, 64: ARCCOS_64})
_horner(g_over_root, {32: G_32, 64: G_64})
_horner(arcsin_over, {32: ARCSIN_32, 64: ARCSIN_64})
