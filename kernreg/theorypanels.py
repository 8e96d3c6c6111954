"""Theory beside the curves of a study, and the spectra that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernreg.drawing import Figure, canvas, finished, logarithmic, look, panel_size, panels, plain
from kernreg.ladder import Group
from kernreg.outcomes import Outcome
from kernreg.overlay import FIRST_COMPARED, Departure, departure
from kernreg.report import COLOURS
from kernreg.scatter import points_of_curve

GREY, THEORY = "0.35", COLOURS[4]


def theory_figures(group: Group, suffix: str = "") -> list[Figure]:
    """The overlay and the spectra of the untransformed kernels, or of the first transform's if there are none."""
    shown = tuple(o for o in group.of(group.columns[0]) if o.entry.network is None)
    drawn = [overlay(group, shown, suffix)] if shown else []
    if any(o.spectrum is not None for o in shown):
        drawn.append(spectra(group, suffix))
    return drawn


def departures(outcome: Outcome, first: int = FIRST_COMPARED) -> dict[str, Departure]:
    """How far each prediction lies from the held-out loss at sample counts from `first` on."""
    curve, found = outcome.curve, {}
    for name, values in outcome.predictions.items():
        size = min(len(values), len(curve.samples))
        compared = departure(curve.samples[:size], values[:size], curve.loss[:size], first)
        if compared is not None:
            found[name] = compared
    return found


def overlay(group: Group, shown: Sequence[Outcome], suffix: str) -> Figure:
    """Held-out loss with GCV, LOO and the prediction of `kernreg.leftout`, a panel for each architecture."""
    columns = ("transform", "architecture", "m", "loss", "theory", "gcv", "loo")
    rows: list[Sequence[Any]] = []
    for outcome in (o for o in group.outcomes if o.entry.network is None):
        found, curve = outcome.predictions, outcome.curve
        name = group.column_name((outcome.entry.transform, outcome.entry.transform_seed))
        for i, m in enumerate(curve.samples.tolist()):
            values = (found.get(key) for key in ("theory", "gcv", "loo"))
            cells = (None if v is None or i >= len(v) else float(v[i]) for v in values)
            rows.append((name, outcome.entry.architecture.name, m, float(curve.loss[i]), *cells))
    said = []
    with canvas(*panel_size(len(shown))) as page:
        grid = panels(page, len(shown))
        for axes, outcome in zip(grid, shown, strict=True):
            _draw(axes, group, outcome)
            off = departures(outcome)
            text = ", ".join(f"{key} {100 * d.worst:.0f} %" for key, d in off.items())
            name = outcome.entry.architecture.name
            axes.set_title(name, fontsize=9, loc="left")
            if text:
                where = f"worst departure, m ≥ {FIRST_COMPARED}:\n{text}"
                axes.text(0.03, 0.04, where, transform=axes.transAxes, fontsize=7, va="bottom")
                said.append(f"{name}: {text}")
            logarithmic(axes)
            axes.set_xlim(min(4, group.n) * 0.85, group.n * 1.25)
            plain(axes)
            if axes.xaxis.get_tick_params()["labelbottom"]:
                axes.set_xlabel("training samples  m")
            if axes.yaxis.get_tick_params()["labelleft"]:
                axes.set_ylabel("loss / loss of the zero predictor", fontsize=8)
        handles, labels = grid[0].get_legend_handles_labels()
        page.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
        alt = (
            "Held-out loss against the number of training samples with the leave-one-out and GCV estimates and "
            "the prediction from the training rows of the Gram matrix, one panel for each architecture"
            + (f"; worst departure from {FIRST_COMPARED} samples on: {'; '.join(said)}." if said else ".")
        )
        return finished(page, f"theory{suffix}", "Theory beside measurement", alt, columns, rows)


def spectra(group: Group, suffix: str) -> Figure:
    """Eigenvalues of the Gram matrices, and what the targets hold beyond each mode."""
    columns = ("transform", "architecture", "k", "eigenvalue", "energy", "energy_beyond")
    rows: list[Sequence[Any]] = []
    with canvas(9.0, 3.6) as page:
        left, right = page.subplots(1, 2)
        for outcome in group.outcomes:
            s, entry = outcome.spectrum, outcome.entry
            if s is None:
                continue
            name = group.column_name((entry.transform, entry.transform_seed))
            k, N = np.arange(1, s.rows + 1), s.rows
            beyond = np.maximum(np.cumsum(s.energies[::-1])[::-1] - s.energies, 0.0) / s.energies.sum()
            rows += [
                (name, entry.architecture.name, int(i), float(λ), float(v), float(b))
                for i, λ, v, b in zip(k, s.eigenvalues / N, s.energies / N, beyond, strict=True)
            ]
            if (entry.transform, entry.transform_seed) != group.columns[0]:
                continue
            style = {
                k: v
                for k, v in look(group.architectures.index(entry.architecture.name)).items()
                if k != "mfc"
            }
            marks = {"lw": 1.4, "marker": None, "label": entry.architecture.name}
            left.plot(k, s.eigenvalues / s.eigenvalues[0], **{**style, **marks})
            right.plot(k[:-1], beyond[:-1], **{**style, **marks})
        logarithmic(left)
        logarithmic(right)
        left.set_xlabel("mode  k")
        left.set_ylabel("eigenvalue  λ_k/λ_1")
        right.set_xlabel("mode  k")
        right.set_ylabel("share of the targets beyond mode  k")
        left.legend(loc="lower left", fontsize=8)
        alt = (
            "Left: eigenvalues of the Gram matrix relative to the first. Right: share of the squared targets that "
            "lies beyond the first k eigenvectors. One line for each architecture on the untransformed data."
        )
        return finished(page, f"spectra{suffix}", "Spectra", alt, columns, rows)


def _draw(axes: Any, group: Group, outcome: Outcome) -> None:
    curve, style = outcome.curve, look(group.architectures.index(outcome.entry.architecture.name))
    points = points_of_curve(curve) if outcome.fit is None else outcome.fit.points
    at = points.samples >= min(4, group.n)
    m, loss = points.samples[at], points.loss[at]
    if points.measured:
        spread = np.exp(2 * points.scatter[at])
        axes.fill_between(m, loss / spread, loss * spread, alpha=0.15, lw=0, color=style["color"])
    marks = {"ls": "", "ms": 5, "mfc": "white", "zorder": 4, "marker": "o", "color": style["color"]}
    axes.plot(m, loss, label="held-out loss", **marks)
    own = curve.samples >= min(4, group.n)
    found = outcome.predictions
    if "theory" in found:
        count = np.arange(1, len(found["theory"]) + 1)
        seen = count >= min(4, group.n)
        axes.plot(count[seen], found["theory"][seen], lw=1.8, color=THEORY, zorder=3, label="theory")
    for name, dashes in (("gcv", "-"), ("loo", (0, (1, 1.5)))):
        if name in found:
            axes.plot(
                curve.samples[own],
                found[name][own],
                lw=0.8,
                ls=dashes,
                color=GREY,
                zorder=2,
                label=name.upper(),
            )
