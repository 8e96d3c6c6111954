"""The early-stopping view: losses against the time of training, one panel for each kernel of a store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kernreg.drawing import canvas, finished, logarithmic, panel_size, panels
from kernreg.durable import refusal
from kernreg.measure import Measurement
from kernreg.report import COLOURS, MARKERS
from kernreg.stopped import chosen, series

MOST_SIZES = 5  # sample counts in a panel: halvings of the largest
COLUMNS = ("curve", "samples", "time", "step", "steps", "loss", "train_loss", "gcv", "error", "chosen_by_gcv")


def save_times(measurements: Sequence[Measurement], folder: Path, stem: str = "fit") -> list[Path]:
    """Write stem-times.svg, .png and .csv if some kernel was stopped at two times or more; else nothing.

    Solid: test loss. Dashed: training loss. A ring: the time that generalised cross-validation chooses on the training rows.
    Dotted: kernel regression, the end of training, if it was asked for.

    Raises:
        KernregError: the disk refuses.
    """
    groups = [group for group in series(measurements) if len(group) > 1]
    if not groups:
        return []
    with canvas(*panel_size(len(groups))) as drawn:
        for axes, group in zip(panels(drawn, len(groups)), groups, strict=True):
            _draw(axes, group)
        title = "loss against the time of training"
        figure = finished(drawn, f"{stem}-times", title, title, COLUMNS, _rows(groups))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return figure.save(folder)
    except OSError as error:
        raise refusal(error, folder / f"{stem}-times") from error


def _draw(axes: Any, group: Sequence[Measurement]) -> None:
    samples = group[0].curve.samples
    sizes = [int(np.argmin(np.abs(samples - samples[-1] / 2**i))) for i in range(MOST_SIZES)]
    timed = [m for m in group if m.stop is not None and 0 < m.stop.time < math.inf]
    times = np.array([m.stop.time for m in timed if m.stop is not None])
    for i, j in enumerate(dict.fromkeys(sizes)):
        look = {"color": COLOURS[i % len(COLOURS)], "zorder": 3}
        loss = [m.curve.loss[j] for m in timed]
        train = [m.train[j] for m in timed if m.train is not None]
        axes.plot(times, loss, lw=1.4, marker=MARKERS[i], ms=3.5, label=f"m = {samples[j]}", **look)
        axes.plot(times, train, lw=0.9, ls=(0, (4, 2)), **look)
        for m in group:
            if m.stop is not None and math.isinf(m.stop.time):
                axes.axhline(m.curve.loss[j], lw=0.9, ls=(0, (1, 1.5)), **look)
        at = chosen(timed, j)
        if at is not None:
            axes.plot(times[at], loss[at], ls="", marker="o", ms=9, mfc="none", mew=1.2, **look)
    logarithmic(axes)
    axes.set_title(f"{group[0].architecture} {group[0].kernel}", fontsize=9)
    axes.set_xlabel("time of training  t")
    axes.set_ylabel("loss / loss of the zero predictor")
    # training losses of an interpolating kernel fall for ever
    losses = np.concatenate([m.curve.loss for m in timed])
    axes.set_ylim(0.3 * float(losses.min()), 1.5 * float(losses.max()))
    axes.legend(loc="lower left", fontsize=7.5)


def _rows(groups: Sequence[Sequence[Measurement]]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for group in groups:
        for k, m in enumerate(group):
            assert m.stop is not None
            assert m.train is not None
            facts = m.stop.to_dict()
            for j, size in enumerate(m.curve.samples.tolist()):
                scores = [None if c is None else float(c[j]) for c in (m.curve.gcv, m.curve.error)]
                values = (m.curve.loss[j], m.train[j])
                rows.append(
                    (
                        f"{m.architecture} {m.kernel}",
                        size,
                        *(facts[key] for key in ("time", "step", "steps")),
                        *map(float, values),
                        *scores,
                        int(chosen(group, j) == k),
                    )
                )
    return rows
