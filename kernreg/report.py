"""Pictures, tables and files of measured curves and exponents; the only module that knows matplotlib."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kernreg.breaks import Break
from kernreg.curve import LearningCurve
from kernreg.durable import replace, write_text
from kernreg.errors import KernregError
from kernreg.exponent import PowerLawFit
from kernreg.measure import Measurement, label
from kernreg.scatter import points_of_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito: told apart with every common colour blindness; markers and dashes say the same again in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)), (0, (5, 1.5, 1, 1.5)))
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "kernreg",  # the same figure is the same file
}
PNG_DPI = 200
SHOWN_FROM = 4  # samples; before that there is nothing to see but the first samples


def figure(
    curves: Mapping[str, LearningCurve],
    fits: Mapping[str, PowerLawFit | None],
    path: str | Path,
    title: str = "",
    breaks: Mapping[str, Break | None] | None = None,
) -> tuple[Path, Path]:
    """Draw learning curves and their exponents in log-log, local slopes beside them; write PNG and SVG.

    Left: the loss of each curve (thin line), its mean over disjoint training sets at the anchors (markers)
    with two standard deviations of that mean (band), and the fitted law over its window (thick line). Right:
    local slopes −d log L/d log m with their bands, the fitted exponent as a thick line over the window.

    Args:
        curves: by the name that the legend shows; at most eight look different.
        fits: by the same names; a curve without one, or with None, is drawn without a law.
        path: without suffix, or with .png or .svg; the folder is made.
        title: above the figure.
        breaks: by the same names; one that was found is a vertical line on the left, its interval a band.

    Returns:
        The two files.

    Raises:
        KernregError: no curve.
    """
    if not curves:
        raise KernregError("there is no curve to draw")
    import matplotlib
    from matplotlib.figure import Figure

    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    with matplotlib.rc_context(STYLE):
        page = Figure(figsize=(9.0, 4.2), layout="constrained")
        left, right = page.subplots(1, 2, width_ratios=(1.25, 1), gridspec_kw={"wspace": 0.06})
        for i, (name, curve) in enumerate(curves.items()):
            fit = fits.get(name)
            look = {"color": COLOURS[i % len(COLOURS)]}
            draw_curve(left, name, curve, fit, look, i)
            if fit is not None:
                draw_slopes(right, fit, look, i)
            broken = (breaks or {}).get(name)
            if broken is not None and broken.found:
                left.axvspan(*broken.at_interval, alpha=0.10, lw=0, zorder=0, **look)
                left.axvline(broken.at, lw=1.0, ls=DASHES[i % len(DASHES)], zorder=1, **look)
        _finish_curves(left, curves, fits)
        _finish_slopes(right, curves, fits)
        if title:
            page.suptitle(title, fontsize=10)
        save_page(page, png, svg)
    return png, svg


def save_page(page: Any, png: Path, svg: Path) -> None:
    """A figure of matplotlib as two files, each whole or absent. Raises KernregError: the disk refuses."""
    replace(png, lambda partial: page.savefig(partial, format="png", dpi=PNG_DPI))
    replace(svg, lambda partial: page.savefig(partial, format="svg", metadata={"Date": None}))


def table(measurements: Sequence[Measurement]) -> str:
    """Aligned plain text: arch, kernel, n, exponent, its interval, model, loss and error at n.

    An asterisk at the exponent sends to the warnings, which follow the rows. Where breaks were looked for
    there are two more columns, the place of the break and c0 → c0 + c1, and a sentence after the rows.
    """
    head: tuple[str, ...] = ("arch", "kernel", "n", "exponent", "95 % interval", "model", "loss", "error")
    confidences = {m.fit.confidence for m in measurements if m.fit is not None}
    if len(confidences) == 1:
        head = (*head[:4], f"{100 * confidences.pop():g} % interval", *head[5:])
    asked = any(m.broken is not None for m in measurements)
    if asked:
        head = (*head, "break at", "exponents")
    rows, notes = [head], []
    for m in measurements:
        fit, curve = m.fit, m.curve
        told = ("-", "-", "-")
        if fit is not None:
            star = "*" if fit.warnings else " "
            told = (f"{fit.exponent:.3f}{star}", interval_text(fit), fit.model)
        error = "-" if curve.error is None else f"{100 * curve.error[-1]:.2f} %"
        n = str(int(curve.samples[-1]))
        broken = _break_cells(m.broken) if asked else ()
        rows.append((m.name, m.kernel, n, *told, f"{curve.loss[-1]:.4g}", error, *broken))
        name = label(m, measurements)
        notes += [f"* {name}: {sentence}" for sentence in (fit.warnings if fit is not None else ())]
        notes += [f"- {name}: {reason}" for reason in (m.unfit, m.unbroken) if reason]
        if m.broken is not None:
            notes.append(f"| {name}: {m.broken.sentence()}")
            notes += [f"| {name}: {sentence}" for sentence in m.broken.warnings if m.broken.found]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    left_aligned = (0, 1, 5)
    lines = [
        "  ".join(
            cell.ljust(width) if i in left_aligned else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines + notes)


def interval_text(fit: PowerLawFit) -> str:
    """[low, high], three decimals."""
    return f"[{fit.interval[0]:.3f}, {fit.interval[1]:.3f}]"


def _break_cells(broken: Break | None) -> tuple[str, str]:
    if broken is None or not broken.found:
        return ("-" if broken is None else "none", "-")
    return f"{broken.at:.3g}", f"{broken.before:.2f} → {broken.after:.2f}"


def write_csv(curves: Mapping[str, LearningCurve], path: str | Path) -> Path:
    """All points of all curves: columns curve, samples, loss, mse, error, loo, gcv; one row per m.

    A quantity that a curve does not have is an empty cell. Numbers read back exactly.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("curve", "samples", "loss", "mse", "error", "loo", "gcv"))
    for name, curve in curves.items():
        columns = (curve.loss, curve.mse, curve.error, curve.loo, curve.gcv)
        for i, m in enumerate(curve.samples):
            writer.writerow((name, int(m), *("" if c is None else repr(float(c[i])) for c in columns)))
    write_text(path, text.getvalue())
    return path


