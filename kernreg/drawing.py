"""Figures of a study as SVG text, PNG bytes and the table that each is drawn from."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernreg.durable import write_bytes
from kernreg.report import COLOURS, DASHES, MARKERS, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

PNG_DPI = 160


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: of its files.
        title, alt: above it, and what it shows for those who do not see it.
        svg, png: the picture.
        columns, rows: the numbers drawn.
    """

    name: str
    title: str
    alt: str
    svg: str
    png: bytes
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.svg, NAME.png and NAME.csv; numbers read back exactly."""
        paths = [folder / f"{self.name}{suffix}" for suffix in (".svg", ".png", ".csv")]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(self.columns)
        writer.writerows([["" if v is None else v for v in row] for row in self.rows])
        for path, content in zip(paths, (self.svg.encode(), self.png, text.getvalue().encode()), strict=True):
            write_bytes(path, content)
        return paths

    @property
    def inline(self) -> str:
        """The SVG element for a page: no declaration, ids of its own, scaled by the page."""
        body = self.svg[self.svg.index("<svg") :]
        body = re.sub(r'\bid="', f'id="{self.name}-', body)
        body = body.replace("url(#", f"url(#{self.name}-").replace('href="#', f'href="#{self.name}-')
        body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
        body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
        return re.sub(r"<svg.*?viewBox=\"([^\"]*)\".*?>", _open, body, count=1, flags=re.DOTALL)


def _open(match: re.Match[str]) -> str:
    """The head of an inline SVG: as wide as the page, at most its own size (a point is 4/3 pixels)."""
    box = match.group(1)
    widest = round(float(box.split()[2]) * 4 / 3)
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg viewBox="{box}" {names} style="max-width:{widest}px" aria-hidden="true">'


@contextmanager
def canvas(width: float, height: float) -> Iterator[Canvas]:
    """An empty figure of so many inches, in the style of `kernreg.report`."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        # Text is measured at the resolution that it is drawn at: hinting makes it narrower in coarser pixels.
        yield Canvas(figsize=(width, height), layout="constrained", dpi=PNG_DPI)


def finished(
    drawn: Canvas, name: str, title: str, alt: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> Figure:
    """A canvas as a `Figure`; call it inside `canvas`."""
    svg, png = io.StringIO(), io.BytesIO()
    drawn.draw_without_rendering()
    drawn.set_layout_engine(None)  # the places are found once for both files
    drawn.savefig(svg, format="svg", metadata={"Date": None})
    drawn.savefig(png, format="png", dpi=PNG_DPI)
    made = tuple(tuple(row) for row in rows)
    return Figure(name, title, alt, svg.getvalue(), png.getvalue(), tuple(columns), made)


def look(i: int) -> dict[str, Any]:
    """Colour, marker and dashes of the i-th architecture, the same in every figure."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "ls": DASHES[i % len(DASHES)],
        "mfc": "white",
    }


def columns_of(count: int) -> int:
    """Panels in a row."""
    return 2 if count == 4 else min(count, 3)


def panel_size(count: int) -> tuple[float, float]:
    """Width and height in inches of a figure of so many panels; one or two are larger."""
    across = columns_of(count)
    wide, high = (5.0, 3.6) if across < 3 else (3.5, 2.8)
    return wide * across, high * -(-count // across)


def panels(drawn: Canvas, count: int) -> list[Any]:
    """So many axes in rows, with common scales; labels stand at the edge alone."""
    across = columns_of(count)
    down = -(-count // across)
    grid = drawn.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for i, axes in enumerate(grid[:count]):
        axes.tick_params(labelbottom=i + across >= count, labelleft=i % across == 0)
    for axes in grid[count:]:
        axes.remove()
    return list(grid[:count])


def logarithmic(axes: Any, across: bool = True, up: bool = True) -> None:
    """Log scales with plain numbers and a light grid."""
    if across:
        from matplotlib.ticker import NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if up:
        axes.set_yscale("log")
        plain(axes)
    axes.grid(True, which="major", lw=0.4, color="0.88", zorder=0)


def plain(axes: Any) -> None:
    """1, 2 and 5 as ticks of a log scale that spans less than two decades."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axes.get_ylim()
    if high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
