"""The figure, the table and the files of theory beside measurement."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernreg.durable import refusal, write_text
from kernreg.errors import KernregError
from kernreg.measure import label
from kernreg.overlay import Overlay
from kernreg.report import COLOURS, DASHES, MARKERS, STYLE, interval_text, save_page
from kernreg.spectralexponents import Tail

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_FROM = 4
WITHIN = 0.10


def names(overlays: Sequence[Overlay]) -> list[str]:
    """A short name of each."""
    among = [o.measurement for o in overlays]
    return [label(m, among) for m in among]


def save(overlays: Sequence[Overlay], folder: Path, stem: str = "theory") -> list[Path]:
    """Write stem.json, stem.csv, stem-spectrum.csv, stem.png and stem.svg into a folder, which is made.

    Raises:
        KernregError: there is nothing to save, or the disk refuses.
    """
    if not overlays:
        raise KernregError("nothing was measured, so there is nothing to save")
    named = dict(zip(names(overlays), overlays, strict=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        records = [{"label": name, **o.to_dict()} for name, o in named.items()]
        text = json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(folder / f"{stem}.json", text + "\n")
        return [
            folder / f"{stem}.json",
            write_curves(named, folder / f"{stem}.csv"),
            write_spectra(named, folder / f"{stem}-spectrum.csv"),
            *figure(named, folder / stem),
        ]
    except OSError as error:
        raise refusal(error, folder / stem) from error


def table(overlays: Sequence[Overlay]) -> list[tuple[str, ...]]:
    """The head and one row for each: exponents of the spectra, β predicted and fitted, departures in percent."""
    rows: list[tuple[str, ...]] = [
        (
            "curve",
            "n",
            "a",
            "b",
            "β theory",
            "interval",
            "β local",
            "β fitted",
            "interval",
            "theory",
            "spectrum",
            "gcv",
            "loo",
        )
    ]
    for name, o in zip(names(overlays), overlays, strict=True):
        e, fit = o.exponents, o.measurement.fit
        spectral = ("-",) * 5
        if e is not None:
            star = "*" if e.warnings else " "
            span = "-" if e.beta_interval is None else f"[{e.beta_interval[0]:.2f}, {e.beta_interval[1]:.2f}]"
            spectral = (f"{e.a.value:.2f}", f"{e.b.value:.2f}", f"{e.beta:.2f}{star}", span, f"{e.local:.2f}")
        fitted = ("-", "-") if fit is None else (f"{fit.exponent:.3f}", interval_text(fit))
        off = (o.departures.get(key) for key in ("theory", "spectrum", "gcv", "loo"))
        percent = tuple("-" if d is None else f"{100 * d.worst:.0f} %" for d in off)
        rows.append((name, str(len(o.measurement.curve.samples)), *spectral, *fitted, *percent))
    return rows


def write_curves(overlays: Mapping[str, Overlay], path: Path) -> Path:
    """Columns curve, samples, loss, theory, spectrum, gcv, loo; one row per m. What does not exist is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("curve", "samples", "loss", "theory", "spectrum", "gcv", "loo"))
    for name, o in overlays.items():
        curve = o.measurement.curve
        columns = (curve.loss, o.theory, o.by_spectrum, curve.gcv, curve.loo)
        for i, m in enumerate(curve.samples):
            cells = ("" if c is None or i >= len(c) else repr(float(c[i])) for c in columns)
            writer.writerow((name, int(m), *cells))
    write_text(path, text.getvalue())
    return path


