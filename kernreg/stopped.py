"""Measurements of training that stops: a store at several times, and when generalised cross-validation would have stopped it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from kernreg.errors import KernregError
from kernreg.filters import Stop
from kernreg.flowcurve import flow_from_store
from kernreg.measure import Measurement, fitted
from kernreg.progress import Progress
from kernreg.ridge import RidgeMode
from kernreg.store import GramStore


def measure_stopped(
    store: GramStore,
    kernel: str | None,
    stops: Sequence[Stop],
    ridge: float = 0.0,
    ridge_mode: RidgeMode = "absolute",
    model: str | None = "auto",
    window: tuple[float, float] | None = None,
    breaks: bool = False,
    memory: int | str | None = None,
    checkpoint: Path | None = None,
    progress: bool | Progress = False,
) -> list[Measurement]:
    """One measurement for each stop, in order of time.

    Args:
        store: complete, with test rows.
        kernel, stops, ridge, ridge_mode, memory: as in `kernreg.flowcurve.flow_from_store`.
        model, window, breaks: as in `kernreg.measure.measure`.
        checkpoint, progress: as in `kernreg.flowcurve.flow_curves`.

    Raises:
        KernregError: as `flow_from_store`. A curve that no power law fits is no error.
    """
    kernel = kernel or ("ntk" if "ntk" in store.kernels else store.kernels[0])
    stops = sorted(set(stops), key=lambda stop: stop.time)
    try:
        how: dict[str, Any] = {"memory": memory, "checkpoint": checkpoint, "progress": progress}
        found = flow_from_store(store, kernel, stops, ridge, ridge_mode, **how)
    except KernregError as error:
        named = str(store.path) in str(error)
        raise KernregError(str(error) if named else f"{store.path}: {error}") from error
    return [
        fitted(Measurement(store, kernel, curve, None, stop=stop, train=train), model, window, breaks)
        for stop, curve, train in zip(stops, found.curves, found.train, strict=True)
    ]


def series(measurements: Sequence[Measurement]) -> list[list[Measurement]]:
    """Those of one kernel of one store together, by time; measurements without a stop are left out."""
    stopped = [m for m in measurements if m.stop is not None]
    grouped = groupby(stopped, key=lambda m: (m.store.path, m.kernel))
    return [sorted(group, key=_time) for _, group in grouped]


def chosen(group: Sequence[Measurement], j: int = -1) -> int | None:
    """Which time generalised cross-validation chooses at sample count number j; None if it is not known."""
    scores = [m.curve.gcv[j] if m.curve.gcv is not None else math.inf for m in group]
    return int(np.argmin(scores)) if np.isfinite(scores).any() else None


def early_stopping(measurements: Sequence[Measurement]) -> list[str]:
    """A sentence for each series of two times and more."""
    sentences = []
    for group in series(measurements):
        if len(group) < 2:
            continue
        first, last = group[0], group[-1]
        name = f"{first.architecture} {first.kernel}"
        at = chosen(group)
        if at is None:
            sentences.append(f"{name}: GCV needs eigenvalues, which a streamed matrix does not give")
            continue
        said = f"{name}: generalised cross-validation stops at {group[at].stop}"
        if at == 0:
            said += ", the first time"
        said += f", where the loss is {group[at].curve.loss[-1]:.4g}"
        if at == len(group) - 1:
            sentences.append(f"{said}, the last time: it would have gone on")
        else:
            sentences.append(f"{said}; at {last.stop} it is {last.curve.loss[-1]:.4g}")
    return sentences


def _time(measurement: Measurement) -> float:
    return measurement.stop.time if measurement.stop is not None else math.inf