def write_json(measurements: Sequence[Measurement], path: str | Path) -> Path:
    """What was measured and fitted: `Measurement.to_dict()` of each, its name and its curve at the anchors.

    NaN and infinity, which JSON lacks, become null.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = []
    for m in measurements:
        points = points_of_curve(m.curve)
        at = np.searchsorted(m.curve.samples, points.samples.astype(np.int64))
        record = {"label": label(m, measurements), **m.to_dict()}
        record["curve"] = {
            "samples": points.samples.astype(np.int64).tolist(),
            "loss": m.curve.loss[at].tolist(),
            "error": None if m.curve.error is None else m.curve.error[at].tolist(),
            "mean_loss": points.loss.tolist(),
            "replicates": points.replicates.tolist(),
            "standard_deviation_of_log_loss": points.scatter.tolist() if points.measured else None,
        }
        records.append(record)
    text = json.dumps(finite(records), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")
    return path


def draw_curve(
    axes: Axes, name: str, curve: LearningCurve, fit: PowerLawFit | None, look: dict[str, Any], i: int
) -> None:
    points = points_of_curve(curve) if fit is None else fit.points
    text = name
    if fit is not None:
        star = "*" if fit.warnings else ""
        text = f"{name}   β = {fit.exponent:.2f} [{fit.interval[0]:.2f}, {fit.interval[1]:.2f}]{star}"
    shown = _shown(curve.samples)
    axes.plot(curve.samples[shown], curve.loss[shown], lw=0.5, alpha=0.45, zorder=2, **look)
    at = _shown(points.samples)
    m, loss = points.samples[at], points.loss[at]
    if points.measured:
        spread = np.exp(2 * points.scatter[at])
        axes.fill_between(m, loss / spread, loss * spread, alpha=0.13, lw=0, zorder=1, **look)
    # Later markers are smaller: equal curves (LCN and VEC are one kernel) show both.
    size = max(6.5 - 0.9 * i, 3.0)
    marker = MARKERS[i % len(MARKERS)]
    marks: dict[str, Any] = {"marker": marker, "ms": size, "mfc": "white", "mew": 1.0, **look}
    axes.plot(m, loss, ls="", zorder=4, **marks)
    if fit is not None:
        x = np.geomspace(*fit.window, 100)
        axes.plot(x, fit.predict(x), lw=1.8, ls=DASHES[i % len(DASHES)], zorder=3, **look)
    style = DASHES[i % len(DASHES)] if fit is not None else ""
    axes.plot([], [], ls=style, lw=1.8, label=text, **marks)


def draw_slopes(axes: Axes, fit: PowerLawFit, look: dict[str, Any], i: int) -> None:
    s = fit.slopes
    at = _shown(s.samples)
    axes.fill_between(s.samples[at], s.low[at], s.high[at], alpha=0.10, lw=0, **look)
    marker, size = MARKERS[i % len(MARKERS)], max(5.5 - 0.8 * i, 2.5)
    axes.plot(s.samples[at], s.slope[at], lw=0.8, marker=marker, ms=size, mfc="white", mew=0.9, **look)
    if fit.model == "power":
        dashes = DASHES[i % len(DASHES)]
        axes.plot(fit.window, [fit.exponent, fit.exponent], lw=1.8, ls=dashes, zorder=3, **look)


def _finish_curves(
    axes: Axes, curves: Mapping[str, LearningCurve], fits: Mapping[str, PowerLawFit | None]
) -> None:
    _logarithmic(axes, curves)
    axes.set_yscale("log")
    values = np.concatenate([c.loss[_shown(c.samples)] for c in curves.values()])
    if len(values) and values.max() / values.min() < 30:
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("test loss / loss of the zero predictor")
    starred = any(fit is not None and fit.warnings for fit in fits.values())
    axes.legend(
        loc="lower left",
        fontsize=8,
        handlelength=3.2,
        title="* with warnings, see the table" if starred else None,
        title_fontsize=7.5,
        alignment="left",
    )


def _finish_slopes(
    axes: Axes, curves: Mapping[str, LearningCurve], fits: Mapping[str, PowerLawFit | None]
) -> None:
    _logarithmic(axes, curves)
    axes.axhline(0, color="0.6", lw=0.6, zorder=0)
    axes.set_ylabel("local exponent  β(m) = −d log L / d log m")
    # The first samples have wide bands; the axis belongs to all slopes, and to the bands in the window.
    seen = [np.zeros(0)]
    for fit in (f for f in fits.values() if f is not None):
        s, in_window = fit.slopes, fit.slopes.samples >= fit.window[0]
        seen += [s.slope[_shown(s.samples)], s.low[in_window], s.high[in_window]]
    values = np.concatenate(seen)
    if len(values):
        margin = 0.08 * max(float(np.ptp(values)), 0.2)
        axes.set_ylim(float(values.min()) - margin, float(values.max()) + margin)


def _logarithmic(axes: Axes, curves: Mapping[str, LearningCurve]) -> None:
    axes.set_xscale("log")
    samples = np.concatenate([c.samples[_shown(c.samples)] for c in curves.values()])
    axes.set_xlim(samples.min() * 0.85, samples.max() * 1.25)
    axes.set_xlabel("training samples  m")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(True, which="major", lw=0.4, color="0.88", zorder=0)


def _shown(samples: NDArray[Any]) -> NDArray[np.bool_]:
    """Which points are drawn: those from SHOWN_FROM samples on, or all of a curve that ends there."""
    shown: NDArray[np.bool_] = samples >= (SHOWN_FROM if len(samples) and samples[-1] > SHOWN_FROM else 0)
    return shown


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
