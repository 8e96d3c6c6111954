"""Figures, tables and files of measurements."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

import numpy as np
import pytest

from kernreg.architecture import Architecture
from kernreg.curve import learning_curve
from kernreg.errors import KernregError
from kernreg.exponent import fit_exponent
from kernreg.measure import Measurement
from kernreg.report import figure, table, write_csv, write_json
from kernreg.store import GramStore


def measurement(name: str, seed: int, fitted: bool = True) -> Measurement:
    """A kernel regression on 64 rows of two classes; the store is a stand-in with what is read of it."""
    rng = np.random.default_rng(seed)
    x, z = rng.standard_normal((64, 40)) / np.arange(1, 41), rng.standard_normal((30, 40)) / np.arange(1, 41)
    y, y_test = (np.where(v[:, :1] > 0, 0.5, -0.5) * np.array([[1, -1]]) for v in (x, z))
    K = x @ x.T
    curve = learning_curve((K + K.T) / 2, y, z @ x.T, y_test, ridge=1e-3)
    architecture = Architecture.preset(name)
    store = SimpleNamespace(
        architecture=architecture, provenance={"name": "classes"}, path=Path(f"{name}.gram"), n=64, t=30
    )
    fit = fit_exponent(curve) if fitted else None
    return Measurement(cast(GramStore, store), "ntk", curve, fit, "" if fitted else "no exponent: too short")


@pytest.fixture(scope="module")
def measurements() -> list[Measurement]:
    return [measurement("fcn", 0), measurement("gap", 1), measurement("vec", 2, fitted=False)]


def test_figure_is_written_twice_and_says_the_exponents(
    measurements: list[Measurement], tmp_path: Path
) -> None:
    curves = {m.architecture: m.curve for m in measurements}
    fits = {m.architecture: m.fit for m in measurements}
    png, svg = figure(curves, fits, tmp_path / "new" / "curves.png", "a title")
    assert (png.name, svg.name) == ("curves.png", "curves.svg")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    # Words are drawn as glyphs; matplotlib keeps each text as a comment before them.
    text = svg.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    fit = measurements[0].fit
    assert fit is not None
    assert f"fcn   β = {fit.exponent:.2f} [{fit.interval[0]:.2f}, {fit.interval[1]:.2f}]" in text
    assert "a title" in text
    assert "local exponent" in text
    again = figure(curves, fits, tmp_path / "again", "a title")[1]
    assert again.read_bytes() == svg.read_bytes()


def test_figure_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernregError, match="no curve"):
        figure({}, {}, tmp_path / "x")


def test_more_curves_than_colours_and_short_ones(tmp_path: Path) -> None:
    curve = learning_curve(np.eye(3) + 1, [1.0, -1.0, 2.0], np.ones((2, 3)), [1.0, 0.5], loo=False)
    png, _ = figure({str(i): curve for i in range(10)}, {}, tmp_path / "many.svg")
    assert png.stat().st_size > 1000


def test_table_has_every_number_in_its_column(measurements: list[Measurement]) -> None:
    lines = table(measurements).splitlines()
    for word in ("arch", "kernel", "exponent", "95 % interval", "model", "loss", "error"):
        assert word in lines[0]
    for m, line in zip(measurements, lines[1:4], strict=True):
        assert line.startswith(m.architecture)
        assert f"{m.curve.loss[-1]:.4g}" in line
        assert m.curve.error is not None
        assert line.endswith(f"{100 * m.curve.error[-1]:.2f} %")
        if m.fit is not None:
            assert f"{m.fit.exponent:.3f}" in line
            assert f"[{m.fit.interval[0]:.3f}, {m.fit.interval[1]:.3f}]" in line
            assert all(f"* {m.architecture}: {w}" in lines[4:] for w in m.fit.warnings)
            assert m.fit.warnings  # only 30 test rows
    assert lines[-1] == "- vec: no exponent: too short"


def test_csv_reads_back_exactly(measurements: list[Measurement], tmp_path: Path) -> None:
    bare = learning_curve(np.eye(2), [1.0, 2.0], np.ones((1, 2)), [1.0], loo=False)
    curves = {"fcn": measurements[0].curve, "one, two": bare}
    with write_csv(curves, tmp_path / "a" / "curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 66
    fcn = measurements[0].curve
    assert fcn.loo is not None
    for column, values in (("samples", fcn.samples), ("loss", fcn.loss), ("loo", fcn.loo)):
        assert [float(row[column]) for row in rows[:64]] == values.tolist()
    assert (rows[-1]["curve"], rows[-1]["loo"], rows[-1]["error"]) == ("one, two", "", "")


def test_json_is_strict_and_holds_fit_and_curve(measurements: list[Measurement], tmp_path: Path) -> None:
    text = write_json(measurements, tmp_path / "fits.json").read_text(encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    records = json.loads(text, parse_constant=refuse)
    assert [r["label"] for r in records] == ["fcn", "gap", "vec"]
    fit, first = measurements[0].fit, records[0]
    assert fit is not None
    assert first["fit"]["exponent"] == fit.exponent
    assert first["fit"]["interval"] == list(fit.interval)
    assert first["fit"]["warnings"] == list(fit.warnings)
    assert first["curve"]["samples"][-1] == 64
    assert first["curve"]["loss"][-1] == measurements[0].curve.loss[-1]
    assert records[2]["fit"] is None


def test_a_disk_that_refuses_leaves_the_old_files(
    measurements: list[Measurement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = {"one": measurements[0].curve}
    fits = {"one": measurements[0].fit}
    write_csv(curves, tmp_path / "a.csv")
    write_json(measurements, tmp_path / "a.json")
    figure(curves, fits, tmp_path / "a")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    for write in (
        lambda: write_csv({**curves, "two": measurements[0].curve}, tmp_path / "a.csv"),
        lambda: write_json(measurements[:1], tmp_path / "a.json"),
        lambda: figure(curves, fits, tmp_path / "a", title="another"),
    ):
        with pytest.raises(KernregError, match="no space left on device"):
            write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_matplotlib_waits_until_a_figure_is_drawn() -> None:
    code = "import sys, kernreg.report; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
