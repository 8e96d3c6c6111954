"""Breaks of a learning curve: does its exponent change, where, and what kind of change is it.

    log L = log A − c0·log m − c1·f·log(1 + (m/d)^{1/f})        slope c0 before the break at d, c0 + c1 after it

(Caballero et al. 2023, one break). The fits are those of `kernreg.brokenlaws`: the best break, the likelihood
ratio against the single power law, and thousands of bootstrap replicates of both are one matrix product.

The test. sup over (d, f) of the drop of |C·(log L − law)|² from no break to one, CᵀC the inverse of the measured
covariance of the points (`kernreg.scatter`). Its distribution under a single power law does not depend on A and c0; it is
simulated with the same scatter, test rows resampled and τ² redrawn (a parametric bootstrap, because d and f do
not exist without a break: Davies 1977). A floor E flattens a curve in one way only, so that it has a sharper test of
its own: the score of E > 0 at the single power law, ∂log L/∂E ~ m^c0. Losses without replicates know their scatter up
to a factor only: there the drop is taken relative to what is left without a break.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

from kernreg.brokenlaws import EDGE, BrokenLaws
from kernreg.errors import KernregError
from kernreg.exponent import FIRST_SAMPLES, MISFIT, given_points
from kernreg.fitwarnings import find_peak
from kernreg.powerlaws import PowerLaw, aicc, fit_law
from kernreg.scatter import Points, whitening

if TYPE_CHECKING:
    from kernreg.curve import LearningCurve

Array = NDArray[np.float64]

DIDE = "steeper after the break (DIDE)"
CROSSOVER = "noise or floor crossover"
NONE = "no break"

# Two slopes, a place and a sharpness take this many points before anything is left to test them with.
FEWEST_POINTS = 8
# A change of slope below this is bending, which every curve of finite size does.
SMALLEST_CHANGE = 0.15
PARAMETERS = 5


@dataclass(frozen=True, eq=False)
class Break:
    """What was found.

    Attributes:
        kind: `DIDE`, `CROSSOVER` or `NONE`.
        at, at_interval: d in samples, and its interval at `confidence`; also where no break was found (the best one).
        before, before_interval: c0.
        change, change_interval: c1.
        after, after_interval: c0 + c1.
        sharpness: f; the slope changes over about m/d = e^{±2f}.
        p_value: share of single power laws whose best break would be as good.
        floor_p_value: share of single power laws that look as much as if they had a floor.
        level: the p-value below which a break, or the floor of a crossover, is believed.
        offset: E of the law with an offset where it fits as well as the break does (AICc), else None.
        window: (lowest, highest) sample count.
        confidence: of the intervals.
        warnings: sentences.
        points: the losses and their covariance.
    """

    kind: str
    at: float
    at_interval: tuple[float, float]
    before: float
    before_interval: tuple[float, float]
    change: float
    change_interval: tuple[float, float]
    after: float
    after_interval: tuple[float, float]
    sharpness: float
    scale: float
    p_value: float
    floor_p_value: float
    level: float
    offset: float | None
    window: tuple[float, float]
    confidence: float
    warnings: tuple[str, ...]
    points: Points

    @property
    def found(self) -> bool:
        """Whether there is a break of either kind."""
        return self.kind != NONE

    def predict(self, m: ArrayLike) -> Array:
        """The loss of the broken law at m samples, float64, in the shape of m."""
        numbers = {"A": self.scale, "c0": self.before, "c1": self.change, "d": self.at, "f": self.sharpness}
        return PowerLaw("broken", numbers).predict(m)

    def sentence(self) -> str:
        """What was found, for a reader."""
        by_floor = self.kind == CROSSOVER and self.p_value >= self.level
        p = f"p = {self.floor_p_value:.2g} of a floor" if by_floor else f"p = {self.p_value:.2g}"
        if not self.found:
            return f"no break ({p} against a single power law)"
        low, high = self.at_interval
        said = (
            f"{self.kind}: at {self.at:.3g} samples [{low:.3g}, {high:.3g}] the exponent goes from "
            f"{self.before:.2f} [{self.before_interval[0]:.2f}, {self.before_interval[1]:.2f}] to "
            f"{self.after:.2f} [{self.after_interval[0]:.2f}, {self.after_interval[1]:.2f}] ({p})"
        )
        return said if self.offset is None else f"{said}; an offset E = {self.offset:.3g} explains it"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the points, ready for JSON."""
        return {
            "kind": self.kind,
            "found": self.found,
            "at": self.at,
            "at_interval": list(self.at_interval),
            "c0": self.before,
            "c0_interval": list(self.before_interval),
            "c1": self.change,
            "c1_interval": list(self.change_interval),
            "c0+c1": self.after,
            "c0+c1_interval": list(self.after_interval),
            "sharpness": self.sharpness,
            "p_value": self.p_value,
            "floor_p_value": self.floor_p_value,
            "level": self.level,
            "offset": self.offset,
            "window": list(self.window),
            "confidence": self.confidence,
            "warnings": list(self.warnings),
            "sentence": self.sentence(),
        }


