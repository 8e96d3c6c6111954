"""The points of a learning curve that a power law is fitted to, and how far they scatter.

Two things make a measured loss differ from its expectation: which rows were trained on and which rows were
tested on. Both move neighbouring points of a curve together, so a covariance is needed, not error bars alone.

Training rows. The mean over disjoint training sets of size m has, to first order in single rows (Hoeffding
1948),

    Cov(log L(m), log L(m')) = τ²·(m/m')^c·|S ∩ S'|/(|S|·|S'|),    m ≤ m',

with S the union of the rows used at m: variance τ²/m for one set, and (m/m')^c because the rows that matter
change with m. τ² and c are measured on the replicates. At m = n there is one training set; its variance is
the one of the smaller sets, carried over by τ²/m. (Simulated for Gaussian features with λ_k ~ k^{-b}, v_k² ~
k^{-a}, m = 8…512 and three (a, b): τ constant within 20 %, c between 0.8 and 1.5.)

Test rows. Their covariance follows from the squared errors of the single rows, all points sharing the same
rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

# Relative scatter is pooled over points within this factor of m: near enough for τ² to be one number.
POOLED_FACTOR = 10.0
# One nested curve without replicates: variance ~ m^{-1/2} (training rows give m^{-1}, test rows m^0) and
# correlation m/m'. Simulated as above, t = n: correlations .68 .45 .33 .2 at factors √2, 2, 2√2, 4.
SINGLE_VARIANCE = 0.5
SINGLE_CORRELATION = 1.0
USUAL_SCATTER = 1.2  # τ; 0.8 to 2 in the same simulations
AT_MOST_UNTHINNED = 16


class Chain(Protocol):
    """What is read of a `kernreg.curve.Replicate`."""

    @property
    def start(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def squared_errors(self) -> Array: ...


class Curve(Protocol):
    """What is read of a `kernreg.curve.LearningCurve`."""

    @property
    def samples(self) -> Counts: ...
    @property
    def loss(self) -> Array: ...
    @property
    def anchors(self) -> Counts: ...
    @property
    def squared_targets(self) -> Array: ...
    @property
    def replicates(self) -> tuple[Chain, ...]: ...


@dataclass(frozen=True, eq=False)
class Points:
    """Mean losses at p sample counts and their covariance.

    Attributes:
        samples: (p,) float64, increasing.
        loss: (p,) normalised loss, mean over the training sets.
        replicates: (p,) number of disjoint training sets behind each point.
        training: (p, p) covariance of log loss from the training rows; where `measured` is false the
            covariance from both sources, known up to a factor only.
        row_errors: (p, t) squared error of each test row, mean over training sets; (p, 0) if not measured.
        squared_targets: (t,) the denominator of the normalised loss, row by row.
        freedom: degrees of freedom of τ².
        measured: whether replicates and test rows gave the covariance.
    """

    samples: Array
    loss: Array
    replicates: Counts
    training: Array
    row_errors: Array
    squared_targets: Array
    freedom: float
    measured: bool

    @property
    def test(self) -> Array:
        """(p, p) covariance of log loss from the test rows, by the delta method."""
        t = self.row_errors.shape[1]
        if t < 2:
            return np.zeros_like(self.training)
        influence = self.row_errors / self.row_errors.mean(axis=1, keepdims=True)
        influence = influence - self.squared_targets / self.squared_targets.mean()
        covariance: Array = influence @ influence.T / (t * (t - 1.0))
        return covariance

    @property
    def covariance(self) -> Array:
        """(p, p) covariance of log loss from both sources."""
        return self.training + self.test

    @property
    def scatter(self) -> Array:
        """(p,) standard deviation of log loss; a rule of thumb, 1.2/√m, where it is not measured."""
        if self.measured:
            sd: Array = np.sqrt(np.diag(self.covariance))
            return sd
        return USUAL_SCATTER / np.sqrt(self.samples)

    def inside(self, low: float, high: float) -> Points:
        """The points with low ≤ m ≤ high."""
        return self.at((self.samples >= low * (1 - 1e-12)) & (self.samples <= high * (1 + 1e-12)))

    def at(self, chosen: NDArray[np.bool_]) -> Points:
        """The points that a mask (p,) chooses."""
        at = np.flatnonzero(chosen)
        return Points(
            self.samples[at],
            self.loss[at],
            self.replicates[at],
            self.training[np.ix_(at, at)],
            self.row_errors[at],
            self.squared_targets,
            self.freedom,
            self.measured,
        )

    def deviations(self, count: int, rng: np.random.Generator) -> Array:
        """(count, p) draws of log L − E log L.

        Gaussian with a redrawn τ² for the training rows, and test rows resampled with replacement.
        """
        p, t = self.row_errors.shape
        scale = self.freedom / rng.chisquare(self.freedom, size=count)
        draws = (rng.standard_normal((count, p)) @ root(self.training).T) * np.sqrt(scale)[:, None]
        if t >= 2:
            draws += self.test_deviations(rng.multinomial(t, np.full(t, 1.0 / t), size=count))
        return draws

    def test_deviations(self, times: Counts) -> Array:
        """(count, p) change of log L when test row i is drawn times[:, i] times, times (count, t)."""
        sums = times.astype(np.float64) @ np.column_stack([self.row_errors.T, self.squared_targets])
        relative = sums / np.append(self.row_errors.sum(axis=1), self.squared_targets.sum())
        # A resample that misses every row with an error would have the loss zero.
        relative = np.log(np.maximum(relative, 1e-3))
        deviations: Array = relative[:, :-1] - relative[:, -1:]
        return deviations


def root(covariance: Array) -> Array:
    """G with G·Gᵀ = covariance, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    G: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return G


