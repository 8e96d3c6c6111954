"""Training that stops, as a function of the eigenvalues of the kernel: gradient flow and gradient descent.

The loss is that of m training rows, squared errors summed over outputs and averaged over rows, with a half; the ridge λ is a
weight decay towards the initialisation:

    L(θ) = (1/2m)·Σ_i |f(x_i) − y_i|² + (λ/2m)·|θ − θ₀|².

A network that is linear in its parameters, with tangent kernel K, has with A = (K + λI)/m after the time t

    f_t(x) − f_0(x) = K(x, X)·α,    α = g(A)·(y − f_0(X))/m,    g(a) = (1 − r(a))/a,

    r(a) = e^{−ta}                  gradient flow, dθ/dt = −∇L
    r(a) = (1 − ηa)^k               k steps of full-batch gradient descent with learning rate η, t = ηk.

Source: Jacot, Gabriel and Hongler (2018); Lee et al. (2019), equations 8–11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError

Array = NDArray[np.float64]

WHOLE = 1e-9  # how far t/η may be from a whole number, relatively: a few roundings of decimal fractions


class Stop(Protocol):
    """When training stops, and what it has done by then."""

    @property
    def time(self) -> float: ...

    def residual(self, a: Array) -> Array:
        """r(a) (e,) of eigenvalues a (e,)."""
        ...

    def log_residual(self, a: Array) -> tuple[Array, Array]:
        """log|r(a)| and the sign of r(a), both (e,): r itself underflows when nothing is left to learn."""
        ...

    def gain(self, a: Array) -> Array:
        """g(a) = (1 − r(a))/a (e,), the time where a is 0."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Time, step and number of steps, ready for JSON."""
        ...


@dataclass(frozen=True)
class GradientFlow:
    """Gradient flow up to a time.

    Attributes:
        time: t ≥ 0; infinity is the end of training.
    """

    time: float

    def __post_init__(self) -> None:
        _require_time(self.time)

    def __str__(self) -> str:
        return f"t = {self.time:g}"

    def residual(self, a: Array) -> Array:
        """e^{−ta}."""
        return np.asarray(np.exp(self.log_residual(a)[0]))

    def log_residual(self, a: Array) -> tuple[Array, Array]:
        """−ta, and 1."""
        return np.where(a == 0, 0.0, -self.time * np.where(a == 0, 1.0, a)), np.ones_like(a)

    def gain(self, a: Array) -> Array:
        """(1 − e^{−ta})/a."""
        safe = np.where(a == 0, 1.0, a)
        return np.where(a == 0, self.time, -np.expm1(-self.time * safe) / safe)

    def to_dict(self) -> dict[str, Any]:
        """The time alone; "inf" for the end of training, since JSON has no infinity."""
        return {"time": self.time if math.isfinite(self.time) else "inf", "step": None, "steps": None}


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent without momentum.

    Attributes:
        step: learning rate η > 0.
        steps: k ≥ 0.
    """

    step: float
    steps: int

    def __post_init__(self) -> None:
        _require_step(self.step)
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 0:
            raise KernregError(f"a number of steps is a whole number ≥ 0, not {self.steps!r}")

    def __str__(self) -> str:
        return f"{self.steps} steps of {self.step:g}"

    @property
    def time(self) -> float:
        """ηk."""
        return self.step * self.steps

    def residual(self, a: Array) -> Array:
        """(1 − ηa)^k."""
        return np.asarray((1 - self.step * a) ** self.steps)

    def log_residual(self, a: Array) -> tuple[Array, Array]:
        """k·log|1 − ηa|, and the sign of (1 − ηa)^k."""
        left = 1 - self.step * a
        if not self.steps:
            return np.zeros_like(a), np.ones_like(a)
        with np.errstate(divide="ignore"):
            return self.steps * np.log(np.abs(left)), np.where(left < 0, (-1.0) ** self.steps, 1.0)

    def gain(self, a: Array) -> Array:
        """(1 − (1 − ηa)^k)/a."""
        safe = np.where(a == 0, 1.0, a)
        slow = np.minimum(self.step * safe, 0.5)  # beyond it there is nothing to cancel
        done = np.where(
            self.step * safe <= 0.5, -np.expm1(self.steps * np.log1p(-slow)), 1 - self.residual(safe)
        )
        return np.where(a == 0, self.time, done / safe)

    def to_dict(self) -> dict[str, Any]:
        """Time ηk, η and k."""
        return {"time": self.time, "step": self.step, "steps": self.steps}


def stop_at(time: float, step: float | None = None) -> Stop:
    """Gradient flow up to a time, or the gradient descent with learning rate `step` that takes as long.

    Raises:
        KernregError: a time or step out of range, or a time that is no whole number of steps.
    """
    if step is None:
        return GradientFlow(float(time))
    _require_time(time)
    _require_step(step)
    if math.isinf(time):
        raise KernregError("gradient descent takes a finite number of steps: give a finite time")
    steps = round(time / step)
    if abs(time / step - steps) > WHOLE * max(steps, 1):
        near = math.floor(time / step)
        raise KernregError(
            f"the time {time:g} is {time / step:.6g} steps of {step:g}: use {near * step:.6g} or {(near + 1) * step:.6g}"
        )
    return GradientDescent(float(step), steps)


def _require_time(time: float) -> None:
    if not time >= 0:
        raise KernregError(f"a training time is a number ≥ 0 (or inf, the end of training), not {time!r}")


def _require_step(step: float) -> None:
    if not (math.isfinite(step) and step > 0):
        raise KernregError(f"a learning rate is a finite number > 0, not {step!r}")
