"""(K + λI)⁻¹Y from a factor in float32, refined in float64: half of the memory, and on most GPUs many times the speed.

With the factor L of K + λI in float32 the correction L⁻ᵀL⁻¹(Y − (K + λI)α) is added until the residual, which is formed in
float64, is small. It converges as long as the condition of K + λI is well below 1/ε of float32, about 1e7.
Moler, Journal of the ACM 14 (1967), 316–321; Higham, Accuracy and Stability of Numerical Algorithms, §12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import BLOCK, Matrix, round_up
from kernreg.device import HOST, Device
from kernreg.errors import KernregError
from kernreg.targets import targets

TOLERANCE = 1e-10
STEPS = 50
SINGLE = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Refined:
    """A solution and how good it is.

    Attributes:
        value: (n, c) float64, (K + λI)⁻¹Y.
        residuals: (c,) |Y − (K + λI)·value|/|Y| of each column, formed in float64; 0 for a column of zeros.
        steps: corrections.
    """

    value: Matrix
    residuals: Matrix
    steps: int


def refined_solve(K: Any, Y: npt.ArrayLike, ridge: float, device: Device = HOST) -> Refined:
    """Solve (K + ridge·I)·value = Y.

    Args:
        K: (n, n) symmetric, float32 or float64, of the device's namespace; it is left alone.
        Y: (n,) or (n, c) targets.
        ridge: λ ≥ 0, absolute.
        device: where to factor, `kernreg.device`.

    Memory: n² float32 beside K.

    Raises:
        KernregError: shapes that do not match, a ridge out of range, no factor in float32, or a residual that stays above
            1e-10: K + λI is too close to singular for float32.
    """
    y = targets(Y, "Y")
    if len(y) != len(K) or K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise KernregError(f"K is {K.shape} and Y {y.shape}: give (n, n) and (n, c)")
    if not (math.isfinite(ridge) and ridge >= 0):
        raise KernregError(f"the ridge must be a finite number ≥ 0, not {ridge!r}")
    xp, n = device.xp, len(K)
    L = xp.array(K, dtype=np.float32, order="C")
    diagonal = K.diagonal().astype(np.float64)
    if pivot := device.factor_in_place(L, (diagonal + ridge).astype(np.float32)):
        enough = round_up(max(4 * n * SINGLE * float(abs(diagonal).mean()), 2 * ridge) or SINGLE)
        raise KernregError(
            f"K + ridge·I with ridge = {ridge:.3g} has no Cholesky factor in float32: pivot {pivot} (counting from 1) fails; "
            f"factor it in float64, or use a ridge of about {enough:.2g}"
        )
    B = xp.asarray(y)
    scale = xp.square(B).sum(axis=0) ** 0.5
    scale = xp.where(scale > 0, scale, 1.0)
    value, best = xp.zeros(B.shape), math.inf
    for step in range(STEPS + 1):
        residual = _residual(K, value, B, ridge, xp)
        relative = device.get(xp.square(residual).sum(axis=0) ** 0.5 / scale)
        worst = float(relative.max())
        if worst <= TOLERANCE:
            return Refined(device.get(value), relative, step)
        if not worst < best / 2:
            break
        best = worst
        size = xp.abs(residual).max(axis=0)
        size = xp.where(size > 0, size, 1.0)  # so that no residual underflows in float32
        value = value + device.solve(L, (residual / size).astype(np.float32)) * size
    raise KernregError(
        f"a float32 factor of K + ridge·I with ridge = {ridge:.3g} cannot be refined: the relative residual stays at {best:.1e}; "
        "factor it in float64, or use a larger ridge"
    )


def _residual(K: Any, value: Any, B: Any, ridge: float, xp: Any) -> Any:
    """B − (K + ridge·I)·value in float64, a strip of K at a time."""
    residual = B - ridge * value
    for start in range(0, len(K), BLOCK):
        rows = slice(start, start + BLOCK)
        residual[rows] -= K[rows].astype(np.float64) @ value
    return residual
