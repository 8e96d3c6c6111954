"""Spectral exponents of a Gram matrix and its targets, λ_k ~ k^{-b} and v_k² ~ k^{-a}, with intervals.

What is fitted and why is in `kernreg.spectra`. Intervals come from the delete-a-group jackknife over rows
(Efron and Tibshirani 1993, ch. 11): the spectrum is taken again without each of g groups of rows; a drift of the slope
along the window beyond that scatter widens them. They cover what other rows would have given, not a spectrum that is
no power law in its window; there a warning says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from kernreg.cholesky import check_gram
from kernreg.errors import KernregError
from kernreg.spectra import Spectrum, spectrum
from kernreg.targets import targets
from kernreg.theory import limit_exponent

Array = NDArray[np.float64]

GROUPS = 8
SMALLEST_ROWS = 64
FIRST_SAMPLES, FIRST_MODE = 8, 4
# Sums over k modes of a sample of N are off by about k/N.
LARGEST_SHARE = 1 / 8
# A tail that is leak by more than this is not the target's; one that is so from the first modes on says
# nothing about a but that it is large.
LARGEST_LEAK = 1 / 3
POINTS = 24
NARROW = 4.0
# Halves of a window whose slopes differ by more than this, and by more than scatter explains, are no power law.
BENT, BENT_DEVIATIONS = 0.3, 3.0
SLOW = 0.3
RIDGE_SHARE = 0.1


@dataclass(frozen=True)
class Tail:
    """One exponent.

    Attributes:
        value: the slope; interval: (low, high), or None without groups and for an `a` that is no estimate.
        window: lowest and highest m (for b) or k (for a) that was fitted.
        halves: the slopes of the first and the second half of the window.
    """

    value: float
    interval: tuple[float, float] | None
    window: tuple[float, float]
    halves: tuple[float, float]


@dataclass(frozen=True)
class SpectralExponents:
    """What the spectra say about the learning curve.

    Attributes:
        a, b: of target energies and kernel eigenvalues.
        saturated: the tail of the targets is lost in what larger modes leak into it, as for a > 2b + 1: `a` is then
            a reading that leaks limit, not an estimate, and β is 2b.
        beta: min(a − 1, 2b), the exponent in the limit of many samples.
        beta_interval: at `confidence`, or None without groups.
        local: −d log E/d log m of the predicted held-out curve over its last factor 2: what this many rows show.
        confidence: of all intervals.
        warnings: sentences; not empty where beta should not be quoted without them.
    """

    a: Tail
    b: Tail
    saturated: bool
    beta: float
    beta_interval: tuple[float, float] | None
    local: float
    confidence: float
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        tails = {
            name: {
                "value": tail.value,
                "interval": None if tail.interval is None else list(tail.interval),
                "window": list(tail.window),
                "halves": list(tail.halves),
            }
            for name, tail in (("a", self.a), ("b", self.b))
        }
        return {
            **tails,
            "saturated": self.saturated,
            "beta": self.beta,
            "beta_interval": None if self.beta_interval is None else list(self.beta_interval),
            "local": self.local,
            "confidence": self.confidence,
            "warnings": list(self.warnings),
        }


def spectral_exponents(
    K: ArrayLike,
    y: ArrayLike,
    ridge: float = 0.0,
    *,
    groups: int = GROUPS,
    confidence: float = 0.95,
    whole: Spectrum | None = None,
) -> SpectralExponents:
    """a, b and β of one Gram matrix and its targets.

    Args:
        K: (N, N), N ≥ 64.  y: (N,) or (N, c).  ridge: δ ≥ 0, absolute.
        groups: of the jackknife, at least 3, each one more eigendecomposition; 0 for no intervals.
        confidence: of the intervals.
        whole: `spectrum(K, y, ridge)` if it is there already.

    Raises:
        KernregError: too few rows, or as `kernreg.spectra.spectrum`.
    """
    K, y = check_gram(K), targets(y, "y")
    if len(K) < SMALLEST_ROWS:
        raise KernregError(f"spectral exponents need at least {SMALLEST_ROWS} rows, not {len(K)}")
    if groups and (isinstance(groups, bool) or not isinstance(groups, int) or groups < 3):
        raise KernregError(f"groups must be 0 or a whole number of at least 3, not {groups!r}")
    if not 0 < confidence < 1:
        raise KernregError(f"confidence must lie between 0 and 1, not {confidence!r}")
    whole = whole or spectrum(K, y, ridge)
    (a, saturated), b = target_exponent(whole), kernel_exponent(whole)
    β, interval, scatter = _limit(a, b, saturated), None, np.zeros(2)
    if groups:
        left = np.empty((groups, 5))
        for g in range(groups):
            kept = np.arange(len(K)) % groups != g
            part = spectrum(K[np.ix_(kept, kept)], y[kept], ridge)
            # The window of all rows: k stays, m is a share of the rows.
            share = part.rows / whole.rows
            b_g = kernel_exponent(part, (b.window[0] * share, float(part.rows)))
            a_g, _ = target_exponent(part, a.window, saturated)
            values = a_g.value, b_g.value, _limit(a_g, b_g, saturated)
            left[g] = *values, *(np.subtract(*tail.halves) for tail in (a_g, b_g))
        deviations = np.sqrt((groups - 1) / groups * np.square(left - left.mean(axis=0)).sum(axis=0))
        scatter = deviations[3:]
        bends = np.abs([np.subtract(*a.halves), np.subtract(*b.halves)])
        # A slope that changes along the window by more than its scatter is not yet the limit, by about half as much.
        drift_a, drift_b = np.maximum(bends - 2 * scatter, 0.0) / 2
        by_kernel = saturated or a.value - 1 > 2 * b.value
        drifts = np.array([drift_a, drift_b, 2 * drift_b if by_kernel else drift_a])
        half = np.hypot(float(stdtrit(groups - 1, (1 + confidence) / 2)) * deviations[:3], drifts)
        interval = (β - float(half[2]), β + float(half[2]))
        b = _with_interval(b, float(half[1]))
        if not saturated:
            a = _with_interval(a, float(half[0]))
    ends = whole.held_out([whole.rows / 2, whole.rows])
    local = float(np.log2(ends[0] / ends[1])) if ends.min() > 0 else np.inf
    found = SpectralExponents(a, b, saturated, β, interval, local, confidence, ())
    return replace(found, warnings=_warnings(whole, found, scatter))


def kernel_exponent(spectrum: Spectrum, window: tuple[float, float] | None = None) -> Tail:
    """b from κ̂(m) ~ (m + ½)^{-b} over the last decade of m, or over `window`."""
    N = spectrum.rows
    low, high = window or (max(float(FIRST_SAMPLES), N / 10), float(N))
    m = np.geomspace(low, high, POINTS)
    return _slope(np.log(m + 0.5), np.log(spectrum.effective_ridge(m)), (low, high), 0.0)


def target_exponent(
    spectrum: Spectrum, window: tuple[float, float] | None = None, saturated: bool = False
) -> tuple[Tail, bool]:
    """a, and whether it is lost in the leak, from the tail sums ~ (k + ½)^{1−a}.

    The window is FIRST_MODE ≤ k ≤ N/8, shorter where the tail leaks, unless it is given. If too little is left
    before the leak (`saturated`) it is all of it, nothing subtracted.

    Raises:
        KernregError: no energy of the targets lies beyond the first modes.
    """
    k, tail, leak = spectrum.tails()
    last = int(LARGEST_SHARE * spectrum.rows)
    if window is None:
        spoilt = np.flatnonzero((leak > LARGEST_LEAK * tail) & (k >= FIRST_MODE))
        end = min(last, int(k[spoilt[0]]) - 1) if len(spoilt) else last
        saturated = end < NARROW * FIRST_MODE and end < last
        window = (float(FIRST_MODE), float(last if saturated else end))
    at = np.unique(np.round(np.geomspace(*window, POINTS)).astype(np.int64)) - 1
    own = tail[at] if saturated else tail[at] - leak[at]
    if not (own > 0).all():
        raise KernregError("no energy of the targets lies beyond the first modes of the kernel")
    return _slope(np.log(k[at] + 0.5), np.log(own), window, 1.0), saturated


def _slope(x: Array, y: Array, window: tuple[float, float], plus: float) -> Tail:
    def fitted(part: slice) -> float:
        return float(plus - np.polynomial.Polynomial.fit(x[part], y[part], 1).convert().coef[1])

    middle = len(x) // 2
    halves = (fitted(slice(0, middle + 1)), fitted(slice(middle, None)))
    return Tail(fitted(slice(None)), None, window, halves)


def _limit(a: Tail, b: Tail, saturated: bool) -> float:
    return 2 * b.value if saturated else limit_exponent(a.value, b.value)


def _with_interval(tail: Tail, half: float) -> Tail:
    return Tail(tail.value, (tail.value - half, tail.value + half), tail.window, tail.halves)


def _warnings(whole: Spectrum, exponents: SpectralExponents, scatter: Array) -> tuple[str, ...]:
    a, b, β = exponents.a, exponents.b, exponents.beta
    found = []
    if exponents.saturated:
        found.append(
            f"the targets' tail is lost in what larger modes leak into it: a is at least about {a.value:.1f}, "
            "and the kernel's own 2b limits the exponent"
        )
    named = (("a", "target energies", a, scatter[0]), ("b", "kernel eigenvalues", b, scatter[1]))
    for name, what, tail, deviation in named:
        first, second = tail.halves
        bend = abs(first - second)
        if bend > max(BENT * max(abs(tail.value), 0.5), BENT_DEVIATIONS * float(deviation)):
            found.append(
                f"{name} changes from {first:.2f} to {second:.2f} across its window: the {what} are no power "
                "law there"
            )
    share = whole.ridge / float(whole.effective_ridge([whole.rows])[0]) / whole.rows
    if share > RIDGE_SHARE:
        found.append(f"the ridge takes up {share:.0%} of the samples: β is that of no ridge")
    if a.value <= 1:
        found.append("the energy of the targets does not decay with k (a ≤ 1): noise, or no alignment")
    elif β < SLOW:
        found.append(
            f"slow targets are far from their limit at any size: at {whole.rows} rows the theory's own local "
            f"exponent is {exponents.local:.2f}, its limit {β:.2f}"
        )
    return tuple(found)
