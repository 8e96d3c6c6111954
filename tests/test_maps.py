"""The activation maps: polynomials against closed forms in extended precision, and both against quadrature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray
from scipy.special import erf as error_function

from kernreg.kernels import maps
from kernreg.kernels.activations import dual
from kernreg.layers import Activation

Array = NDArray[Any]

POINTS = np.concatenate([np.linspace(0, 1, 2001)[1:], np.logspace(-12, -3, 200)])


@njit  # type: ignore[untyped-decorator]
def each(t: Array) -> tuple[Array, Array]:
    a, g = np.empty_like(t), np.empty_like(t)
    for k in range(t.size):
        a[k] = maps.arccos_over_root(t[k])
        g[k] = maps.g_over_root(t[k])
    return a, g


@njit  # type: ignore[untyped-decorator]
def each_arcsin(t: Array) -> Array:
    b = np.empty_like(t)
    for k in range(t.size):
        b[k] = maps.arcsin_over(t[k])
    return b


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 3e-7), ("float64", 8e-15)])
def test_polynomials_equal_their_closed_forms(dtype: str, bound: float) -> None:
    D = POINTS.astype(dtype)
    a, g = each(D)
    wide = D.astype(np.longdouble)
    theta = 2 * np.arcsin(np.sqrt(wide / 2))
    true_a = theta / (np.longdouble(np.pi) * np.sqrt(wide))
    # sin θ − cos θ·θ cancels near 0: its series there
    sine = np.sqrt(wide * (2 - wide))
    near = wide < 1e-4
    series = np.sqrt(np.longdouble(2)) * 2 / 3 * (1 + wide / 20 + 9 * wide**2 / 1120)
    true_g = np.where(near, series, (sine - (1 - wide) * theta) / (wide * np.sqrt(wide))) / np.longdouble(
        np.pi
    )
    assert np.max(np.abs(a / true_a - 1)) < bound
    assert np.max(np.abs(g / true_g - 1)) < 2 * bound
    y = (D / 4).astype(dtype)
    wide = y.astype(np.longdouble)
    assert np.max(np.abs(each_arcsin(y) / (np.arcsin(np.sqrt(wide)) / np.sqrt(wide)) - 1)) < bound


def quadrature(phi: Any, S: float, Qx: float, Qz: float, n: int = 150) -> float:
    """E[φ(u)φ(v)] for a Gaussian pair by Gauss–Hermite: shares nothing with the closed forms."""
    t, w = np.polynomial.hermite_e.hermegauss(n)
    w = w / w.sum()
    c = S / np.sqrt(Qx * Qz)
    u = np.sqrt(Qx) * t[:, None]
    v = np.sqrt(Qz) * (c * t[:, None] + np.sqrt(1 - c * c) * t)
    return float(np.einsum("i,j,ij->", w, w, phi(u) * phi(v)))


def slope(fn: str) -> Any:
    a = Activation(fn).slope or 0.0
    return lambda t: np.where(t > 0, 1.0, a)


SMOOTH = {
    "erf": (error_function, lambda t: 2 / np.sqrt(np.pi) * np.exp(-(t**2))),
    "rbf": (
        lambda t: np.sqrt(2) * np.sin(np.sqrt(2) * t + np.pi / 4),
        lambda t: 2 * np.cos(np.sqrt(2) * t + np.pi / 4),
    ),
}


@pytest.mark.parametrize("c", [-0.9, -0.3, 0.0, 0.5, 0.95])
@pytest.mark.parametrize(("Qx", "Qz"), [(1.0, 1.0), (0.3, 2.0)])
@pytest.mark.parametrize("fn", SMOOTH)
def test_smooth_maps_equal_quadrature(fn: str, c: float, Qx: float, Qz: float) -> None:
    S = np.array(c * np.sqrt(Qx * Qz))
    value, factor = dual(Activation(fn), S, np.array(Qx), np.array(Qz))
    phi, derivative = SMOOTH[fn]
    assert value == pytest.approx(quadrature(phi, float(S), Qx, Qz), abs=1e-10)
    assert factor == pytest.approx(quadrature(derivative, float(S), Qx, Qz), abs=1e-10)


@pytest.mark.parametrize("c", [-0.9, -0.3, 0.0, 0.5, 0.95])
@pytest.mark.parametrize("fn", ["relu", "abs", "identity", "leaky_relu_0.1"])
def test_piecewise_linear_maps_equal_an_integral_over_the_angle(fn: str, c: float) -> None:
    """A Gaussian pair in polar coordinates: the radius integrates to 2 for φφ and to 1 for φ'φ', the angle by midpoints."""
    Qx, Qz = 0.7, 1.9
    S = np.array(c * np.sqrt(Qx * Qz))
    value, factor = dual(Activation(fn), S, np.array(Qx), np.array(Qz))
    t = (np.arange(400_000) + 0.5) * (2 * np.pi / 400_000)
    u, v = np.sqrt(Qx) * np.cos(t), np.sqrt(Qz) * np.cos(t - np.arccos(c))
    step = slope(fn)
    assert value == pytest.approx(np.mean(2 * u * step(u) * v * step(v)), abs=1e-9)
    assert factor == pytest.approx(np.mean(step(u) * step(v)), abs=1e-5)
