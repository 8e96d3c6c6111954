"""Scaling exponents: which power law a learning curve follows, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from kernreg.errors import KernregError
from kernreg.fitwarnings import find_peak, warnings_of
from kernreg.powerlaws import PARAMETERS, PowerLaw, aicc, fit_law, refit
from kernreg.scatter import Array, Points, points_of_arrays, points_of_curve, whitening

if TYPE_CHECKING:
    from kernreg.curve import LearningCurve

DECADE = 10.0
# Below 8 samples the curve is about the first samples, not about scaling.
FIRST_SAMPLES = 8
# A residual that replicates and test rows produce less often than this widens the interval.
MISFIT = 0.05


@dataclass(frozen=True, eq=False)
class LocalSlopes:
    """β(m) = −d log L/d log m over two anchor steps (a factor 2 by default), with pointwise bands.

    Attributes:
        samples: (s,) where, the geometric mean of the two ends.  slope, low, high: (s,).
    """

    samples: Array
    slope: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False)
class PowerLawFit:
    """A fitted exponent and what it rests on.

    Attributes:
        exponent: β; for a broken law the one after the break.
        interval: (low, high) at `confidence`.
        confidence: 0.95 unless asked otherwise.
        model: "power", "offset", "broken" or "broken+offset".
        parameters: A, beta; E with an offset; c0, c1, d, f for a break (before it c0, after it c0 + c1).
        window: (lowest, highest) number of samples that was fitted.
        slopes: local slopes over the whole curve.
        warnings: sentences; not empty where the exponent should not be quoted without them.
        interval_from: "replicates and test rows" or "scatter around the fit".
        misfit: share of honest power laws that would fit worse (p-value of χ²); None without replicates.
        scores: AICc of each model tried, lower is better; {} if only one was.
        points: the losses that were fitted (those in `window`), their covariance, and all others.
    """

    exponent: float
    interval: tuple[float, float]
    confidence: float
    model: str
    parameters: dict[str, float]
    window: tuple[float, float]
    slopes: LocalSlopes
    warnings: tuple[str, ...]
    interval_from: str
    misfit: float | None
    scores: dict[str, float]
    points: Points

    def predict(self, m: ArrayLike) -> Array:
        """The loss that the fitted law gives at m samples, float64, in the shape of m."""
        return PowerLaw(self.model, self.parameters).predict(m)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the covariance, ready for JSON."""
        s = self.slopes
        return {
            "exponent": self.exponent,
            "interval": list(self.interval),
            "confidence": self.confidence,
            "model": self.model,
            "parameters": dict(self.parameters),
            "window": list(self.window),
            "interval_from": self.interval_from,
            "misfit": self.misfit,
            "scores": {name: value for name, value in self.scores.items() if np.isfinite(value)},
            "warnings": list(self.warnings),
            "points": {
                "samples": self.points.samples.tolist(),
                "loss": self.points.loss.tolist(),
                "replicates": self.points.replicates.tolist(),
            },
            "local_slopes": {
                "samples": s.samples.tolist(),
                "slope": s.slope.tolist(),
                "low": s.low.tolist(),
                "high": s.high.tolist(),
            },
        }


