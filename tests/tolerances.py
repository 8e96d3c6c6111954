"""How far from the float64 definition a result may be: the one place, derived from the dtype's rounding error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.layers import Activation

# near a pair of parallel patches the golden values themselves carry the root of an 80-bit rounding error
PARALLEL = 1e-9


def relative(dtype: str, architecture: Architecture) -> float:
    """Of an entry of a kernel: float64 1e-12; float32 16 roundings, about 2e-6, at any depth.

    The planes of an erf network change sign, so that their sums cancel: five times as much in float32.
    """
    if dtype == "float64":
        return 1e-12
    cancelling = 5 if any(isinstance(a, Activation) and a.fn == "erf" for a in architecture.layers) else 1
    return cancelling * 16 * float(np.finfo(np.float32).eps)


def scale(K: NDArray[Any], xx: NDArray[Any], zz: NDArray[Any]) -> NDArray[np.float64]:
    """What "relative" refers to: |K|, but at least a tenth of √(K(x,x)·K(z,z)).

    An erf kernel passes through 0, and a ReLU kernel of opposite images is 0: there a sum of
    larger terms cannot be relatively exact.
    """
    return np.asarray(np.maximum(np.abs(K), 0.1 * np.sqrt(np.outer(xx, zz))))


def worst(K: NDArray[Any], truth: NDArray[Any], xx: NDArray[Any], zz: NDArray[Any]) -> float:
    """The largest relative error; infinite if any entry is not a number."""
    if not np.isfinite(K).all():
        return float("inf")
    size = scale(truth, xx, zz)
    error = np.abs(K.astype(np.float64) - truth)
    return float(
        np.max(np.divide(error, size, out=np.where(error > 0, np.inf, 0.0), where=size > 0), initial=0.0)
    )


def orthogonal(d: int) -> float:
    """Of an entry of R·Rᵀ − 1 of a d×d rotation: a few roundings for each panel of reflections, entries being at most 1."""
    return float(np.finfo(np.float64).eps) * (8 + d / 16)


def moments(count: int) -> float:
    """Of a mean of `count` independent numbers of variance 1: five standard deviations, one false alarm in 10⁶."""
    return 5 / float(np.sqrt(count))


def solved(A: NDArray[Any], rtol: float = 0.0) -> float:
    """Relative error of a solution of A·x = b: cond(A) times the larger of its residual and of some n·ε.

    ε·cond bounds what LAPACK, the oracle, is off by; rtol·cond what an iteration that stops at rtol is.
    """
    return float(np.linalg.cond(A) * (rtol + 10 * len(A) * np.finfo(np.float64).eps))


def followed(A: NDArray[Any], time: float) -> float:
    """Of what training with the matrix A has done by a time, relative to the targets.

    Rounding moves an eigenvalue a by n·ε·‖A‖, and e^{−ta} by at most t times that; ten of each for eigenvectors and oracle.
    """
    return float(10 * len(A) * np.finfo(np.float64).eps * (1 + time * np.linalg.norm(A, 2)))
