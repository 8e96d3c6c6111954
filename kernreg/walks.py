"""The laws of the walks that training is a generating function of, and what a series cut short of them loses.

Definitions and bounds: `kernreg.chebyshev`.
"""

from __future__ import annotations

import numpy as np

from kernreg.filters import Array, GradientDescent, Stop

TINIEST = 80.0  # −log of the probability at which a walk is cut off


def walk(stop: Stop, largest: float) -> Array:
    """w_0 … w_J (J + 1,), whose omitted tail is below e^−80, by the backward recurrence of Miller.

    Going backwards the law grows, and the other solution, of alternating signs, dies out; unless the steps of a descent hardly
    ever rest. So two starts are followed, and joined such that Σ w_j = r(0) = 1 and Σ (−1)^j·w_j = r(b).
    """
    z, J = stop.time * largest / 2, reach(stop, largest)
    w = np.zeros((J + 2, 2))
    w[J, 0] = w[J + 1, 1] = 1e-280
    for j in range(J, 0, -1):
        if isinstance(stop, GradientDescent):
            k, q = stop.steps, stop.step * largest / 2
            w[j - 1] = ((k + j + 1) * w[j + 1] + 2 * (1 - q) / q * j * w[j]) / (k - j + 1)
        else:
            w[j - 1] = w[j + 1] + 2 * j / z * w[j]
        if w[j - 1].max() > 1e200:
            w[j - 1 :] *= 1e-200
    at_its_end = J == 0 or (isinstance(stop, GradientDescent) and J == stop.steps)  # there is nothing beyond
    w = w[: J + 1, : 1 if at_its_end else 2]
    doubled = np.where(np.arange(J + 1) == 0, 1.0, 2.0)
    w = w / (doubled @ w)
    sums = np.stack([doubled @ w, (doubled * (-1.0) ** np.arange(J + 1)) @ w])
    joined, *_ = np.linalg.lstsq(sums, stop.residual(np.array([0.0, largest])), rcond=1e-12)
    return np.asarray(np.maximum(w @ joined, 0.0))


def reach(stop: Stop, largest: float) -> int:
    """J: further away than that a walk is with a probability below e^−80 (Bernstein's inequality)."""
    z = stop.time * largest / 2
    if z == 0:
        return 0
    J = int(TINIEST / 3 + np.sqrt(TINIEST**2 / 9 + 2 * TINIEST * z)) + 2
    return min(J, stop.steps) if isinstance(stop, GradientDescent) else J


def gains(w: Array, largest: float) -> Array:
    """G_0 … G_J (J + 1,), the last one 0, of a walk (J + 1,)."""
    beyond = np.cumsum(w[:0:-1])  # Σ_{j>i} w_j for i = J − 1 … 0
    return np.append(4 / largest * np.cumsum(beyond)[::-1], 0.0)


def degree(w: Array, rtol: float) -> tuple[int, float]:
    """The smallest d for which E, and what r(A) loses, is at most rtol; and the larger of the two."""
    G = gains(w, 1.0)
    lost_gain, lost_residual = (2 * np.append(np.cumsum(terms[:0:-1])[::-1], 0.0) for terms in (G, w))
    E = np.maximum(lost_gain, lost_residual)
    d = int(np.argmax(E <= rtol))
    return d, float(E[d])
