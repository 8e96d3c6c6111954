"""Theory beside measurement: the numbers, the files, the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kernreg
from kernreg.cli.main import main
from kernreg.errors import KernregError
from kernreg.overlay import departure, overlay
from kernreg.spectra import spectrum
from kernreg.theoryfigure import figure

N = 160


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def gram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "fcn.gram"
    command = ("gram", "--data", "digits", "--backend", "reference", "--dtype", "float64", "--arch", "fcn")
    done(*command, "--n", N, "--test", 200, "--out", path)
    return path


def test_departure_by_hand() -> None:
    m = np.array([1, 10, 100])
    found = departure(m, np.array([9.0, 1.2, 0.9]), np.array([1.0, 1.0, 1.0]), first=10)
    assert found is not None
    assert (found.at, found.compared) == (10, 2)
    assert found.worst == pytest.approx(0.2)
    weighted = (np.log(1.2) ** 2 / 10 + np.log(0.9) ** 2 / 100) / (1 / 10 + 1 / 100)
    assert found.typical == pytest.approx(np.sqrt(weighted))
    assert departure(m, np.ones(3), np.ones(3), first=101) is None


def test_overlay_predicts_from_training_rows_alone(gram: Path) -> None:
    store = kernreg.GramStore.open(gram)
    found = overlay(store, groups=0, first=40)
    K, y = store.train("ntk"), store.y_train
    zero = np.square(y).sum() / N
    np.testing.assert_allclose(
        found.by_spectrum, spectrum(K, y, 1e-6).held_out(found.samples) / zero, rtol=1e-9
    )
    gcv = found.measurement.curve.gcv
    assert gcv is not None
    loo = found.measurement.curve.loo
    assert loo is not None
    assert found.by_spectrum[-1] == pytest.approx(gcv[-1], rel=1e-6)
    assert found.theory[-1] == pytest.approx(loo[-1], rel=1e-6)
    assert set(found.departures) == {"theory", "spectrum", "gcv", "loo"}
    assert found.departures["theory"].compared == N - 39
    # 200 test rows leave some ten percent of scatter.
    assert found.departures["theory"].worst < 0.4
    half = overlay(store, groups=0, part=0.5, first=40)
    rows = slice(N // 2, N)
    np.testing.assert_allclose(
        half.by_spectrum, spectrum(K[rows, rows], y[rows], 1e-6).held_out(half.samples) / zero, rtol=1e-9
    )
    assert half.samples[-1] == N // 2
    with pytest.raises(KernregError, match="part"):
        overlay(store, part=0.0)


def test_command_prints_and_writes(gram: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = done("theory", gram, "--groups", 3, "--from", 40, "--out", out)
    for said in ("β theory", "β fitted", "departs from the measured loss", "fcn"):
        assert said in text
    files = [out / f"theory{end}" for end in (".json", ".csv", "-spectrum.csv", ".png", ".svg")]
    assert [line[6:] for line in text.splitlines() if line.startswith("wrote ")] == [str(f) for f in files]
    (record,) = json.loads(files[0].read_text(encoding="utf-8"))
    assert record["label"] == "fcn"
    assert record["spectral_exponents"]["beta_interval"][0] < record["spectral_exponents"]["beta"]
    with files[1].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == N
    store = kernreg.GramStore.open(gram)
    found = overlay(store, groups=0)
    np.testing.assert_allclose([float(r["theory"]) for r in rows], found.theory, rtol=1e-9)
    with files[2].open(encoding="utf-8") as file:
        spectra = list(csv.DictReader(file))
    np.testing.assert_allclose([float(r["eigenvalue"]) for r in spectra], found.spectrum.eigenvalues / N)
    assert files[3].read_bytes().startswith(b"\x89PNG")
    assert "predicted / measured" in files[4].read_text(encoding="utf-8")
    as_json = json.loads(done("theory", gram, "--groups", 0, "--part", 0.5, "--json", "--out", out))
    (result,) = as_json["results"]
    assert result["spectrum_rows"] == N // 2
    assert "choose a smaller --from" in done("theory", gram, "--groups", 0, "--from", 161, "--out", out)


def test_too_few_rows_for_exponents_still_predict(tmp_path: Path) -> None:
    path = tmp_path / "small.gram"
    command = ("gram", "--data", "digits", "--backend", "reference", "--arch", "fcn", "--n", 20, "--test", 9)
    done(*command, "--out", path)
    text = done("theory", path, "--from", 5, "--out", tmp_path)
    assert "at least 64 rows" in text
    assert "departs" in text


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(KernregError, match="no curve"):
        figure({}, tmp_path / "x")
    assert run("theory", tmp_path / "absent.gram").exit_code == 1
    assert run("theory", "--part", 2).exit_code == 2


def test_fit_looks_for_breaks_when_asked(gram: Path, tmp_path: Path) -> None:
    out = tmp_path / "fit"
    text = done("fit", gram, "--breaks", "--out", out)
    assert "break at" in text.splitlines()[0]
    assert "| fcn: " in text
    (record,) = json.loads((out / "fit.json").read_text(encoding="utf-8"))
    assert 0 < record["break"]["p_value"] <= 1
    assert record["break"]["sentence"] in text
    assert "break at" not in done("fit", gram, "--out", out)
    small = tmp_path / "short.gram"
    done(
        "gram",
        "--data",
        "digits",
        "--backend",
        "reference",
        "--arch",
        "fcn",
        "--n",
        40,
        "--test",
        30,
        "--out",
        small,
    )
    assert "a break takes at least 8 points" in done("fit", small, "--breaks", "--out", out)
