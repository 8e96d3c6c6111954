"""The ladder: outcomes that share kernel, row order and size, and the rung to which a transform of the data
puts each architecture.

The rungs are the losses of the untransformed architectures (Xiao & Pennington 2022: FCN → LCN → VEC → GAP, each
without one spurious symmetry of the one before). A symmetry that the data are given costs what it costs in the
model: a transform should put a structured kernel to a lower rung, a rotation of all pixels to that of FCN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kernreg.entries import NONE
from kernreg.layers import Conv
from kernreg.outcomes import Outcome, Outcomes
from kernreg.pairs import Difference, loss_difference


@dataclass(frozen=True, eq=False)
class Group:
    """Outcomes that differ in architecture and transform alone; finite networks stand beside the first kernel.

    Attributes:
        kernel, seed, n: what they share; of finite networks the optimizer is no matter.
        outcomes: in the order of the study.
    """

    kernel: str
    seed: int
    n: int
    outcomes: tuple[Outcome, ...]

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names, in the order of the study."""
        return tuple(dict.fromkeys(o.entry.architecture.name for o in self.outcomes))

    @property
    def columns(self) -> tuple[tuple[str, int | None], ...]:
        """(transform, seed), "none" first."""
        found = dict.fromkeys((o.entry.transform, o.entry.transform_seed) for o in self.outcomes)
        return tuple(sorted(found, key=lambda column: column[0] != NONE))

    def column_name(self, column: tuple[str, int | None]) -> str:
        """The transform, with its seed where there are several."""
        seeds = {seed for name, seed in self.columns if name == column[0]}
        return column[0] if len(seeds) == 1 else f"{column[0]} {column[1]}"

    def of(self, column: tuple[str, int | None]) -> tuple[Outcome, ...]:
        """Those of a column."""
        return tuple(o for o in self.outcomes if (o.entry.transform, o.entry.transform_seed) == column)

    def plain(self, architecture: str) -> Outcome | None:
        """The untransformed outcome of an architecture."""
        return next((o for o in self.of((NONE, None)) if o.entry.architecture.name == architecture), None)

    @property
    def families(self) -> tuple[Group, ...]:
        """The outcomes of the kernel, and those of the networks of each optimizer: ladders of their own."""
        kernels = dict.fromkeys(o.entry.kernel for o in self.outcomes)
        return tuple(
            Group(k, self.seed, self.n, tuple(o for o in self.outcomes if o.entry.kernel == k))
            for k in kernels
        )

    @property
    def floor(self) -> Outcome | None:
        """The lowest rung: the untransformed architecture without any convolution."""
        return next((o for o in self.of((NONE, None)) if not structured(o)), None)


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a transform puts an architecture.

    Attributes:
        outcome: the transformed one.
        own: log loss above the same architecture untransformed.
        floor: log loss above the lowest rung, or None if there is none.
        place: "unchanged", "on the rung of fcn", "between fcn and vec", "below fcn, the lowest rung", ….
    """

    outcome: Outcome
    own: Difference
    floor: Difference | None
    place: str

    @property
    def fallen(self) -> bool:
        """Whether it is at the lowest rung or below: its loss is not less by more than the interval allows."""
        return self.floor is not None and self.floor.interval[1] >= 0


def structured(outcome: Outcome) -> bool:
    """Whether the architecture knows of pixels."""
    return any(isinstance(layer, Conv) for layer in outcome.entry.architecture.layers)


@lru_cache(maxsize=2)  # tables, sentences and figures ask again
def groups(outcomes: Outcomes) -> tuple[Group, ...]:
    """The groups of a study, in its order."""
    found: dict[tuple[str, int, int], list[Outcome]] = {}
    first = outcomes.file.kernels[0] if outcomes.file.architectures else "networks"
    for outcome in outcomes.measured:
        e = outcome.entry
        kernel = e.kernel if e.network is None else first
        found.setdefault((kernel, e.seed, e.n), []).append(outcome)
    return tuple(Group(*shared, tuple(members)) for shared, members in found.items())


@lru_cache(maxsize=64)
def placements(group: Group) -> tuple[Placement, ...]:
    """Of every transformed outcome whose architecture was also measured untransformed, each in its family."""
    return tuple(p for family in group.families for p in _placements(family))


def _placements(group: Group) -> Iterator[Placement]:
    rungs = sorted(group.of((NONE, None)), key=lambda o: o.loss)
    for outcome in group.outcomes:
        plain = group.plain(outcome.entry.architecture.name)
        if outcome.entry.transform == NONE or plain is None:
            continue
        floor = group.floor
        against = None if floor is None else loss_difference(outcome.side, floor.side)
        own = loss_difference(outcome.side, plain.side)
        place = "unchanged" if own.nothing else _place(outcome, rungs)
        yield Placement(outcome, own, against, place)


def ratio_text(difference: Difference) -> str:
    """×1.23 [1.10, 1.38] of a log ratio."""
    low, high = (math.exp(value) for value in difference.interval)
    return f"×{math.exp(difference.value):.3g} [{low:.3g}, {high:.3g}]"


def sentences(outcomes: Outcomes) -> list[str]:
    """What coincides, what falls to which rung, with numbers, and which curves break."""
    said, made = [], [family for group in groups(outcomes) for family in group.families]
    for group in made:
        where = f" ({group.kernel.upper()}, n = {group.n}, seed {group.seed})" if len(made) > 1 else ""
        rungs = sorted(group.of((NONE, None)), key=lambda o: -o.loss)
        if len(rungs) > 1:
            steps = " → ".join(f"{o.entry.architecture.name} {o.loss:.4g}" for o in rungs)
            said.append(f"Rungs by loss at n, lowest first{where}: {steps}.")
        placed = list(_placements(group))
        for column in group.columns:
            here = [
                p for p in placed if (p.outcome.entry.transform, p.outcome.entry.transform_seed) == column
            ]
            if here:
                said.append(_sentence(group.column_name(column), here, group.floor, where))
    return [*said, *_breaks(outcomes)]


def _breaks(outcomes: Outcomes) -> list[str]:
    """Which curves have a break of which kind, if one was looked for."""
    found: dict[str, list[str]] = {}
    for o in outcomes.measured:
        if o.broken is not None:
            found.setdefault(o.broken.kind, []).append(o.label)
    count = sum(map(len, found.values()))
    return [
        f"{kind[0].upper()}{kind[1:]} in {len(labels)} of {count} curves: {', '.join(labels)}."
        for kind, labels in found.items()
    ]


def _sentence(name: str, here: Sequence[Placement], floor: Outcome | None, where: str) -> str:
    """What one transform does."""
    same = [p.outcome.entry.architecture.name for p in here if p.own.nothing]
    moved = [p for p in here if not p.own.nothing]
    parts = (
        [f"leaves {', '.join(same)} as they are"] if len(same) > 1 else [f"leaves {n} as it is" for n in same]
    )
    if moved:
        times = ", ".join(f"{p.outcome.entry.architecture.name} {ratio_text(p.own)}" for p in moved)
        parts.append(f"multiplies the loss of {times}")
    text = f"{name[0].upper()}{name[1:]} {' and '.join(parts)}{where}."
    lowered = [p for p in moved if structured(p.outcome) and p.floor is not None]
    if lowered and floor is not None:
        fallen, rung = sum(p.fallen for p in lowered), floor.entry.architecture.name
        what = "kernels" if floor.entry.network is None else "networks"
        ratios = ", ".join(
            f"{p.outcome.entry.architecture.name} {ratio_text(p.floor)}"
            for p in lowered
            if p.floor is not None
        )
        text += (
            f" {fallen} of {len(lowered)} changed structured {what} are on the rung of {rung} or below; "
            f"their losses over that of {rung}: {ratios}."
        )
    return text


def _place(outcome: Outcome, rungs: Sequence[Outcome]) -> str:
    """`rungs`: untransformed outcomes, smallest loss first."""
    differences = [loss_difference(outcome.side, rung.side) for rung in rungs]
    names = [rung.entry.architecture.name for rung in rungs]
    on = [name for name, d in zip(names, differences, strict=True) if not d.apart]
    if on:
        return f"on the rung of {' and '.join(on)}"
    better = [name for name, d in zip(names, differences, strict=True) if d.value > 0]
    worse = [name for name, d in zip(names, differences, strict=True) if d.value < 0]
    if not worse:
        return f"below {better[-1]}, the lowest rung"
    if not better:
        return f"above {worse[0]}, the highest rung"
    return f"between {better[-1]} and {worse[0]}"
