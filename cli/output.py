"""Text for people and JSON for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import click


def echo_json(value: Any) -> None:
    """One JSON document on stdout. NaN and infinity, which JSON lacks, become null."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell, flush right, or flush left under the heads named in `left`."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = zip(row, widths, head, strict=True)
        line = "  ".join(cell.ljust(w) if name in left else cell.rjust(w) for cell, w, name in cells)
        lines.append(line.rstrip())
    return "\n".join(lines)


def seconds_text(seconds: float) -> str:
    """A duration as one would say it: 0.4 s, 12 s, 3 min 20 s, 5 h 10 min, 2 d 3 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, lesser in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {lesser}"
    return f"{whole} s"


def transform_text(made: Mapping[str, Any]) -> str:
    """The transform of a provenance as one would say it: rotation, seed 0; patch-rotation of 4×4 pixels, seed 1."""
    patch = " of {}×{} pixels".format(*made["patch"]) if made["patch"] else ""
    seed = "" if made["seed"] is None else f", seed {made['seed']}"
    return f"{made['name']}{patch}{seed}"
