"""The dual maps of the activations, float64 NumPy: what a ReLU or an erf does to S and T.

Cho & Saul (2009) for ReLU, Williams (1997) for erf, Rahimi & Recht (2007) for rbf; the tangent is one more line (Jacot et
al. 2018).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.layers import Activation

Array: TypeAlias = NDArray[np.float64]

# Below this, 1 − |c| is the rounding error of S itself: parallel patches. The square root of arccos at c = 1
# would turn it into 1e-8.
PARALLEL = 8 * np.finfo(np.float64).eps


def dual(activation: Activation, S: Array, Qx: Array, Qz: Array) -> tuple[Array, Array]:
    """The activation's effect on a covariance.

    Args:
        activation: the nonlinearity φ.
        S: covariances E[u·v] of Gaussian pre-activations u, v.
        Qx, Qz: their variances E[u²], E[v²], broadcastable against S.

    Returns:
        (E[φ(u)·φ(v)], E[φ'(u)·φ'(v)]): the new S and the factor of T.
    """
    if activation.fn == "erf":
        return _erf(S, Qx, Qz)
    if activation.fn == "rbf":
        return _rbf(S, Qx, Qz)
    slope = activation.slope
    assert slope is not None
    relu, step = _relu(S, Qx, Qz)
    # max(t, a·t) = relu(t) − a·relu(−t)
    return (1 - slope) ** 2 * relu + slope * S, (1 - slope) ** 2 * step + slope


def _relu(S: Array, Qx: Array, Qz: Array) -> tuple[Array, Array]:
    """(P/2π)·(sin θ + (π − θ)·cos θ) and (π − θ)/2π with P = √(Qx·Qz), cos θ = S/P."""
    P = np.sqrt(Qx * Qz)
    # P − |S| is 0 to the bit for identical patches, and 0 again where a patch is all zero
    gap = np.divide(P - np.abs(S), P, out=np.zeros_like(P), where=P > 0)
    gap = np.where(gap < PARALLEL, 0.0, gap)
    acute = 2 * np.arcsin(np.sqrt(gap / 2))
    theta = np.where(S < 0, np.pi - acute, acute)
    sine = np.sqrt(gap * (2 - gap))
    return (P * sine + (np.pi - theta) * S) / (2 * np.pi), (np.pi - theta) / (2 * np.pi)


def _erf(S: Array, Qx: Array, Qz: Array) -> tuple[Array, Array]:
    """(2/π)·asin(2S/√AB) and (4/π)/√(AB − 4S²) with A = 1 + 2Qx, B = 1 + 2Qz."""
    P = np.sqrt(Qx * Qz)
    # AB − 4S² without its cancellation for large inputs
    root = np.sqrt(1 + 2 * (Qx + Qz) + 4 * np.maximum(P - np.abs(S), 0) * (P + np.abs(S)))
    return 2 / np.pi * np.arctan2(2 * S, root), 4 / np.pi / root


def _rbf(S: Array, Qx: Array, Qz: Array) -> tuple[Array, Array]:
    """exp(−E[(u − v)²]) and twice that: the Gaussian kernel is the dual of φ(t) = √2·sin(√2·t + π/4)."""
    gaussian = np.exp(2 * S - (Qx + Qz))
    return gaussian, 2 * gaussian
