"""The finite networks of a study before they are trained: how many, and what they take on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kernreg.entries import Entry
from kernreg.networkcurve import counts, seconds
from kernreg.training import Trained


@dataclass(frozen=True)
class TrainingTask:
    """The curve of one finite network.

    Attributes:
        entry: of the study.  path: of its curve; None while the data are not here.
        shape, outputs: of a row of the data.
        networks: that are trained, all sample counts, training sets and replicates together.
        rows: that go through them, all steps together.
        seconds: measured on this machine; None if not asked for.
    """

    entry: Entry
    path: Path | None
    shape: tuple[int, ...]
    outputs: int
    networks: int
    rows: int
    seconds: float | None = None

    @property
    def needed(self) -> bool:
        """Whether the curve is not there."""
        return self.path is None or not self.path.is_file()

    @property
    def network(self) -> Trained:
        """What is trained."""
        assert self.entry.network is not None
        return self.entry.network

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **self.entry.axes(),
            "t": self.entry.t,
            "path": None if self.path is None else str(self.path),
            "needed": self.needed,
            "networks": self.networks,
            "rows": self.rows,
            "seconds": self.seconds,
        }


def training_task(entry: Entry, path: Path | None, shape: tuple[int, ...], outputs: int) -> TrainingTask:
    """The task of one finite network.

    Raises:
        KernregError: a sample count beyond the training rows.
    """
    assert entry.network is not None
    return TrainingTask(entry, path, shape, outputs, *counts(entry.network, entry.n))


def timed_trainings(tasks: Iterable[TrainingTask]) -> tuple[TrainingTask, ...]:
    """The tasks with seconds; each network and size is timed once, whatever the transform and the row order.

    Raises:
        KernregError: as `kernreg.networkcurve.seconds`.
    """
    known: dict[Any, float] = {}
    made = []
    for task in tasks:
        case = (task.network, task.shape, task.outputs, task.entry.n)
        if task.needed and case not in known:
            known[case] = seconds(*case)
        made.append(replace(task, seconds=known[case] if task.needed else 0.0))
    return tuple(made)
