"""Outcomes of a study: the exponent of every curve, which curves are one, and how the others differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.breaks import Break, detect_break
from kernreg.curve import LearningCurve
from kernreg.curvefile import CurveFile
from kernreg.entries import NONE, Entry, by_axes, key, label, matches
from kernreg.errors import KernregError
from kernreg.exponent import PowerLawFit, fit_exponent
from kernreg.invariance import invariant
from kernreg.layers import AvgPool, Conv, GlobalAvgPool, Layer, LocalConv, Residual
from kernreg.pairs import Difference, Side, exponent_difference, largest_gap, loss_difference
from kernreg.progress import Work
from kernreg.spectra import Spectrum
from kernreg.studyfile import StudyFile
from kernreg.symmetry import transform


@dataclass(frozen=True, eq=False)
class Outcome:
    """One entry, measured.

    Attributes:
        entry, label: what it is, and what tables call it.
        curve: its loss at every sample count.
        fit: its exponent, or None, and `unfit` says why.
        broken: what `detect_break` says; None if not asked for or not possible.
        spectrum: of the first N rows of its Gram matrix, or None.
        held_out: (N,) the MSE on rows left out that these rows predict, or None.
        about: where the numbers came from, see `kernreg.curvefile`.
    """

    entry: Entry
    label: str
    curve: LearningCurve
    fit: PowerLawFit | None
    unfit: str
    broken: Break | None
    spectrum: Spectrum | None
    held_out: NDArray[np.float64] | None
    about: dict[str, Any]

    @property
    def loss(self) -> float:
        """At n."""
        return float(self.curve.loss[-1])

    @cached_property
    def predictions(self) -> dict[str, NDArray[np.float64]]:
        """Normalised losses that no test row has told, each for m = 1, 2, …: "theory" (`kernreg.leftout`), "gcv", "loo"."""
        found: dict[str, NDArray[np.float64]] = {}
        if self.held_out is not None:
            found["theory"] = self.held_out / self.about["zero_error"]
        for name, values in (("gcv", self.curve.gcv), ("loo", self.curve.loo)):
            if values is not None:
                found[name] = values
        return found

    @cached_property
    def side(self) -> Side:
        """To be compared with another."""
        return Side(self.curve, self.fit, str(self.about["rows"]))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two curves and by how much they differ.

    Attributes:
        first, second: the two.
        loss: of log(L_first/L_second) at n.
        exponent: of the exponents, or None, and `reason` says why.
    """

    first: Outcome
    second: Outcome
    loss: Difference
    exponent: Difference | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Coincidence:
    """Two curves that must be one.

    Attributes:
        first, second: the two.
        gap, at: the largest relative difference of their losses, and the sample count where it is.
        tolerance: the largest that is allowed.
        by: "theory" or "file": who says so.
    """

    first: Outcome
    second: Outcome
    gap: float
    at: int
    tolerance: float
    by: str

    @property
    def holds(self) -> bool:
        """Whether they are one."""
        return self.gap <= self.tolerance


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Everything that is measured of a study.

    Attributes:
        file: the study file.
        measured: the entries that have a curve.  absent: the labels of those that have none yet.
        comparisons, coincidences: between them.
    """

    file: StudyFile
    measured: tuple[Outcome, ...]
    absent: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    coincidences: tuple[Coincidence, ...]

    @property
    def failures(self) -> tuple[Coincidence, ...]:
        """Curves that must be one and are not."""
        return tuple(c for c in self.coincidences if not c.holds)

    @property
    def ok(self) -> bool:
        """Whether everything is measured and every coincidence holds."""
        return not self.failures and not self.absent


def evaluate(
    file: StudyFile,
    entries: Sequence[Entry],
    measured: Sequence[tuple[Entry, CurveFile]],
    progress: bool = False,
) -> Outcomes:
    """Fit every curve, compare those that the file and the ladder put side by side, check those that are one."""
    present = [entry for entry, _ in measured]
    outcomes: dict[tuple[Any, ...], Outcome] = {}
    pairs = list(_compared(file, present))
    with Work(len(measured) + len(pairs), progress) as work:
        for entry, curve in measured:
            work.begin(f"exponent of {label(entry, entries)}", 0)
            outcomes[key(entry.axes())] = _outcome(file, entry, label(entry, entries), curve)
            work.advance(1)
        comparisons = []
        for a, b in pairs:
            work.begin(f"{label(a, entries)} beside {label(b, entries)}", 0)
            comparisons.append(_comparison(outcomes[key(a.axes())], outcomes[key(b.axes())]))
            work.advance(1)
    coincidences: dict[frozenset[Any], Coincidence] = {}
    shape = tuple(measured[0][1].about["shape"])
    for a, b, tolerance, by in _coinciding(file, present, shape):
        both = key(a.axes()), key(b.axes())
        first, second = (outcomes[k] for k in both)
        gap, at = largest_gap(first.curve, second.curve)
        coincidences.setdefault(frozenset(both), Coincidence(first, second, gap, at, tolerance, by))
    have = by_axes(present)
    absent = tuple(label(e, entries) for e in entries if key(e.axes()) not in have)
    return Outcomes(file, tuple(outcomes.values()), absent, tuple(comparisons), tuple(coincidences.values()))


def _outcome(file: StudyFile, entry: Entry, name: str, stored: CurveFile) -> Outcome:
    curve, fit, unfit, broken = stored.curve, None, "", None
    try:
        fit = fit_exponent(curve, model=file.fit.model, window=file.fit.window)
    except KernregError as error:
        unfit = str(error)
    if file.fit.breaks:
        try:
            broken = detect_break(curve)
        except KernregError as error:
            unfit = unfit or str(error)
    return Outcome(entry, name, curve, fit, unfit, broken, stored.spectrum, stored.held_out, stored.about)


def _comparison(first: Outcome, second: Outcome) -> Comparison:
    loss = loss_difference(first.side, second.side)
    try:
        return Comparison(first, second, loss, exponent_difference(first.side, second.side))
    except KernregError as error:
        return Comparison(first, second, loss, None, str(error))


def _compared(file: StudyFile, present: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Neighbouring rungs, each transform with none, and what the file asks for; each pair once."""
    have, seen = by_axes(present), set()
    pairs: list[tuple[Entry, Entry]] = []
    if file.ladder:
        for lower, upper in pairwise(a.name for a in file.architectures):
            for e in present:
                other = have.get(key(e.like(architecture=lower)))
                if e.architecture.name == upper and other is not None:
                    pairs.append((e, other))
        pairs += _beside_networks(file, present)
        for e in present:
            plain = have.get(key(e.like(transform=NONE, transform_seed=None)))
            if e.transform != NONE and plain is not None:
                pairs.append((e, plain))
    for pair in file.compare:
        pairs += matches(pair.first, pair.second, present)
    for a, b in pairs:
        both = (key(a.axes()), key(b.axes()))
        if both not in seen:
            seen.add(both)
            yield a, b


