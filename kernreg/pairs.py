"""Two learning curves side by side: are they one, how do their losses and exponents differ, and how sure is it.

Two kernels measured on the same rows err together: a lucky training set is lucky for both, a hard test row
hard for both. The difference of their exponents is therefore better known than either. Each bootstrap draw
resamples the test rows once for both curves, and moves both losses as other training rows would have, with
the correlation ρ that their replicates, the same disjoint training sets, show:

    dev_a = S_a·u,   dev_b = S_b·(ρ·u + √(1 − ρ²)·w),   S·S = covariance of log loss (`kernreg.scatter`)

ρ is itself drawn, by Fisher's z with the degrees of freedom of the replicates. (Simulated: see
tests/test_pairs.py for the coverage of planted differences.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kernreg.curve import LearningCurve
from kernreg.errors import KernregError
from kernreg.exponent import MISFIT, PowerLawFit
from kernreg.powerlaws import PARAMETERS, fit_law, refit
from kernreg.scatter import Points, points_of_curve, whitening

Array = NDArray[np.float64]

LARGEST_CORRELATION = 1 - 1e-12
ROUNDING = 1e-6  # of curves that are one
MANY = 1e9  # degrees of freedom of a scatter that is not estimated


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two curves.

    Attributes:
        curve: its loss at every sample count.
        fit: its exponent, or None.
        rows: a digest of the training and test rows in their order; equal ones are paired.
    """

    curve: LearningCurve
    fit: PowerLawFit | None
    rows: str


@dataclass(frozen=True)
class Difference:
    """What the first curve's exponent or log loss is above the second's.

    Attributes:
        value: β_first − β_second, or log(L_first/L_second).
        interval: (low, high) at `confidence`.
        both: the two exponents, or the two losses.
        window: (lowest, highest) sample count that it rests on.
        model: of the loss; "" for a loss.
        correlation: ρ of the training scatter; None if the rows are not the same ones and the draws independent.
    """

    value: float
    interval: tuple[float, float]
    both: tuple[float, float]
    window: tuple[float, float]
    model: str
    correlation: float | None
    confidence: float

    @property
    def nothing(self) -> bool:
        """Whether it is rounding."""
        return abs(self.value) < ROUNDING

    @property
    def apart(self) -> bool:
        """Whether the interval excludes 0."""
        return not self.nothing and (self.interval[0] > 0 or self.interval[1] < 0)


def largest_gap(first: LearningCurve, second: LearningCurve) -> tuple[float, int]:
    """The largest relative difference of two losses over all sample counts, and where it is.

    Raises:
        KernregError: curves of different length.
    """
    if len(first.loss) != len(second.loss):
        raise KernregError(
            f"curves of {len(first.loss)} and {len(second.loss)} samples cannot coincide: give both one n"
        )
    size = np.maximum(np.abs(first.loss), np.abs(second.loss))
    gap = np.abs(first.loss - second.loss) / np.where(size > 0, size, 1.0)
    at = int(np.argmax(gap))
    return float(gap[at]), int(first.samples[at])