def whitening(covariance: Array) -> Array:
    """C (p, p) with CᵀC = the inverse of a covariance.

    A thousandth of the mean variance is added: it keeps the inverse tame where points share nearly all rows.
    """
    tamed = covariance + 1e-3 * np.mean(np.diag(covariance)) * np.eye(len(covariance))
    C: Array = np.linalg.inv(np.linalg.cholesky(tamed))
    return C


def points_of_curve(curve: Curve) -> Points:
    """Points at the anchors of a curve; without replicates (three somewhere at least) those of its loss."""
    m = np.asarray(curve.anchors)
    chains = [[r for r in curve.replicates if r.size >= k] for k in m]
    R = np.array([len(c) for c in chains])
    if not (R >= 3).any():
        return points_of_arrays(np.asarray(curve.samples), np.asarray(curve.loss))
    # Anchors are common to all replicates: row j of squared_errors belongs to m[j].
    losses = [np.array([r.squared_errors[j].sum() for r in c]) for j, c in enumerate(chains)]
    rows = np.array([np.mean([r.squared_errors[j] for r in c], axis=0) for j, c in enumerate(chains)])
    _require_positive(m, rows.sum(axis=1))
    deviations = [loss / loss.mean() - 1.0 for loss in losses]
    τ2, freedom = _pooled(m, R, deviations)
    c = _decorrelation(m, R, deviations)
    starts = [np.array([r.start for r in chain]) for chain in chains]
    overlap = np.array(
        [[_overlap(starts[i], m[i], starts[j], m[j]) for j in range(len(m))] for i in range(len(m))]
    )
    used = R * m
    training = np.sqrt(np.outer(τ2, τ2)) * _ratio(m) ** c * overlap / np.outer(used, used)
    targets = np.asarray(curve.squared_targets, dtype=np.float64)
    loss = rows.sum(axis=1) / targets.sum()
    return Points(m.astype(np.float64), loss, R, training, rows, targets, freedom, True)


