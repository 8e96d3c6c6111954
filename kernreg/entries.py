"""Entries: the grid of a study, one curve each: (architectures × kernels, and finite networks) × transforms × seeds × sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from kernreg.architecture import Architecture
from kernreg.studyfile import AXES, StudyFile
from kernreg.symmetry import UNDRAWN
from kernreg.training import ResNetShape, Trained

NONE = "none"  # the transform that leaves the data as they are


@dataclass(frozen=True)
class Entry:
    """One learning curve of a study.

    Attributes:
        architecture, kernel: of the Gram matrix; of a finite network its own name and the optimizer.
        transform, transform_seed: of the data; the seed is None where nothing is drawn.
        seed: of the row order.
        n, t: training and test rows.
        network: what is trained, if it is a finite network; else None.
    """

    architecture: Architecture
    kernel: str
    transform: str
    transform_seed: int | None
    seed: int
    n: int
    t: int
    network: Trained | None = None

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
            for network, n in product(file.networks, data.sizes):
                named, optimizer = _named(network), network.training.optimizer
                made.append(Entry(named, optimizer, transform, transform_seed, seed, n, data.test, network))
    return tuple(made)


def label(entry: Entry, among: Sequence[Entry], axes: Sequence[str] = AXES) -> str:
    """A short name: the architecture, and every other one of the axes on which these entries differ."""
    parts = [entry.architecture.name]
    for axis in axes[1:]:
        value = entry.value(axis)
        if axis == "kernel" and entry.network is not None:
            continue  # its name says what it is
        own = [e for e in among if axis != "kernel" or e.network is None]
        if value is None or len({e.value(axis) for e in own if e.value(axis) is not None}) < 2:
            continue
        parts.append({"seed": f"seed {value}", "n": f"n {value}"}.get(axis, str(value)))
    return " · ".join(parts)


def matches(
    first: Mapping[str, Any], second: Mapping[str, Any], among: Sequence[Entry]
) -> Iterator[tuple[Entry, Entry]]:
    """Pairs of entries of which one has the values `first` and the other `second`.

    An axis that neither names must be equal on both sides; the seeds of two different transforms need not, nor need the kernel
    and the optimizer where one side is a finite network.
    """
    free = [axis for axis in AXES if axis not in first and axis not in second]
    for a in among:
        if any(a.value(axis) != value for axis, value in first.items()):
            continue
        for b in among:
            if any(b.value(axis) != value for axis, value in second.items()) or a is b:
                continue
            same = [axis for axis in free if _binding(axis, a, b)]
            if all(a.value(axis) == b.value(axis) for axis in same):
                yield a, b


def by_axes(among: Sequence[Entry]) -> dict[tuple[Any, ...], Entry]:
    """Entries by their values on `AXES`."""
    return {tuple(entry.value(axis) for axis in AXES): entry for entry in among}


def key(axes: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key of `by_axes`."""
    return tuple(axes[axis] for axis in AXES)


def _binding(axis: str, a: Entry, b: Entry) -> bool:
    """Whether two entries must agree on an axis that nobody names."""
    if axis == "transform_seed":
        return a.transform == b.transform
    return axis != "kernel" or (a.network is None and b.network is None)


def _named(network: Trained) -> Architecture:
    """The architecture of a finite network under the name of the network."""
    architecture = network.architecture
    assert not isinstance(architecture, ResNetShape), "study files have architectures alone"
    return Architecture(architecture.layers, network.label)
