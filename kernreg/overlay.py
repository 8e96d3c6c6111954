"""Theory beside measurement: the spectrum of training rows predicts the test losses of the same Gram store.

Four predictions, none of which sees a test row: `theory`, the expected error on rows left out (`kernreg.leftout`);
`spectrum`, the same where rows are taken as alike, so that eigenvalues and projections suffice (`kernreg.spectra`);
and `gcv` and `loo`, which come with the measured curve and know only its first m rows at m. All are divided by
the zero predictor's error on training rows, the measured loss by the one on test rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError
from kernreg.leftout import left_out_curve
from kernreg.measure import Measurement, measure
from kernreg.ridge import RidgeMode
from kernreg.scatter import Points, points_of_curve
from kernreg.spectra import Spectrum, spectrum
from kernreg.spectralexponents import GROUPS, SpectralExponents, spectral_exponents
from kernreg.store import GramStore

Array = NDArray[np.float64]

FIRST_COMPARED = 100


@dataclass(frozen=True, eq=False)
class Departure:
    """How far a prediction lies from the measured loss.

    Attributes:
        worst: the largest |prediction/loss − 1|; at: its sample count.
        typical: the root of the mean square of log(prediction/loss), each octave of m with the same weight.
        compared: how many sample counts.
    """

    worst: float
    at: int
    typical: float
    compared: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"worst": self.worst, "at": self.at, "typical": self.typical, "compared": self.compared}


@dataclass(frozen=True, eq=False)
class Overlay:
    """One kernel of one store, measured and predicted.

    Attributes:
        measurement: the curve and its fitted exponent.
        spectrum: of the last `spectrum.rows` of the n training rows.
        exponents: a, b and β of these rows, or None, and `unfit` says why.
        samples: (s,) m = 1…spectrum.rows.
        theory, by_spectrum: (s,) the predicted normalised losses there.
        departures: by the name of the prediction, against the measured curve at every m ≥ `first`.
        mean_departure: of the theory, against the mean loss over disjoint training sets, at anchors m ≥ `first`.
        first: the smallest sample count compared.
    """

    measurement: Measurement
    spectrum: Spectrum
    exponents: SpectralExponents | None
    unfit: str
    samples: NDArray[np.int64]
    theory: Array
    by_spectrum: Array
    departures: dict[str, Departure]
    mean_departure: Departure | None
    first: int

    @property
    def points(self) -> Points:
        """The measured means at the anchors, and their scatter."""
        return points_of_curve(self.measurement.curve)

    def to_dict(self) -> dict[str, Any]:
        """The measurement's dictionary with what the theory says beside it."""
        ends = self.exponents
        local = None if ends is None or not math.isfinite(ends.local) else ends.local
        return {
            **self.measurement.to_dict(),
            "spectrum_rows": self.spectrum.rows,
            "spectral_exponents": None if ends is None else {**ends.to_dict(), "local": local},
            "spectral_unfit": self.unfit,
            "compared_from": self.first,
            "departures": {name: d.to_dict() for name, d in self.departures.items()},
            "mean_departure": None if self.mean_departure is None else self.mean_departure.to_dict(),
        }


def overlay(
    store: GramStore,
    kernel: str | None = None,
    ridge: float | str = 1e-6,
    ridge_mode: RidgeMode = "absolute",
    *,
    part: float = 1.0,
    groups: int = GROUPS,
    first: int = FIRST_COMPARED,
) -> Overlay:
    """Measure one kernel of a complete store and lay the theory over it.

    Args:
        store, kernel, ridge, ridge_mode: as in `kernreg.measure.measure`.
        part: share of the training rows, from the end, that the spectrum is taken from. With 0.5 the rows it
            knows and those the measured curve is trained on, m ≤ n/2, have none in common.
        groups: of the jackknife of the spectral exponents; 0 for no intervals.
        first: sample counts below are drawn but not compared.

    Raises:
        KernregError: a part outside (0, 1], and as `measure` and `spectrum`.
    """
    if not 0 < part <= 1:
        raise KernregError(f"part must be a share of the rows in (0, 1], not {part!r}")
    measured = measure(store, kernel, ridge, ridge_mode)
    curve = measured.curve
    rows = slice(store.n - max(1, round(part * store.n)), store.n)
    K, y = store.train(measured.kernel)[rows, rows], store.y_train[rows]
    zero_error = float(np.square(store.y_train, dtype=np.float64).sum() / store.n)
    found = spectrum(K, y, curve.ridge)
    exponents, unfit = None, ""
    try:
        exponents = spectral_exponents(K, y, curve.ridge, groups=groups, whole=found)
    except KernregError as error:
        unfit = str(error)
    m = np.arange(1, found.rows + 1)
    theory = left_out_curve(K, y, curve.ridge, whole=found) / zero_error
    by_spectrum = found.held_out(m) / zero_error
    points = points_of_curve(curve)
    predictions = {"theory": theory, "spectrum": by_spectrum, "gcv": curve.gcv, "loo": curve.loo}
    departures = {
        name: departure(curve.samples[: len(m)], values[: len(m)], curve.loss[: len(m)], first)
        for name, values in predictions.items()
        if values is not None
    }
    at = points.samples <= found.rows
    anchors = points.samples[at].astype(np.int64)
    mean = departure(anchors, theory[anchors - 1], points.loss[at], first)
    return Overlay(
        measurement=measured,
        spectrum=found,
        exponents=exponents,
        unfit=unfit,
        samples=m,
        theory=theory,
        by_spectrum=by_spectrum,
        departures={name: d for name, d in departures.items() if d is not None},
        mean_departure=mean,
        first=first,
    )


def departure(samples: NDArray[np.int64], predicted: Array, loss: Array, first: int) -> Departure | None:
    """Compare two curves (s,) at sample counts from `first` on; None if there are none."""
    at = np.flatnonzero((samples >= first) & (loss > 0) & (predicted > 0))
    if not len(at):
        return None
    off = np.abs(predicted[at] / loss[at] - 1)
    weight = 1 / samples[at]
    square = np.square(np.log(predicted[at] / loss[at]))
    worst = int(off.argmax())
    return Departure(
        worst=float(off[worst]),
        at=int(samples[at[worst]]),
        typical=float(np.sqrt((weight * square).sum() / weight.sum())),
        compared=len(at),
    )
