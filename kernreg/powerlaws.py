"""Power laws of the loss in the number of samples, and their least-squares fits in log space.

    power     L = A·m^{-β}
    offset    L = E + A·m^{-β}
    broken    L = A·m^{-c0}·(1 + (m/d)^{1/f})^{-c1·f}        slope c0 before the break at d, c0 + c1 after it
    broken+offset    the same, plus E        (Caballero, Gupta, Rish, Krueger 2022, eq. 1, with one break)

All fits minimise |C·(log L − log model)|² for a whitening matrix C, CᵀC = the inverse covariance of log L up
to a factor. One Levenberg–Marquardt run fits many curves side by side: a bootstrap is one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kernreg.errors import KernregError

Array = NDArray[np.float64]

# Names of the numbers that are fitted, in the order of a row of θ; logarithms keep scales positive.
PARAMETERS = {
    "power": ("log_A", "beta"),
    "offset": ("log_A", "beta", "log_E"),
    "broken": ("log_A", "c0", "c1", "log_d", "log_f"),
    "broken+offset": ("log_A", "c0", "c1", "log_d", "log_f", "log_E"),
}
# E below e^{-9} of the smallest loss is no offset at all: four digits of the loss do not show it.
SMALLEST_OFFSET = 9.0
LARGEST_EXPONENT = 20.0
ITERATIONS = 100
# Relative gain in the residual at which a fit has converged; its exponent then moves by far less than its
# error.
TOLERANCE = 1e-7


@dataclass(frozen=True)
class PowerLaw:
    """One law with its numbers.

    Attributes:
        model: a key of `PARAMETERS`.
        parameters: A and beta; E for an offset; c0, c1, d, f in place of beta for a break. d in samples.
    """

    model: str
    parameters: dict[str, float]

    @property
    def exponent(self) -> float:
        """β; for a broken law the one after the break, c0 + c1."""
        p = self.parameters
        return p["c0"] + p["c1"] if "c0" in p else p["beta"]

    def predict(self, m: ArrayLike) -> Array:
        """The loss at m samples, float64, in the shape of m."""
        θ = np.array([[_internal(name, self.parameters) for name in PARAMETERS[self.model]]])
        m = np.asarray(m, dtype=np.float64)
        value: Array = np.exp(_log_loss(self.model, θ, np.log(m.ravel())))
        return value.reshape(m.shape)


def fit_law(model: str, m: Array, log_loss: Array, whitening: Array) -> tuple[PowerLaw, float]:
    """The best law and its residual |C·(log L − log model)|².

    Args:
        m: (p,) sample counts, increasing.  log_loss: (p,).  whitening: (p, p), C above.

    Raises:
        KernregError: fewer points than parameters, or an unknown model.
    """
    if model not in PARAMETERS:
        raise KernregError(f"unknown model {model!r}; known: auto, {', '.join(PARAMETERS)}")
    k = len(PARAMETERS[model])
    if len(m) < k:
        raise KernregError(
            f"{len(m)} points cannot determine the {k} parameters of {model!r}; widen the window"
        )
    x = np.log(m)
    starts = _starts(model, x, log_loss)
    θ, residual = _levenberg_marquardt(model, x, np.tile(log_loss, (len(starts), 1)), whitening, starts)
    best = int(np.argmin(residual))
    return _law(model, θ[best]), float(residual[best])


def refit(law: PowerLaw, m: Array, log_losses: Array, whitening: Array) -> tuple[Array, dict[str, Array]]:
    """Exponents (B,) and parameters of `law.model` fitted to B curves (B, p), each started from `law`."""
    names = PARAMETERS[law.model]
    start = np.array([_internal(name, law.parameters) for name in names])
    θ, _ = _levenberg_marquardt(
        law.model, np.log(m), log_losses, whitening, np.tile(start, (len(log_losses), 1))
    )
    laws = {name: θ[:, i] for i, name in enumerate(names)}
    exponent = laws["c0"] + laws["c1"] if "c0" in laws else laws["beta"]
    return exponent, laws


def aicc(residual: float, points: int, model: str, known_scale: bool) -> float:
    """Akaike's criterion with the correction for few points (Hurvich and Tsai 1989).

    Args:
        residual: |C·(log L − log model)|².
        known_scale: CᵀC is the inverse covariance itself, so that the residual is −2 log likelihood; else it
            is known up to a factor, which counts as one more parameter.

    Infinite where there are too few points for the correction.
    """
    k = len(PARAMETERS[model]) + (not known_scale)
    if points - k - 1 <= 0:
        return np.inf
    # Rounding makes the residual of an exact law arbitrary; below 1e-20 a point the data say no more.
    fit = residual if known_scale else points * np.log(max(residual / points, 1e-20))
    return float(fit + 2 * k + 2 * k * (k + 1) / (points - k - 1))


def bounds(model: str, x: Array, log_loss: Array) -> tuple[Array, Array]:
    """Lowest and highest values of θ, (k,) each, for curves log_loss (…, p) at x = log m."""
    low, high = float(np.min(log_loss)), float(np.max(log_loss))
    edge = min(2, (len(x) - 1) // 2)  # a slope takes at least two points
    limits = {
        "log_A": (-np.inf, np.inf),
        "beta": (-np.inf, np.inf) if model == "power" else (0.0, LARGEST_EXPONENT),
        "c0": (-5.0, LARGEST_EXPONENT),
        "c1": (-LARGEST_EXPONENT, LARGEST_EXPONENT),
        "log_d": (x[edge], x[-1 - edge]),
        "log_f": (np.log(0.02), np.log(1.0)),
        "log_E": (low - SMALLEST_OFFSET, high),
    }
    pairs = np.array([limits[name] for name in PARAMETERS[model]])
    return pairs[:, 0], pairs[:, 1]


def _log_loss(model: str, θ: Array, x: Array) -> Array:
    """log L (B, p) of B laws θ (B, k) at x = log m (p,)."""
    p = {name: θ[:, i, None] for i, name in enumerate(PARAMETERS[model])}
    if "beta" in p:
        y = p["log_A"] - p["beta"] * x
    else:
        f = np.exp(p["log_f"])
        y = p["log_A"] - p["c0"] * x - p["c1"] * f * np.logaddexp(0.0, (x - p["log_d"]) / f)
    return np.logaddexp(y, p["log_E"]) if "log_E" in p else y


def _starts(model: str, x: Array, y: Array) -> Array:
    """First guesses (s, k): straight lines in log-log through all or part of the points."""
    β, log_A = -np.polynomial.Polynomial.fit(x, y, 1).convert().coef[1], 0.0
    log_A = float(np.mean(y + β * x))
    if model == "power":
        return np.array([[log_A, β]])
    low = float(np.min(y))
    if model == "offset":
        guesses = []
        for log_E in (low - SMALLEST_OFFSET + 1, low - 2.0, low - 0.7, low - 0.1):
            rest = np.log(np.maximum(np.exp(y) - np.exp(log_E), 1e-3 * np.exp(y)))
            slope = -np.polynomial.Polynomial.fit(x, rest, 1).convert().coef[1]
            guesses.append([float(np.mean(rest + slope * x)), slope, log_E])
        return np.array(guesses)
    guesses = []
    for share in (0.2, 0.35, 0.5, 0.65, 0.8):
        d = x[0] + share * (x[-1] - x[0])
        columns = np.stack([np.ones_like(x), -x, -np.maximum(x - d, 0.0)], axis=1)
        log_A, c0, c1 = np.linalg.lstsq(columns, y, rcond=None)[0]
        guesses += [[log_A, c0, c1, d, np.log(f)] for f in (0.1, 0.5)]
    if model == "broken":
        return np.array(guesses)
    return np.array([[*g, low - depth] for g in guesses for depth in (SMALLEST_OFFSET - 1, 1.0)])


def _levenberg_marquardt(model: str, x: Array, y: Array, C: Array, θ: Array) -> tuple[Array, Array]:
    """θ (B, k) and residuals (B,) of B fits within `bounds`.

    Damping and acceptance are each curve's own, and a curve that has converged leaves.
    """
    low, high = bounds(model, x, y)
    θ = np.clip(θ, low, high)
    best, residual = θ.copy(), np.empty(len(θ))
    at = np.arange(len(θ))
    r = (y - _log_loss(model, θ, x)) @ C.T
    cost = np.einsum("bp,bp->b", r, r)
    damping = np.full(len(θ), 1e-3)
    identity = np.eye(θ.shape[1])
    for _ in range(ITERATIONS):
        J = C @ _gradient(model, θ, x)
        H, g = J.transpose(0, 2, 1) @ J, (r[:, None, :] @ J)[:, 0, :]
        # A parameter at its bound that the gradient pushes further out takes no part in the step.
        free = ~(((θ <= low) & (g < 0)) | ((θ >= high) & (g > 0)))
        H = H * free[:, :, None] * free[:, None, :]
        scale = damping[:, None] * np.einsum("bii->bi", H) + 1e-12 + ~free
        step = np.linalg.solve(H + scale[:, :, None] * identity, (g * free)[..., None])[..., 0]
        trial = np.clip(θ + step, low, high)
        r_trial = (y - _log_loss(model, trial, x)) @ C.T
        cost_trial = np.einsum("bp,bp->b", r_trial, r_trial)
        better = cost_trial < cost
        done = np.where(better, cost - cost_trial <= TOLERANCE * cost, damping > 1e4)
        θ = np.where(better[:, None], trial, θ)
        r = np.where(better[:, None], r_trial, r)
        cost = np.where(better, cost_trial, cost)
        damping = np.where(better, np.maximum(damping / 5, 1e-9), damping * 5)
        best[at], residual[at] = θ, cost
        at = at[~done]
        θ, r, cost, damping, y = (v[~done] for v in (θ, r, cost, damping, y))
        if not len(at):
            break
    return best, residual


def _gradient(model: str, θ: Array, x: Array) -> Array:
    """∂ log L/∂θ, (B, p, k)."""
    p = {name: θ[:, i, None] for i, name in enumerate(PARAMETERS[model])}
    ones = np.ones((len(θ), len(x)))
    columns = {"log_A": ones}
    if "beta" in p:
        y = p["log_A"] - p["beta"] * x
        columns["beta"] = -x * ones
    else:
        f = np.exp(p["log_f"])
        u = (x - p["log_d"]) / f
        softplus, logistic = np.logaddexp(0.0, u), np.exp(-np.logaddexp(0.0, -u))
        y = p["log_A"] - p["c0"] * x - p["c1"] * f * softplus
        columns |= {"c0": -x * ones, "c1": -f * softplus}
        columns |= {"log_d": p["c1"] * logistic, "log_f": -p["c1"] * f * (softplus - u * logistic)}
    share = np.ones_like(y)
    if "log_E" in p:
        share = np.exp(y - np.logaddexp(y, p["log_E"]))
        columns["log_E"] = np.ones_like(y)
    return np.stack(
        [columns[name] * (1 - share if name == "log_E" else share) for name in PARAMETERS[model]], axis=2
    )


def _law(model: str, θ: Array) -> PowerLaw:
    values: dict[str, float] = {}
    for name, value in zip(PARAMETERS[model], θ, strict=True):
        values[name.removeprefix("log_")] = float(np.exp(value) if name.startswith("log_") else value)
    return PowerLaw(model, values)


def _internal(name: str, parameters: dict[str, Any]) -> float:
    return float(np.log(parameters[name[4:]]) if name.startswith("log_") else parameters[name])
