"""Results: the files that measurements side by side become, under one stem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kernreg.durable import refusal
from kernreg.errors import KernregError
from kernreg.measure import Measurement, label
from kernreg.report import figure, write_csv, write_json


def save(measurements: Sequence[Measurement], folder: Path, stem: str = "fit") -> list[Path]:
    """Write stem.json, stem.csv, stem.png and stem.svg into a folder, which is made.

    Returns:
        The files, in that order.

    Raises:
        KernregError: nothing was measured, or the disk refuses.
    """
    if not measurements:
        raise KernregError("nothing was measured, so there is nothing to save")
    names = [label(m, measurements) for m in measurements]
    curves = {name: m.curve for name, m in zip(names, measurements, strict=True)}
    fits = {name: m.fit for name, m in zip(names, measurements, strict=True)}
    breaks = {name: m.broken for name, m in zip(names, measurements, strict=True)}
    about = sorted({f"{m.data}, n = {m.store.n}, {m.store.t} test rows" for m in measurements})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [
            write_json(measurements, folder / f"{stem}.json"),
            write_csv(curves, folder / f"{stem}.csv"),
        ]
        return [*files, *figure(curves, fits, folder / stem, title="; ".join(about), breaks=breaks)]
    except OSError as error:
        raise refusal(error, folder / stem) from error
