"""The figures of a group of outcomes: ladder, local slopes, exponents as a forest, and what a transform does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kernreg.drawing import Figure, canvas, finished, logarithmic, look, panel_size, panels, plain
from kernreg.ladder import Group
from kernreg.outcomes import Coincidence, Outcome, Outcomes
from kernreg.pairs import loss_difference
from kernreg.report import draw_curve, draw_slopes
from kernreg.scatter import points_of_curve

SMALLEST_SCALE = math.log(1.2)  # a heat map of equal curves has no colour


def figures(group: Group, outcomes: Outcomes, suffix: str = "") -> list[Figure]:
    """All that apply, in the order of the page; `suffix` tells the groups of a study apart."""
    drawn = [ladder(group, suffix)]
    if any(o.fit is not None for o in group.outcomes):
        drawn += [slopes(group, suffix), forest(group, suffix)]
    if group.of(("none", None)) and len(group.columns) > 1:
        drawn.append(symmetry(group, outcomes.coincidences, suffix))
    return drawn


def ladder(group: Group, suffix: str) -> Figure:
    """Loss against m, a panel for each transform: all architectures, bands, and the fitted laws."""
    columns = (
        "transform",
        "architecture",
        "m",
        "loss",
        "mean_loss",
        "training_sets",
        "sd_log_loss",
        "fitted",
    )
    rows: list[Sequence[Any]] = []
    with canvas(*panel_size(len(group.columns))) as page:
        grid = panels(page, len(group.columns))
        for axes, column in zip(grid, group.columns, strict=True):
            for outcome in group.of(column):
                i = group.architectures.index(outcome.entry.architecture.name)
                draw_curve(axes, outcome.entry.architecture.name, outcome.curve, outcome.fit, _colour(i), i)
                rows += _ladder_rows(outcome, group.column_name(column))
            axes.set_title(group.column_name(column), fontsize=9, loc="left")
            axes.legend(loc="lower left", fontsize=6.3, handlelength=2.6, borderaxespad=0.2)
        _shared(grid, group)
        _edges(grid, "training samples  m", "test loss / loss of the zero predictor")
        return finished(page, f"ladder{suffix}", "The ladder", _ladder_alt(group), columns, rows)


def slopes(group: Group, suffix: str) -> Figure:
    """Local exponents against m, a panel for each transform, with their bands and the fitted exponents."""
    columns = ("transform", "architecture", "m", "slope", "low", "high")
    rows: list[Sequence[Any]] = []
    with canvas(*panel_size(len(group.columns))) as page:
        grid = panels(page, len(group.columns))
        seen = [np.zeros(0)]
        for axes, column in zip(grid, group.columns, strict=True):
            for outcome in group.of(column):
                fit, name = outcome.fit, outcome.entry.architecture.name
                if fit is None:
                    continue
                i = group.architectures.index(name)
                draw_slopes(axes, fit, _colour(i), i)
                s, inside = fit.slopes, fit.slopes.samples >= fit.window[0]
                seen += [s.slope[s.samples >= 4], s.low[inside], s.high[inside]]
                rows += [
                    (group.column_name(column), name, *map(float, values))
                    for values in zip(s.samples, s.slope, s.low, s.high, strict=True)
                ]
            axes.axhline(0, color="0.6", lw=0.6, zorder=0)
            axes.set_title(group.column_name(column), fontsize=9, loc="left")
            logarithmic(axes, up=False)
        values = np.concatenate(seen)
        if len(values):
            margin = 0.08 * max(float(np.ptp(values)), 0.2)
            grid[0].set_ylim(float(values.min()) - margin, float(values.max()) + margin)
        _edges(grid, "training samples  m", "local exponent  β(m)")
        _names(page, group)
        alt = (
            "Local exponent −d log L/d log m against the number of training samples, one panel for each "
            f"transform of the data ({_columns(group)}), one line for each of {_list(group.architectures)}."
        )
        return finished(page, f"slopes{suffix}", "Local slopes", alt, columns, rows)


def forest(group: Group, suffix: str) -> Figure:
    """Every exponent with its interval, architectures side by side under each transform."""
    columns = ("transform", "architecture", "exponent", "low", "high", "model", "window_low", "window_high")
    rows: list[Sequence[Any]] = []
    fitted = [o for o in group.outcomes if o.fit is not None]
    with canvas(7.5, 1.0 + 0.21 * (len(fitted) + len(group.columns))) as page:
        axes = page.subplots()
        y, ticks, names = 0.0, [], []
        for column in group.columns:
            for outcome in group.of(column):
                fit, name = outcome.fit, outcome.entry.architecture.name
                if fit is None:
                    continue
                style = {k: v for k, v in look(group.architectures.index(name)).items() if k != "ls"}
                low, high = fit.interval
                axes.plot([low, high], [y, y], color=style["color"], lw=2.0, solid_capstyle="butt")
                axes.plot([fit.exponent], [y], ms=6, mew=1.2, zorder=3, **style)
                star = "*" if fit.warnings else ""
                text = f"{fit.exponent:.3f} [{low:.3f}, {high:.3f}]{star}"
                axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
                ticks.append(y)
                names.append(f"{group.column_name(column)} · {name}")
                entry = (group.column_name(column), name, fit.exponent, low, high, fit.model, *fit.window)
                rows.append(entry)
                y -= 1.0
            y -= 0.6
        axes.set_yticks(ticks, names, fontsize=7.5)
        axes.set_ylim(y + 1, 0.8)
        axes.set_xlabel(f"exponent β with its {100 * _confidence(fitted):g} % interval   (* with warnings)")
        axes.grid(True, axis="x", lw=0.4, color="0.88", zorder=0)
        alt = "Exponents with intervals: " + "; ".join(
            f"{name} {row[2]:.2f} from {row[3]:.2f} to {row[4]:.2f}"
            for name, row in zip(names, rows, strict=True)
        )
        return finished(page, f"forest{suffix}", "Exponents", f"{alt}.", columns, rows)


def symmetry(group: Group, coincidences: Sequence[Coincidence], suffix: str) -> Figure:
    """Which transform changes which kernel: the loss at n over that of the untransformed data."""
    columns = (
        "transform", "architecture", "loss", "loss_untransformed", "ratio", "low", "high", "coincide", "expected",
    )  # fmt: skip
    rows: list[Sequence[Any]] = []
    checked = {frozenset((id(c.first), id(c.second))): c for c in coincidences}
    transforms = [column for column in group.columns if column[0] != "none"]
    values = np.full((len(group.architectures), len(transforms)), np.nan)
    texts: dict[tuple[int, int], str] = {}
    failed: list[tuple[int, int]] = []
    for j, column in enumerate(transforms):
        for outcome in group.of(column):
            name = outcome.entry.architecture.name
            own = group.plain(name)
            if own is None:
                continue
            i = group.architectures.index(name)
            check, d = checked.get(frozenset((id(outcome), id(own)))), loss_difference(outcome.side, own.side)
            low, ratio, high = (math.exp(v) for v in (d.interval[0], d.value, d.interval[1]))
            values[i, j] = d.value
            texts[i, j] = f"×{ratio:.2f}" if check is None else "=" if check.holds else f"×{ratio:.4g} ≠"
            if check is not None and not check.holds:
                failed.append((i, j))
            coincide = None if check is None else check.holds
            rows.append(
                (
                    group.column_name(column),
                    name,
                    outcome.loss,
                    own.loss,
                    ratio,
                    low,
                    high,
                    coincide,
                    check is not None,
                )
            )
    scale = max(float(np.nanmax(np.abs(values), initial=0.0)), SMALLEST_SCALE)
    with canvas(2.2 + 1.15 * len(transforms), 1.5 + 0.5 * len(group.architectures)) as page:
        axes = page.subplots()
        image = axes.imshow(values, cmap="PuOr_r", vmin=-scale, vmax=scale, aspect="auto")
        for (i, j), text in texts.items():
            dark = abs(values[i, j]) > 0.65 * scale
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
        for i, j in failed:
            axes.plot([j - 0.47, j + 0.47, j + 0.47, j - 0.47, j - 0.47],
                      [i - 0.46, i - 0.46, i + 0.46, i + 0.46, i - 0.46], color="#D55E00", lw=2.5)  # fmt: skip
        axes.set_xticks(
            range(len(transforms)), [group.column_name(c) for c in transforms], rotation=18, ha="right"
        )
        axes.set_yticks(range(len(group.architectures)), group.architectures)
        axes.set_xticks(np.arange(len(transforms) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(group.architectures) + 1) - 0.5, minor=True)
        axes.grid(True, which="minor", color="white", lw=2)
        axes.tick_params(length=0, which="both")
        axes.spines[:].set_visible(False)
        bar = page.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
        _ratio_ticks(bar, scale)
        bar.set_label(f"loss at n = {group.n}, × untransformed", fontsize=8)
        said = "; ".join(
            f"{row[1]} under {row[0]} {'coincides' if row[7] else f'{row[4]:.2f} times the loss'}"
            for row in rows
        )
        alt = f"Loss at n = {group.n} on transformed data over that on untransformed data: {said}."
        return finished(page, f"symmetry{suffix}", "What each transform changes", alt, columns, rows)


def _ratio_ticks(bar: Any, scale: float) -> None:
    steps = [r for r in (0.1, 0.2, 0.5, 0.8, 1.0, 1.25, 2.0, 5.0, 10.0) if abs(math.log(r)) <= scale]
    bar.set_ticks([math.log(r) for r in steps], labels=[f"×{r:g}" for r in steps])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5)


def _ladder_rows(outcome: Outcome, column: str) -> list[tuple[Any, ...]]:
    curve = outcome.curve
    points = points_of_curve(curve) if outcome.fit is None else outcome.fit.points
    at: Mapping[int, int] = {int(m): i for i, m in enumerate(points.samples)}
    rows = []
    for m, loss in zip(curve.samples.tolist(), curve.loss.tolist(), strict=True):
        i, fit = at.get(m), outcome.fit
        mean = () if i is None else (float(points.loss[i]), int(points.replicates[i]))
        sd = float(points.scatter[i]) if i is not None and points.measured else None
        inside = fit is not None and fit.window[0] <= m <= fit.window[1]
        fitted = float(fit.predict(m)) if fit is not None and inside and i is not None else None
        rows.append((column, outcome.entry.architecture.name, m, loss, *(mean or (None, None)), sd, fitted))
    return rows


def _ladder_alt(group: Group) -> str:
    ends = "; ".join(
        f"{group.column_name(column)}: "
        + ", ".join(f"{o.entry.architecture.name} {o.loss:.3g}" for o in group.of(column))
        for column in group.columns
    )
    return (
        "Test loss against the number of training samples on logarithmic axes, one panel for each transform, with "
        f"bands of two standard deviations and fitted power laws. Losses at n = {group.n}: {ends}."
    )


def _shared(grid: Sequence[Any], group: Group) -> None:
    losses = np.concatenate([o.curve.loss[o.curve.samples >= 4] for o in group.outcomes])
    losses = losses[losses > 0]
    for axes in grid:
        logarithmic(axes)
        axes.set_xlim(min(4, group.n) * 0.85, group.n * 1.25)
        if len(losses):
            axes.set_ylim(float(losses.min()) / 2.4, float(losses.max()) * 1.1)
        plain(axes)


def _edges(grid: Sequence[Any], below: str, beside: str) -> None:
    for axes in grid:
        if axes.xaxis.get_tick_params()["labelbottom"]:
            axes.set_xlabel(below)
        if axes.yaxis.get_tick_params()["labelleft"]:
            axes.set_ylabel(beside, fontsize=8)


def _names(page: Any, group: Group) -> None:
    """One legend for all panels."""
    from_look = [look(i) for i in range(len(group.architectures))]
    lines = [page.axes[0].plot([], [], lw=1.4, ms=5, **style)[0] for style in from_look]
    page.legend(lines, group.architectures, loc="outside upper center", ncols=len(lines), frameon=False)


def _colour(i: int) -> dict[str, Any]:
    return {"color": look(i)["color"]}


def _confidence(fitted: Sequence[Outcome]) -> float:
    return next(o.fit.confidence for o in fitted if o.fit is not None)


def _columns(group: Group) -> str:
    return _list([group.column_name(column) for column in group.columns])


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