def detect_break(
    samples: LearningCurve | ArrayLike,
    loss: ArrayLike | None = None,
    *,
    window: tuple[float, float] | None = None,
    confidence: float = 0.95,
    level: float = 0.01,
    draws: int = 2000,
    seed: int = 0,
) -> Break:
    """Look for one break: `detect_break(curve)`, or `detect_break(samples, loss)`.

    A break is believed if its p-value (of a crossover also that of a floor) is below `level`, the interval of c1
    does not contain 0, and the slope changes by at least SMALLEST_CHANGE: the points of a good curve show bends
    that no one would call a break.

    Args:
        samples: a `LearningCurve`, or increasing sample counts (p,).
        loss: (p,) positive losses; left out with a LearningCurve.
        window: (lowest, highest) sample count, ends included. Default: everything from 8 samples on, after
            the last peak if a factor 8 remains.
        confidence: of the intervals.
        level: of the test.
        draws: bootstrap draws, at least 100; the p-value is at least 1/(draws + 1).
        seed: of the bootstrap.

    Raises:
        KernregError: fewer than eight points in the window, losses that are not positive, numbers out of range.
    """
    points, _ = given_points(samples, loss)
    for name, value in (("confidence", confidence), ("level", level)):
        if not 0 < value < 1:
            raise KernregError(f"{name} must lie between 0 and 1, not {value!r}")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 100:
        raise KernregError(f"draws must be a whole number of at least 100, not {draws!r}")
    inside = points.inside(*(window or _window(points)))
    m, p = inside.samples, len(inside.samples)
    if p < FEWEST_POINTS:
        raise KernregError(
            f"a break takes at least {FEWEST_POINTS} points in the window, not {p}; measure more sample counts"
        )
    C = whitening(inside.covariance)
    laws = BrokenLaws(np.log(m), C)
    y = C @ np.log(inside.loss)
    best, drop = laws.best(y[None])
    unbroken = float(laws.residual(y[None])[0]) ** 2
    rest, freedom = max(unbroken - float(drop[0]), 0.0), p - PARAMETERS

    factor, misfit = 1.0, None
    if points.measured:
        misfit = float(chdtrc(freedom, rest))
        if misfit < MISFIT:
            factor = float(np.sqrt(rest / freedom))
    else:
        factor = float(np.sqrt(max(rest / freedom, 1e-20)))
        inside = replace(inside, freedom=float(freedom))
    noise = factor * inside.deviations(draws, np.random.default_rng(seed)) @ C.T
    _, drops = laws.best(noise)
    if points.measured:
        as_good = drops >= drop[0]
    else:
        as_good = drops / laws.residual(noise) ** 2 >= drop[0] / max(unbroken, 1e-300)
    p_value = float((1 + np.count_nonzero(as_good)) / (draws + 1))

    floor = laws.floor(y[None])
    floors, flat = floor(noise), float(floor(y[None])[0])
    if not points.measured:
        floors, flat = floors / laws.residual(noise), flat / float(laws.residual(y[None])[0])
    floor_p_value = float((1 + np.count_nonzero(floors >= flat)) / (draws + 1))

    θ = laws.coefficients(y[None], best)
    fitted = laws.values(θ, best)[0]
    chosen, _ = laws.best(fitted + noise)
    again = laws.coefficients(fitted + noise, chosen)
    tail = (1 - confidence) / 2

    def interval(values: Array) -> tuple[float, float]:
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)

    c0, c1 = float(θ[0, 1]), float(θ[0, 2])
    spread = interval(again[:, 2])
    kind = NONE
    if abs(c1) >= SMALLEST_CHANGE and not spread[0] <= 0 <= spread[1]:
        if c1 > 0 and p_value < level:
            kind = DIDE
        elif c1 < 0 and min(p_value, floor_p_value) < level:
            kind = CROSSOVER
    found = Break(
        kind=kind,
        at=float(laws.d[best[0]]),
        at_interval=interval(laws.d[chosen]),
        before=c0,
        before_interval=interval(again[:, 1]),
        change=c1,
        change_interval=spread,
        after=c0 + c1,
        after_interval=interval(again[:, 1] + again[:, 2]),
        sharpness=float(laws.f[best[0]]),
        scale=float(np.exp(θ[0, 0])),
        p_value=p_value,
        floor_p_value=floor_p_value,
        level=level,
        offset=_offset(inside, C, rest) if kind == CROSSOVER else None,
        window=(float(m[0]), float(m[-1])),
        confidence=confidence,
        warnings=(),
        points=points,
    )
    return replace(found, warnings=_warnings(found, inside, misfit, factor))


def _window(points: Points) -> tuple[float, float]:
    m = points.samples
    low, high = min(float(FIRST_SAMPLES), float(m[0])) if m[-1] < FIRST_SAMPLES else FIRST_SAMPLES, m[-1]
    near = points.inside(low, high)
    peak = find_peak(near.samples, near.loss, near.scatter)
    if peak is not None and 8 * peak.over <= high:
        low = peak.over
    return float(low), float(high)


def _offset(points: Points, C: Array, rest: float) -> float | None:
    law, residual = fit_law("offset", points.samples, np.log(points.loss), C)
    p, known = len(points.samples), points.measured
    if aicc(residual, p, "offset", known) <= aicc(rest, p, "broken", known):
        return law.parameters["E"]
    return None


def _warnings(found: Break, points: Points, misfit: float | None, factor: float) -> tuple[str, ...]:
    said, m = [], points.samples
    if found.found:
        edges = m[EDGE] * 1.1, m[-1 - EDGE] / 1.1
        if not edges[0] < found.at < edges[1]:
            said.append(f"the break at {found.at:.3g} samples lies at the edge of the window: not determined")
        low, high = found.at_interval
        if high > 4 * low:
            said.append(f"the break is known to within a factor {high / low:.2g} only")
    peak = find_peak(m, points.loss, points.scatter)
    if peak is not None:
        said.append(
            f"the loss peaks at {peak.samples:g} samples ({peak.height:.2g} times the loss before): a slope "
            "that changes there is interpolation or multiple descent, not a break"
        )
    if misfit is not None and factor > 1:
        said.append(
            f"the points miss the law by {factor:.2g} times their scatter (p = {misfit:.1g}): more than one "
            "break, or none; intervals and test were widened"
        )
    if not points.measured:
        said.append("no replicates: the scatter is that around the fit itself")
    return tuple(said)
