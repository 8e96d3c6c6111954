"""Where a fitted exponent means little: sentences for a reader, each with its cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kernreg.powerlaws import LARGEST_EXPONENT

if TYPE_CHECKING:
    from kernreg.exponent import PowerLawFit

Array = NDArray[np.float64]

FEW_POINTS = 5
NARROW = 4.0
FEW_TEST_ROWS = 100
# A peak is a rise of the loss by more than this factor, and by more than four standard deviations.
RISE, RISE_OF_ONE_CURVE = 1.1, 1.3
SLOW = 0.3
AT_A_BOUND = 0.02


@dataclass(frozen=True)
class Peak:
    """A maximum of the loss.

    Attributes:
        samples: where.  height: in units of the lowest loss before it.
        over: the sample count at which the loss is back at that lowest value; infinity if it never is.
    """

    samples: float
    height: float
    over: float


def find_peak(m: Array, loss: Array, scatter: Array, rise: float = RISE) -> Peak | None:
    """The last place where the loss has risen above its lowest value so far, or None.

    Interpolation peaks (m ≈ rank) and multiple descent (m ≈ d^r/r!) look like this.

    Args:
        m, loss: (p,).  scatter: (p,) standard deviation of log loss.  rise: the smallest factor that counts.
    """
    lowest = np.minimum.accumulate(loss)
    risen = np.flatnonzero(np.log(loss / lowest) > np.maximum(np.log(rise), 4 * scatter))
    if not len(risen):
        return None
    end = int(risen[-1])
    floor = lowest[end]
    begin = int(np.flatnonzero(loss[: end + 1] <= floor)[-1])
    top = begin + int(np.argmax(loss[begin : end + 1]))
    below = np.flatnonzero(loss[end:] <= floor)
    over = float(m[end + below[0]]) if len(below) else np.inf
    return Peak(float(m[top]), float(loss[top] / floor), over)


def warnings_of(fit: PowerLawFit, dense: tuple[Array, Array], widened: float) -> tuple[str, ...]:
    """All warnings that apply. `dense`: the whole curve; `widened`: the factor by which a misfit widened the
    interval."""
    low, high = fit.window
    points = fit.points.inside(low, high)
    found = []
    if len(points.samples) < FEW_POINTS:
        found.append(f"only {len(points.samples)} points in the window: the interval is itself uncertain")
    if high / low < NARROW:
        found.append(f"the window spans a factor {high / low:.2g} of samples, less than {NARROW:g}")
    # Peaks are looked for from a decade before the window on: one that is not over when it begins counts.
    near = fit.points.inside(low / 10, high)
    m, loss = dense
    at = (m >= low) & (m <= high)
    # One nested curve scatters as one training set does: √replicates more than the points, √(m'/m) less later
    # on.
    single = np.sqrt(np.median(points.scatter**2 * points.samples * points.replicates) / m[at])
    peak = find_peak(near.samples, near.loss, near.scatter)
    if peak is None or peak.over <= low:
        peak = find_peak(m[at], loss[at], single, RISE_OF_ONE_CURVE)
    if peak is not None:
        found.append(
            f"the loss peaks at {peak.samples:g} samples ({peak.height:.2g} times the loss before): "
            "interpolation or multiple descent, so no power law holds across the window"
        )
    if (points.loss > 1).any():
        worst = int(np.argmax(points.loss))
        found.append(
            f"the loss at {points.samples[worst]:g} samples is {points.loss[worst]:.3g}, "
            "worse than predicting zero"
        )
    found += _floor(fit, points.loss[-1])
    found += _bounds(fit)
    if fit.interval[0] <= 0 <= fit.interval[1]:
        found.append("the exponent is not distinguishable from 0")
    elif fit.exponent < 0:
        found.append("the loss grows with the number of samples")
    elif fit.exponent < SLOW:
        found.append(
            f"exponents below {SLOW:g} read steep at finite size: where targets decay slowly "
            "(v_k² ~ k^-1.1, λ_k ~ k^-1.2) 0.10 was read as 0.18"
        )
    if widened > 1:
        found.append(
            f"the points miss the fitted law by {widened:.2g} times their scatter (p = {fit.misfit:.1g}): "
            "not this power law; the interval was widened"
        )
    t = points.row_errors.shape[1]
    if points.measured and t < FEW_TEST_ROWS:
        found.append(f"only {t} test rows: resampling them understates their scatter")
    return tuple(found)


def _floor(fit: PowerLawFit, last: float) -> list[str]:
    share = fit.parameters.get("E", 0.0) / last
    if share > 0.5:
        return [
            f"{share:.0%} of the last loss is the offset E: a floor is reached, and the exponent rests on it"
        ]
    s = fit.slopes
    if fit.model not in ("power", "broken") or not len(s.slope):
        return []
    # Without replicates a misfit widens the band itself; the slope has to do.
    sure = s.high[-1] < fit.exponent or not fit.points.measured
    if sure and s.slope[-1] < 0.5 * fit.exponent:
        return [
            f"the local slope at the end is {s.slope[-1]:.2g}, less than half the exponent: a floor is "
            'reached; try model="offset"'
        ]
    return []


def _bounds(fit: PowerLawFit) -> list[str]:
    found, p = [], fit.parameters
    low, high = fit.window
    smallest = float(fit.points.inside(low, high).loss.min())
    if "E" in p and p["E"] < 1e-3 * smallest:
        found.append("the offset E is 0 within rounding: the offset model is a power law here")
    if "d" in p:
        m = fit.points.inside(low, high).samples
        edge = min(2, (len(m) - 1) // 2)
        if min(np.log(p["d"] / m[edge]), np.log(m[-1 - edge] / p["d"])) < AT_A_BOUND:
            found.append(f"the break at {p['d']:.3g} samples lies at the edge of the window: not determined")
    width = fit.interval[1] - fit.interval[0]
    if width > max(1.0, 2 * abs(fit.exponent)):
        found.append(f"the interval is {width:.2g} wide: the window does not determine the exponent")
    low_end, high_end = fit.interval
    if fit.model == "offset" and (low_end <= 0 or high_end >= LARGEST_EXPONENT - AT_A_BOUND):
        found.append(f"the interval touches a bound of the fit, 0 or {LARGEST_EXPONENT:g}")
    return found
