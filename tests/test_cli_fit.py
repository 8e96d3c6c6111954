"""kernreg fit and demo: the numbers of the library, files, comparison and refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kernreg
from kernreg.cli.main import main
from kernreg.measure import complete_stores, label, measure, verdict

GRAM = ("gram", "--data", "digits", "--backend", "reference", "--test", 40, "--dtype", "float64")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object, status: int = 1) -> str:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    return result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two complete stores and one that lacks a tile."""
    folder = tmp_path_factory.mktemp("stores")
    done(*GRAM, "--arch", "fcn", "--n", 160, "--kernel", "both", "--out", folder / "fcn.gram")
    done(*GRAM, "--arch", "fcn", "--depth", 1, "--n", 160, "--out", folder / "shallow.gram")
    done(*GRAM, "--arch", "fcn", "--depth", 2, "--n", 20, "--out", folder / "begun.gram")
    next(folder.glob("begun.gram/tiles/test*")).unlink()
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def results(*arguments: object) -> Any:
    return json.loads(done("fit", *arguments, "--json"))


def test_fit_prints_the_numbers_of_the_library_and_writes_the_files(stores: Path) -> None:
    text = done("fit", stores / "shallow.gram", "--out", "out")
    store = kernreg.GramStore.open(stores / "shallow.gram")
    curve = kernreg.learning_curve(store.train("ntk"), store.y_train, store.test("ntk"), store.y_test)
    fit = kernreg.fit_exponent(curve)
    for said in (f"{fit.exponent:.3f}", f"[{fit.interval[0]:.3f}, {fit.interval[1]:.3f}]", fit.model, "160"):
        assert said in text
    files = [Path("out") / f"fit.{suffix}" for suffix in ("json", "csv", "png", "svg")]
    assert [line[6:] for line in text.splitlines() if line.startswith("wrote ")] == [str(f) for f in files]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    with files[1].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["loss"]) for row in rows], curve.loss, rtol=1e-9)
    (record,) = json.loads(files[0].read_text(encoding="utf-8"))
    np.testing.assert_allclose(record["fit"]["exponent"], fit.exponent, rtol=1e-6)


def test_without_a_gram_it_is_every_complete_one_here(stores: Path, tmp_path: Path) -> None:
    Path("kernreg-out").symlink_to(stores)
    said = run("fit", "--json", "--out", "out")
    assert said.exit_code == 0
    assert len(said.stderr.splitlines()) == 3
    found = [(r["label"], r["kernel"]) for r in json.loads(said.stdout)["results"]]
    assert found == [
        ("fcn nngp", "nngp"),
        ("fcn ntk [fcn]", "ntk"),
        ("fcn ntk [shallow]", "ntk"),
    ]
    assert [r["kernel"] for r in results(stores, "--kernel", "ntk", "--out", "out")["results"]] == [
        "ntk",
        "ntk",
    ]


def test_no_exponent_measures_the_curve_alone(stores: Path) -> None:
    (result,) = results(stores / "shallow.gram", "--no-exponent", "--out", "out")["results"]
    assert result["fit"] is None
    assert 0 < result["loss"] < 1


def test_settings_reach_curve_and_fit(stores: Path) -> None:
    path = stores / "shallow.gram"
    (given,) = results(path, "--ridge", "0.5", "--model", "power", "--window", "20:100", "--out", "a")[
        "results"
    ]
    assert given["ridge"] == 0.5
    assert given["fit"]["model"] == "power"
    low, high = given["fit"]["window"]
    assert 20 <= low < high <= 100
    (relative,) = results(path, "--ridge", "0.5", "--ridge-mode", "relative", "--out", "a")["results"]
    np.testing.assert_allclose(relative["relative_ridge"], 0.5)
    (chosen,) = results(path, "--ridge", "loo", "--out", "a")["results"]
    assert chosen["ridge"] not in (0.5, 1e-6)


def test_a_curve_too_short_for_an_exponent_says_why_and_keeps_its_losses() -> None:
    done(*GRAM, "--arch", "fcn", "--n", 9, "--out", "short.gram")
    text = done("fit", "short.gram")
    assert "cannot determine" in text
    (result,) = results("short.gram")["results"]
    assert result["fit"] is None
    assert "cannot determine" in result["unfit"]
    assert result["loss"] > 0


def test_refusals(stores: Path) -> None:
    assert "no complete Gram store in kernreg-out" in refused("fit")
    assert "tiles needed are missing" in refused("fit", stores / "begun.gram")
    assert "absent.gram" in refused("fit", "absent.gram")
    assert "holds ntk, not 'nngp'" in refused("fit", stores / "shallow.gram", "--kernel", "nngp")
    for wrong in (("--ridge", "-1"), ("--window", "9:3"), ("--model", "cubic")):
        refused("fit", stores / "shallow.gram", *wrong, status=2)


def test_no_test_rows_and_no_positive_definiteness_are_one_line(tmp_path: Path) -> None:
    x = np.repeat(np.eye(4), 3, axis=0)
    np.savez("twins.npz", X=x, y=np.arange(12) % 2, X_test=x[:4], y_test=np.arange(4) % 2)
    command = ("gram", "--data", "twins.npz", "--arch", "fcn", "--backend", "reference", "--out")
    done(*command, "twins.gram")
    said = refused("fit", "twins.gram", "--ridge", "0")
    assert "not positive definite" in said
    assert "is enough" in said
    done(*command, "blind.gram", "--test", 0)
    assert "test rows" in refused("fit", "blind.gram")


def test_verdict_orders_by_the_measured_exponents(stores: Path) -> None:
    both = [measure(store, "ntk") for store in complete_stores(stores)]
    said = verdict(both)
    first, second = sorted(both, key=lambda m: m.fit.exponent if m.fit else 0, reverse=True)
    assert said[0].startswith(f"exponents, steepest first: {label(first, both)} ")
    assert label(second, both) in said[0]
    assert said[-1].startswith("loss at n = 160, lowest first: ")
    assert verdict(both[:1]) == []
    assert " = " in verdict([both[0], both[0]])[0]


def test_demo_goes_from_images_to_exponents_and_resumes() -> None:
    command = ("demo", "--n", 30, "--test", 10, "--backend", "reference", "--out", "out")
    text = done(*command)
    for name in ("fcn", "lcn", "vec", "gap"):
        assert f"\n{name} " in text
        assert Path(f"out/digits-{name}-30-10.gram").is_dir()
    assert "loss at n = 30, lowest first: " in text
    assert Path("out/demo.png").exists()
    tiles = {file: file.stat().st_mtime_ns for file in Path("out").glob("*.gram/tiles/*")}
    found = json.loads(done(*command, "--json"))
    assert [r["label"] for r in found["results"]] == ["fcn", "lcn", "vec", "gap"]
    assert found["results"][1]["loss"] == found["results"][2]["loss"]
    assert {file: file.stat().st_mtime_ns for file in tiles} == tiles