def _beside_networks(file: StudyFile, present: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Each finite network with the one before it, and with the kernels that it is a finite one of."""
    have = by_axes(present)
    for e in present:
        if e.network is None:
            continue
        for lower, upper in pairwise(file.networks):
            named = e.like(architecture=lower.label, kernel=lower.training.optimizer)
            if upper.label == e.architecture.name and (other := have.get(key(named))) is not None:
                yield e, other
        for architecture, kernel in product(file.architectures, file.kernels):
            other = have.get(key(e.like(architecture=architecture.name, kernel=kernel)))
            if other is not None and architecture == e.architecture:
                yield e, other


def _coinciding(
    file: StudyFile, present: Sequence[Entry], shape: tuple[int, ...]
) -> Iterator[tuple[Entry, Entry, float, str]]:
    """Pairs of the file first: of two equal ones the first counts, with its tolerance."""
    present = [e for e in present if e.network is None]
    for pair in file.coincide:
        for a, b in matches(pair.first, pair.second, present):
            yield a, b, pair.tolerance, "file"
    if not file.theory:
        return
    have, known = by_axes(present), dict[Any, bool]()
    for e in present:
        plain = have.get(key(e.like(transform=NONE, transform_seed=None)))
        if e.transform == NONE or plain is None:
            continue
        case = (e.architecture.digest, e.transform, e.transform_seed, e.kernel)
        if case not in known:
            known[case] = _invariant(e, shape, file.patch)
        if known[case]:
            yield e, plain, file.tolerance, "theory"
    for i, upper in enumerate(file.architectures):
        for lower in file.architectures[:i]:
            if _shared(lower.layers) != _shared(upper.layers):
                continue
            for e in present:
                other = have.get(key(e.like(architecture=lower.name)))
                if e.architecture.name == upper.name and other is not None:
                    yield e, other, file.tolerance, "theory"


def _invariant(entry: Entry, shape: tuple[int, ...], patch: Any) -> bool:
    """Whether the layers imply that the transform leaves the kernel as it is.

    Of a rotation the group alone matters to `invariant`, which sees pixels and not channels; one channel keeps
    the matrix small.
    """
    shape = (*shape[:2], 1) if len(shape) == 3 else shape
    patch = patch if entry.transform == "patch-rotation" else None
    element = transform(entry.transform, entry.transform_seed or 0, shape, patch)
    return invariant(entry.architecture, element, entry.kernel)


def _shared(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Layers with weights shared where that does not change the kernel: where nothing pools.

    Local weights drop the covariances between different pixels, which a network that ends in a flatten layer
    never reads (docs/architectures.md).
    """
    if any(isinstance(layer, GlobalAvgPool | AvgPool | Residual) for layer in layers):
        return layers
    return tuple(
        Conv(l.filter, l.strides, l.padding, l.weight_variance, l.bias_variance)
        if isinstance(l, LocalConv)
        else l
        for l in layers
    )