def write_spectra(overlays: Mapping[str, Overlay], path: Path) -> Path:
    """Columns curve, k, eigenvalue (of K + δI, over N), energy (over N), effective_ridge (κ̂ at m = k)."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("curve", "k", "eigenvalue", "energy", "effective_ridge"))
    for name, o in overlays.items():
        s = o.spectrum
        κ = s.effective_ridge(np.arange(1, s.rows + 1))
        for k in range(s.rows):
            numbers = (s.eigenvalues[k] / s.rows, s.energies[k] / s.rows, κ[k])
            writer.writerow((name, k + 1, *(repr(float(v)) for v in numbers)))
    write_text(path, text.getvalue())
    return path


def figure(overlays: Mapping[str, Overlay], path: str | Path, title: str = "") -> tuple[Path, Path]:
    """Draw measured and predicted losses, their ratio, and the spectra; write PNG and SVG.

    Left: the mean loss over disjoint training sets (markers) with two standard deviations (band), the theory
    (line) and GCV (thin). Middle: prediction over measurement, shaded within ten percent. Right: effective
    ridge κ̂(m) and the energy of the targets beyond mode k, with their fitted power laws over the windows.

    Args:
        overlays: by the name that the legend shows.
        path: without suffix, or with .png or .svg; the folder is made.
        title: above the figure.

    Raises:
        KernregError: no overlay.
    """
    if not overlays:
        raise KernregError("there is no curve to draw")
    import matplotlib
    from matplotlib.figure import Figure

    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".png", ".svg") else path
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    with matplotlib.rc_context(STYLE):
        page = Figure(figsize=(12.6, 4.0), layout="constrained")
        left, middle, right = page.subplots(1, 3)
        for i, (name, o) in enumerate(overlays.items()):
            look = {"color": COLOURS[i % len(COLOURS)]}
            _draw_losses(left, name, o, look, i)
            _draw_ratios(middle, o, look, i)
            _draw_spectra(right, o, look, i)
        _finish(left, "training samples  m", "test loss / loss of the zero predictor")
        left.set_yscale("log")
        left.legend(loc="lower left", fontsize=8)
        middle.axhspan(1 - WITHIN, 1 + WITHIN, color="0.93", zorder=0)
        middle.axhline(1, color="0.5", lw=0.7, zorder=1)
        _finish(middle, "training samples  m", "predicted / measured")
        middle.set_ylim(0.5, 1.6)
        _finish(right, "mode k,  samples m", "κ̂(m)/κ̂(1) (dotted),  target energy beyond k")
        right.set_yscale("log")
        if title:
            page.suptitle(title, fontsize=10)
        save_page(page, png, svg)
    return png, svg


def _draw_losses(axes: Axes, name: str, o: Overlay, look: dict[str, Any], i: int) -> None:
    points, curve = o.points, o.measurement.curve
    at = points.samples >= SHOWN_FROM
    m, loss = points.samples[at], points.loss[at]
    if points.measured:
        spread = np.exp(2 * points.scatter[at])
        axes.fill_between(m, loss / spread, loss * spread, alpha=0.13, lw=0, zorder=1, **look)
    axes.plot(m, loss, ls="", marker=MARKERS[i % len(MARKERS)], ms=5, mfc="white", mew=1.0, zorder=4, **look)
    shown = o.samples >= SHOWN_FROM
    dashes = DASHES[i % len(DASHES)]
    axes.plot(o.samples[shown], o.theory[shown], lw=1.6, ls=dashes, zorder=3, label=f"{name}: theory", **look)
    if curve.gcv is not None:
        own = curve.samples >= SHOWN_FROM
        axes.plot(
            curve.samples[own], curve.gcv[own], lw=0.5, alpha=0.5, zorder=2, label=f"{name}: GCV", **look
        )


def _draw_ratios(axes: Axes, o: Overlay, look: dict[str, Any], i: int) -> None:
    points, curve = o.points, o.measurement.curve
    at = (points.samples >= SHOWN_FROM) & (points.samples <= o.spectrum.rows)
    m = points.samples[at].astype(np.int64)
    marks: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "ms": 5, "mfc": "white", "mew": 1.0}
    axes.plot(
        m, o.theory[m - 1] / points.loss[at], lw=1.2, ls=DASHES[i % len(DASHES)], zorder=4, **marks, **look
    )
    if curve.gcv is not None:
        own = curve.samples >= SHOWN_FROM
        axes.plot(curve.samples[own], curve.gcv[own] / curve.loss[own], lw=0.5, alpha=0.5, zorder=2, **look)


def _draw_spectra(axes: Axes, o: Overlay, look: dict[str, Any], i: int) -> None:
    κ = o.spectrum.effective_ridge(o.samples)
    axes.plot(o.samples, κ / κ[0], lw=0.9, ls=":", **look)
    if o.spectrum.rows < 2:
        return
    k, tail, _ = o.spectrum.tails()
    energy = float(o.spectrum.energies.sum()) / o.spectrum.rows
    axes.plot(k, tail / energy, lw=0.9, **look)
    if o.exponents is None:
        return
    for fitted, x, y, plus in (
        (o.exponents.b, o.samples + 0.5, κ / κ[0], 0.0),
        (o.exponents.a, k + 0.5, tail / energy, 1.0),
    ):
        axes.plot(*_line(fitted, x, y, plus), lw=2.2, alpha=0.7, ls=DASHES[i % len(DASHES)], **look)


def _line(fitted: Tail, x: Any, y: Any, plus: float) -> tuple[Any, Any]:
    """The fitted slope through the middle of its window."""
    ends = np.asarray(fitted.window) + 0.5
    middle = np.sqrt(ends[0] * ends[1])
    height = np.exp(np.interp(np.log(middle), np.log(x), np.log(y)))
    return ends, height * (ends / middle) ** (plus - fitted.value)


def _finish(axes: Axes, horizontal: str, vertical: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(True, which="major", lw=0.4, color="0.88", zorder=0)
