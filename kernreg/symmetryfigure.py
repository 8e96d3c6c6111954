"""The matrix of symmetries as a heat map, and its numbers as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernreg.durable import refusal, write_text
from kernreg.errors import KernregError
from kernreg.report import STYLE, save_page
from kernreg.symmetrymatrix import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST = 1e-16  # what a change of 0 is drawn as


def save(cells: Sequence[Cell], folder: Path, title: str = "", stem: str = "symmetry") -> list[Path]:
    """Write stem.csv, stem.png and stem.svg into a folder, which is made.

    Raises:
        KernregError: no cell, or the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [write_csv(cells, folder / f"{stem}.csv"), *heat_map(cells, folder / stem, title)]
    except OSError as error:
        raise refusal(error, folder / stem) from error


def write_csv(cells: Sequence[Cell], path: Path) -> Path:
    """One row a cell: architecture, transform, kernel, change, invariant, expected, agrees. Numbers read back exactly."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("architecture", "transform", "kernel", "change", "invariant", "expected", "agrees"))
    for c in cells:
        judged = (str(int(value)) for value in (c.invariant, c.expected, c.agrees))
        writer.writerow((c.architecture, c.transform, c.kernel, repr(c.change), *judged))
    write_text(path, text.getvalue())
    return path


def heat_map(cells: Sequence[Cell], path: Path, title: str = "") -> tuple[Path, Path]:
    """Draw the changes, one panel a kernel: dark is a large change, "inv" stands where the kernel is invariant, and a
    frame where measurement and theory differ. Returns the PNG and the SVG file, named after `path`.

    Raises:
        KernregError: no cell.
    """
    if not cells:
        raise KernregError("there is no cell to draw")
    import matplotlib
    from matplotlib.figure import Figure

    kernels = list(dict.fromkeys(cell.kernel for cell in cells))
    columns = list(dict.fromkeys(cell.architecture for cell in cells))
    rows = list(dict.fromkeys(cell.transform for cell in cells))
    png, svg = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")
    width = 2.0 + len(kernels) * (0.52 * len(columns) + 0.4)
    with matplotlib.rc_context(STYLE):
        page = Figure(figsize=(width, 1.5 + 0.36 * len(rows)), layout="constrained")
        panels = page.subplots(1, len(kernels), squeeze=False, sharey=True)[0]
        for axes, kernel in zip(panels, kernels, strict=True):
            image = _panel(axes, [c for c in cells if c.kernel == kernel], rows, columns)
            axes.set_title(kernel.upper(), fontsize=9)
        bar = page.colorbar(image, ax=panels, shrink=0.8, pad=0.02)
        bar.set_label("largest relative change of the kernel", fontsize=8)
        bar.set_ticks([-16, -12, -8, -4, 0], labels=["0", "1e-12", "1e-8", "1e-4", "1"])
        bar.outline.set_visible(False)
        if title:
            page.suptitle(title, fontsize=10)
        save_page(page, png, svg)
    return png, svg


def _panel(axes: Axes, cells: Sequence[Cell], rows: Sequence[str], columns: Sequence[str]) -> Any:
    from matplotlib.patches import Rectangle

    values = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        i, j = rows.index(cell.transform), columns.index(cell.architecture)
        values[i, j] = np.log10(np.clip(cell.change, SMALLEST, 1.0))
        text = "inv" if cell.invariant else f"{cell.change:.0e}".replace("e-0", "e-").replace("e+00", "")
        light = values[i, j] > -5
        axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color="white" if light else "black")
        if not cell.agrees:
            frame = Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, lw=2, edgecolor="#D55E00")
            axes.add_patch(frame)
    image = axes.imshow(values, cmap="cividis_r", vmin=-16, vmax=0, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image