def exponent_difference(
    first: Side, second: Side, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> Difference:
    """β_first − β_second over the window that both fits share, one model for both.

    The model is that of the two fits where they agree, else "power": exponents of different laws are different
    things. Where the law misses the points by more than their scatter the draws are widened as in `fit_exponent`.

    Raises:
        KernregError: a curve without an exponent, or windows that share too few points.
    """
    if first.fit is None or second.fit is None:
        raise KernregError("one of the two curves has no exponent")
    model = first.fit.model if first.fit.model == second.fit.model else "power"
    window = (
        max(first.fit.window[0], second.fit.window[0]),
        min(first.fit.window[1], second.fit.window[1]),
    )
    inside = _common(first, second, [fit.points.inside(*window) for fit in (first.fit, second.fit)])
    if min(len(points.samples) for points in inside) < max(3, len(PARAMETERS[model]) + 1):
        raise KernregError(
            f"the two fits share the window {window[0]:g}:{window[1]:g}, too few points for {model!r}"
        )
    deviations, correlation = _deviations(first, second, inside, draws, seed)
    found, both = [], []
    for points, deviation in zip(inside, deviations, strict=True):
        C = whitening(points.covariance)
        law, residual = fit_law(model, points.samples, np.log(points.loss), C)
        freedom = len(points.samples) - len(PARAMETERS[model])
        factor = _widened(residual, freedom, points.measured)
        fitted = np.log(law.predict(points.samples))
        found.append(refit(law, points.samples, fitted + factor * deviation, C)[0])
        both.append(law.exponent)
    low, high = _quantiles(found[0] - found[1], confidence)
    # The quantiles are those of refits around the fitted laws; rounding may leave the estimate outside.
    value = both[0] - both[1]
    interval = (min(low, value), max(high, value))
    return Difference(value, interval, (both[0], both[1]), window, model, correlation, confidence)


def loss_difference(
    first: Side, second: Side, confidence: float = 0.95, draws: int = 1000, seed: int = 0
) -> Difference:
    """log(L_first/L_second) at the largest sample count of each curve.

    Raises:
        KernregError: a loss that is not positive.
    """
    points = [_last(_points(side)) for side in (first, second)]
    deviations, correlation = _deviations(first, second, points, draws, seed)
    both = (float(points[0].loss[-1]), float(points[1].loss[-1]))
    value = float(np.log(both[0] / both[1]))
    low, high = _quantiles(deviations[0][:, -1] - deviations[1][:, -1], confidence)
    last = float(points[0].samples[-1]), float(points[1].samples[-1])
    return Difference(
        value, (value + low, value + high), both, (min(last), max(last)), "", correlation, confidence
    )


def _common(first: Side, second: Side, points: list[Points]) -> list[Points]:
    """On equal rows the sample counts that both curves have, so that their draws can be paired: trained networks have
    points at some of a kernel's."""
    if first.rows != second.rows:
        return points
    shared = np.intersect1d(points[0].samples, points[1].samples)
    return [p.at(np.isin(p.samples, shared)) for p in points]


def _points(side: Side) -> Points:
    return points_of_curve(side.curve) if side.fit is None else side.fit.points


def _last(points: Points) -> Points:
    return points.inside(points.samples[-1], points.samples[-1])


def _deviations(
    first: Side, second: Side, points: list[Points], draws: int, seed: int
) -> tuple[tuple[Array, Array], float | None]:
    """(draws, p) draws of log L − E log L for each side, and ρ."""
    a, b = points
    rng = np.random.default_rng(seed)
    if first.rows != second.rows or not (a.measured and b.measured):
        return (_scaled(a, draws, rng), _scaled(b, draws, rng)), None
    ρ, freedom = replicate_correlation(first.curve, second.curve)
    z = np.arctanh(np.clip(ρ, -LARGEST_CORRELATION, LARGEST_CORRELATION))
    drawn = np.tanh(z + rng.standard_normal(draws) / np.sqrt(max(freedom - 2, 1.0)))
    # Equal curves stay equal whatever is drawn.
    drawn = np.where(abs(ρ) >= LARGEST_CORRELATION, np.sign(ρ), drawn)[:, None]
    scale = np.sqrt(freedom / rng.chisquare(freedom, size=draws))[:, None]
    t = a.row_errors.shape[1]
    times = rng.multinomial(t, np.full(t, 1.0 / t), size=draws)
    u = rng.standard_normal((draws, len(a.samples)))
    w = rng.standard_normal((draws, len(b.samples)))
    dev_a = scale * (u @ _root(a.training)) + a.test_deviations(times)
    dev_b = scale * ((drawn * u + np.sqrt(1 - drawn**2) * w) @ _root(b.training)) + b.test_deviations(times)
    return (dev_a, dev_b), float(ρ)


def _scaled(points: Points, draws: int, rng: np.random.Generator) -> Array:
    """Independent draws; where nothing has told the size of the scatter it is a rule of thumb."""
    if not np.isfinite(points.freedom):
        size = points.scatter / np.sqrt(np.diag(points.training))
        points = replace(points, training=points.training * np.outer(size, size), freedom=MANY)
    return points.deviations(draws, rng)


def replicate_correlation(first: LearningCurve, second: LearningCurve) -> tuple[float, float]:
    """ρ of the relative losses of two curves on the same disjoint training sets, and its degrees of freedom.

    Pooled over the anchors; neighbouring ones share half their rows and count as half, as in `kernreg.scatter`.
    """
    cross = own_a = own_b = freedom = 0.0
    for m in np.intersect1d(first.anchors, second.anchors).tolist():
        errors = [_errors_at(curve, m) for curve in (first, second)]
        shared = sorted(errors[0].keys() & errors[1].keys())
        a, b = (np.array([found[start] for start in shared]) for found in errors)
        if len(a) < 2 or not (a.any() and b.any()):
            continue
        a, b = a / a.mean() - 1, b / b.mean() - 1
        cross, own_a, own_b = cross + m * (a @ b), own_a + m * (a @ a), own_b + m * (b @ b)
        freedom += (len(a) - 1) / 2
    ρ = cross / np.sqrt(own_a * own_b) if own_a > 0 and own_b > 0 else 0.0
    return float(np.clip(ρ, -1, 1)), max(freedom, 3.0)


def _errors_at(curve: LearningCurve, m: int) -> dict[int, float]:
    """The summed squared errors at m samples, by the first row of the training set."""
    j = int(np.searchsorted(curve.anchors, m))
    return {r.start: float(r.squared_errors[j].sum()) for r in curve.replicates if r.size >= m}


def _root(covariance: Array) -> Array:
    """The symmetric S with S·S = covariance: equal covariances turn equal draws into equal deviations."""
    values, vectors = np.linalg.eigh(covariance)
    S: Array = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return S


def _widened(residual: float, freedom: int, measured: bool) -> float:
    """As `fit_exponent` does: a law that misses the points by more than their scatter widens the interval."""
    from scipy.special import chdtrc

    missed = measured and freedom > 0 and float(chdtrc(freedom, residual)) < MISFIT
    return float(np.sqrt(residual / freedom)) if missed else 1.0


def _quantiles(values: Array, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
