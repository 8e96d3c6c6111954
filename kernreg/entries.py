"""Entries: the grid of a study, architectures × kernels × transforms × seeds × sizes, one curve each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from kernreg.architecture import Architecture
from kernreg.studyfile import AXES, StudyFile
from kernreg.symmetry import UNDRAWN

NONE = "none"  # the transform that leaves the data as they are


@dataclass(frozen=True)
class Entry:
    """One learning curve of a study.

    Attributes:
        architecture, kernel: of the Gram matrix.
        transform, transform_seed: of the data; the seed is None where nothing is drawn.
        seed: of the row order.
        n, t: training and test rows.
    """

    architecture: Architecture
    kernel: str
    transform: str
    transform_seed: int | None
    seed: int
    n: int
    t: int

    def value(self, axis: str) -> Any:
        """The value on one of `AXES`."""
        return self.architecture.name if axis == "architecture" else getattr(self, axis)

    def axes(self) -> dict[str, Any]:
        """Axis → value."""
        return {axis: self.value(axis) for axis in AXES}

    def like(self, **changed: Any) -> Mapping[str, Any]:
        """The axes with some values changed, to look another entry up in `by_axes`."""
        return {**self.axes(), **changed}


def entries_of(file: StudyFile) -> tuple[Entry, ...]:
    """All entries, those that share data next to each other."""
    data, made = file.data, []
    for seed, transform in product(data.seeds, file.transforms):
        for transform_seed in (None,) if transform in UNDRAWN else file.transform_seeds:
            for architecture, kernel, n in product(file.architectures, file.kernels, data.sizes):
                made.append(Entry(architecture, kernel, transform, transform_seed, seed, n, data.test))
    return tuple(made)


def label(entry: Entry, among: Sequence[Entry], axes: Sequence[str] = AXES) -> str:
    """A short name: the architecture, and every other one of the axes on which these entries differ."""
    parts = [entry.architecture.name]
    for axis in axes[1:]:
        value = entry.value(axis)
        if value is None or len({e.value(axis) for e in among if e.value(axis) is not None}) < 2:
            continue
        parts.append({"seed": f"seed {value}", "n": f"n {value}"}.get(axis, str(value)))
    return " · ".join(parts)


def matches(
    first: Mapping[str, Any], second: Mapping[str, Any], among: Sequence[Entry]
) -> Iterator[tuple[Entry, Entry]]:
    """Pairs of entries of which one has the values `first` and the other `second`.

    An axis that neither names must be equal on both sides; the seeds of two different transforms need not.
    """
    free = [axis for axis in AXES if axis not in first and axis not in second]
    for a in among:
        if any(a.value(axis) != value for axis, value in first.items()):
            continue
        for b in among:
            if any(b.value(axis) != value for axis, value in second.items()) or a is b:
                continue
            same = [axis for axis in free if axis != "transform_seed" or a.transform == b.transform]
            if all(a.value(axis) == b.value(axis) for axis in same):
                yield a, b


def by_axes(among: Sequence[Entry]) -> dict[tuple[Any, ...], Entry]:
    """Entries by their values on `AXES`."""
    return {tuple(entry.value(axis) for axis in AXES): entry for entry in among}


def key(axes: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key of `by_axes`."""
    return tuple(axes[axis] for axis in AXES)