def fit_exponent(
    samples: LearningCurve | ArrayLike,
    loss: ArrayLike | None = None,
    *,
    model: str = "auto",
    window: tuple[float, float] | None = None,
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> PowerLawFit:
    """Fit a power law to a learning curve: `fit_exponent(curve)`, or `fit_exponent(samples, loss)`.

    The fit is generalised least squares of log L on some points √2 apart, with the covariance that replicates
    and test rows give (`kernreg.scatter`): neighbouring points of a curve share rows, so that all m = 1…n
    would add little and pretend much.

    Args:
        samples: a `LearningCurve`, or increasing sample counts (p,), p ≥ 3.
        loss: (p,) positive losses; left out with a LearningCurve.
        model: "power", "offset", "broken" (with E if AICc wants it), or "auto": power, offset or, in a window
            of at least eight points, broken, whichever has the lowest AICc. (AICc and not held-out
            extrapolation: on a decade of √2 steps the part held out would be two points that share most of
            their rows.)
        window: (lowest, highest) sample count to fit, ends included. Default: the last decade, at least 8
            samples, beginning after the last peak if a factor 4 remains; for "broken" everything from 8
            samples on.
        confidence: of the interval and of the bands of the local slopes.
        draws: bootstrap draws.
        seed: of the bootstrap.

    The interval. With a curve that has replicates: each draw resamples the test rows with replacement and
    moves the losses as other training rows would have, by the covariance measured on disjoint training sets;
    the law is fitted again; the interval is between quantiles. It covers what other rows from the same
    distribution would have given. It does not cover a curve that is not yet a power law in the window: where
    the residual is too large for the scatter the interval is widened by its root mean square and a warning
    says so, and a curve that bends slowly escapes even that. With arrays the size of the scatter comes from
    the residuals of the fit, its shape in m from simulation (variance ~ m^{-1/2}, correlation m/m'), with
    Student's tails for the few points; test rows that err alike at all m do not show in it. Measured
    coverage: benchmarks/results/coverage.json.

    Raises:
        KernregError: losses that are not positive, fewer points in the window than the model needs plus one.
    """
    points, dense = given_points(samples, loss)
    if not 0 < confidence < 1:
        raise KernregError(f"confidence must lie between 0 and 1, not {confidence!r}")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 100:
        raise KernregError(f"draws must be a whole number of at least 100, not {draws!r}")
    window = _window(points, model, window)
    inside = points.inside(*window)
    at = np.isin(points.samples, inside.samples)
    law, residual, scores, C = _best(model, inside)

    freedom = len(inside.samples) - len(PARAMETERS[law.model])
    misfit = _survival(freedom, residual) if points.measured else None
    factor = 1.0
    if misfit is None:
        variance = max(residual / freedom, 1e-20)
        points = replace(points, training=points.training * variance, freedom=float(freedom))
        inside = points.inside(*window)
    elif misfit < MISFIT:
        factor = np.sqrt(residual / freedom)

    deviations = points.deviations(draws, np.random.default_rng(seed))
    fitted = np.log(law.predict(inside.samples))
    exponents, _ = refit(law, inside.samples, fitted + factor * deviations[:, at], C)
    tail = (1 - confidence) / 2
    low, high = np.quantile(exponents, [tail, 1 - tail])
    slopes = _local_slopes(points, deviations, tail)
    fit = PowerLawFit(
        exponent=law.exponent,
        interval=(float(low), float(high)),
        confidence=confidence,
        model=law.model,
        parameters=law.parameters,
        window=(float(inside.samples[0]), float(inside.samples[-1])),
        slopes=slopes,
        warnings=(),
        interval_from="replicates and test rows" if points.measured else "scatter around the fit",
        misfit=misfit,
        scores=scores,
        points=points,
    )
    return replace(fit, warnings=warnings_of(fit, dense, factor))


def given_points(
    samples: LearningCurve | ArrayLike, loss: ArrayLike | None
) -> tuple[Points, tuple[Array, Array]]:
    """The points, and the whole curve (samples, loss) for the search of peaks."""
    if hasattr(samples, "replicates"):
        if loss is not None:
            raise KernregError("a LearningCurve has its own loss: call fit_exponent(curve)")
        curve = cast("LearningCurve", samples)
        return points_of_curve(curve), (curve.samples.astype(np.float64), curve.loss)
    if loss is None:
        raise KernregError("give the losses too: fit_exponent(samples, loss)")
    m, L = np.asarray(samples, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    return points_of_arrays(m, L), (m, L)


def _window(points: Points, model: str, given: tuple[float, float] | None) -> tuple[float, float]:
    m = points.samples
    if given is not None:
        low, high = given
        if not low < high:
            raise KernregError(f"the window {low:g}:{high:g} is empty")
        return float(low), float(high)
    first = min(float(FIRST_SAMPLES), float(m[0])) if m[-1] < FIRST_SAMPLES else float(FIRST_SAMPLES)
    if model == "broken":
        return first, float(m[-1])
    low = max(first, float(m[-1]) / DECADE)
    before = points.inside(first, m[-1])
    peak = find_peak(before.samples, before.loss, before.scatter)
    if peak is not None and peak.over > low and m[-1] >= 4 * peak.over:
        low = peak.over
    return low, float(m[-1])


def _best(model: str, points: Points) -> tuple[PowerLaw, float, dict[str, float], Array]:
    """The chosen law, its residual, the scores of the candidates, and the whitening matrix of the points."""
    p = len(points.samples)
    candidates = {"auto": ["power", "offset", "broken"], "broken": ["broken", "broken+offset"]}.get(
        model, [model]
    )
    simplest = candidates[0]
    if simplest in PARAMETERS and p <= len(PARAMETERS[simplest]):
        raise KernregError(
            f"{p} points in the window cannot determine the {len(PARAMETERS[simplest])} parameters of "
            f"{simplest!r} and their scatter; widen the window or measure more sample counts"
        )
    C = whitening(points.covariance)
    tried: dict[str, tuple[PowerLaw, float]] = {}
    scores: dict[str, float] = {}
    for name in candidates:
        if name == simplest or p > len(PARAMETERS[name]) + 2:
            tried[name] = fit_law(name, points.samples, np.log(points.loss), C)
            scores[name] = aicc(tried[name][1], p, name, points.measured)
    best = min(tried, key=lambda name: scores[name])
    return (*tried[best], scores if len(tried) > 1 else {}, C)


def _local_slopes(points: Points, deviations: Array, tail: float) -> LocalSlopes:
    x, y = np.log(points.samples), np.log(points.loss)
    if len(x) < 3:
        none = np.zeros(0)
        return LocalSlopes(none, none, none, none)
    run = x[2:] - x[:-2]
    slope = -(y[2:] - y[:-2]) / run
    noise = -(deviations[:, 2:] - deviations[:, :-2]) / run
    low, high = np.quantile(noise, [tail, 1 - tail], axis=0)
    return LocalSlopes(np.exp((x[2:] + x[:-2]) / 2), slope, slope + low, slope + high)


def _survival(freedom: int, chi2: float) -> float:
    from scipy.special import chdtrc

    return float(chdtrc(freedom, chi2))