def points_of_arrays(samples: NDArray[np.generic], loss: NDArray[np.generic]) -> Points:
    """Points of one curve given as two arrays (p,): all of them up to 16, else steps of √2 down from the end.

    Raises:
        KernregError: shapes differ, samples not increasing, values not positive and finite.
    """
    m, L = np.asarray(samples, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if m.ndim != 1 or m.shape != L.shape or not len(m):
        raise KernregError(
            f"samples {m.shape} and loss {L.shape} must be one-dimensional, equally long, not empty"
        )
    if not np.isfinite(m).all() or (m <= 0).any() or (np.diff(m) <= 0).any():
        raise KernregError("samples must be positive, finite and increasing")
    _require_positive(m, L)
    if len(m) > AT_MOST_UNTHINNED:
        steps = m[-1] / 2 ** (np.arange(0, 2 * np.log2(m[-1] / m[0]) + 1) / 2)
        at = np.unique([int(np.argmin(np.abs(np.log(m / s)))) for s in steps])
        m, L = m[at], L[at]
    sd = m ** (-SINGLE_VARIANCE / 2)
    shape = np.outer(sd, sd) * _ratio(m) ** SINGLE_CORRELATION
    none = np.zeros((len(m), 0))
    return Points(m, L, np.ones(len(m), dtype=np.int64), shape, none, np.zeros(0), np.inf, False)


def _require_positive(m: NDArray[np.generic], loss: Array) -> None:
    bad = np.flatnonzero(~(np.isfinite(loss) & (loss > 0)))
    if len(bad):
        raise KernregError(
            f"the loss at {m[bad[0]]:g} samples is {loss[bad[0]]:g}; a power law needs positive finite losses"
        )


def _pooled(m: Counts, R: Counts, deviations: list[Array]) -> tuple[Array, float]:
    """τ² (p,) = m·variance of the relative loss of one training set, pooled over neighbouring points, and its
    degrees of freedom."""
    own = np.array([d @ d for d in deviations]) * m  # expectation (R − 1)·τ²
    τ2, freedom = np.empty(len(m)), np.inf
    for j in range(len(m)):
        near = np.abs(np.log(m / m[j])) <= np.log(POOLED_FACTOR)
        near = near if (R[near] > 1).any() else np.ones(len(m), dtype=bool)
        τ2[j] = own[near].sum() / (R[near] - 1).sum()
        # Points a factor √2 apart are correlated by about 0.6: some two points count as one.
        freedom = min(freedom, (R[near] - 1).sum() / 2)
    return τ2, max(freedom, 3.0)


def _decorrelation(m: Counts, R: Counts, deviations: list[Array]) -> float:
    """c, from the correlation √(m/m')·(m/m')^c of neighbouring points of one curve."""
    cross = early = late = 0.0
    steps = []
    for j in range(len(m) - 1):
        r = R[j + 1]
        if r < 2:
            continue
        a = deviations[j][:r] - deviations[j][:r].mean()
        b = deviations[j + 1] - deviations[j + 1].mean()
        cross += float(a @ b) * np.sqrt(m[j] * m[j + 1])
        early, late = early + float(a @ a) * m[j], late + float(b @ b) * m[j + 1]
        steps.append(np.log(m[j + 1] / m[j]))
    if not steps or early == 0 or late == 0:
        return SINGLE_CORRELATION
    correlation = max(cross / np.sqrt(early * late), 1e-3)
    return float(np.clip(-np.log(correlation) / np.mean(steps) - 0.5, 0.25, 3.0))


def _overlap(a: Counts, length_a: int, b: Counts, length_b: int) -> float:
    """Rows that the blocks a, a + 1, … a + length_a − 1 share with those of b."""
    ends = np.minimum(a[:, None] + length_a, b + length_b)
    return float(np.maximum(ends - np.maximum(a[:, None], b), 0).sum())


def _ratio(m: NDArray[np.generic]) -> Array:
    x = np.log(np.asarray(m, dtype=np.float64))
    ratio: Array = np.exp(-np.abs(x[:, None] - x))
    return ratio
