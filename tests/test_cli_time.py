"""kernreg fit --time and --step: the numbers of the library, the early-stopping view, and refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from matrices import problem, stored

import kernreg
from kernreg.cli.main import main
from kernreg.filters import GradientFlow
from kernreg.flowcurve import flow_from_store
from kernreg.plan import PROCESS_BYTES


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["fit", *(str(a) for a in arguments)])


def refused(*arguments: object, status: int = 1) -> str:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    return result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "a.gram"
    stored(path, problem(150, 30))
    return path


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def results(*arguments: object) -> list[dict[str, Any]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["results"]
    return found


def test_times_are_the_librarys_and_make_the_view(store: Path) -> None:
    result = run(store, "--time", "1,30", "--time", "1e4", "--time", "inf", "--no-exponent", "--out", "out")
    assert result.exit_code == 0, result.output
    times = [1.0, 30.0, 1e4, float("inf")]
    exact = flow_from_store(kernreg.GramStore.open(store), None, [GradientFlow(t) for t in times], 1e-6)
    for time, curve in zip(("1", "30", "10000", "inf"), exact.curves, strict=True):
        (row,) = (line for line in result.stdout.splitlines() if line.startswith(f"fcn, t = {time} "))
        assert f"{curve.loss[-1]:.4g}" in row
        assert " 150 " in row
    assert "generalised cross-validation stops at t = " in result.stdout
    for suffix in ("png", "svg", "csv"):
        assert f"wrote out/fit-times.{suffix}" in result.stdout
        assert Path(f"out/fit-times.{suffix}").stat().st_size > 500
    with Path("out/fit-times.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * len(exact.curves[0].samples)
    assert [float(r["loss"]) for r in rows] == [v for c in exact.curves for v in c.loss.tolist()]
    assert [float(r["train_loss"]) for r in rows] == exact.train.ravel().tolist()
    assert {r["time"] for r in rows} == {"1.0", "30.0", "10000.0", "inf"}
    picked = {(r["samples"], r["chosen_by_gcv"]) for r in rows}
    assert {m for m, one in picked if one == "1"} == {str(m) for m in exact.curves[0].samples}
    records = json.loads(Path("out/fit.json").read_text(encoding="utf-8"))
    assert [r["stop"]["time"] for r in records] == [1.0, 30.0, 1e4, "inf"]
    np.testing.assert_allclose(records[1]["curve"]["loss"][-1], exact.curves[1].loss[-1])


def test_one_time_has_no_view_and_a_range_has_equal_ratios(store: Path) -> None:
    (one,) = results(store, "--time", 5, "--out", "one")
    assert one["label"] == "fcn, t = 5"
    assert not list(Path("one").glob("fit-times*"))
    several = results(store, "--time", "1:100:3", "--no-exponent", "--out", "a")
    np.testing.assert_allclose([r["stop"]["time"] for r in several], [1, 10, 100])
    assert all(r["fit"] is None for r in several)


def test_steps(store: Path) -> None:
    (descent,) = results(store, "--time", 6, "--step", "0.5", "--no-exponent", "--out", "a")
    assert descent["label"] == "fcn, 12 steps of 0.5"
    assert descent["stop"] == {"time": 6.0, "step": 0.5, "steps": 12}
    (flow,) = results(store, "--time", 6, "--no-exponent", "--out", "a")
    assert descent["loss"] != flow["loss"]
    np.testing.assert_allclose(descent["loss"], flow["loss"], rtol=0.1)


def test_without_a_time_it_is_kernel_regression_as_before(store: Path) -> None:
    (end,) = results(store, "--time", "inf", "--no-exponent", "--out", "a")
    (regression,) = results(store, "--no-exponent", "--out", "a")
    np.testing.assert_allclose(end["loss"], regression["loss"], rtol=1e-7)
    assert regression["stop"] is None
    assert not list(Path("a").glob("fit-times*"))


def test_beyond_memory_it_is_streamed_and_says_so(store: Path) -> None:
    little = PROCESS_BYTES + (350 << 10)
    said = run(store, "--time", "1,20", "--memory", little, "--no-exponent", "--json", "--out", "a")
    assert said.exit_code == 0, said.output
    assert "followed by products with K, streamed" in said.stderr
    streamed = [r["loss"] for r in json.loads(said.stdout)["results"]]
    np.testing.assert_allclose(
        streamed, [r["loss"] for r in results(store, "--time", "1,20", "--no-exponent")], rtol=1e-6
    )


def test_refusals(store: Path) -> None:
    assert "a training time is a number ≥ 0" in refused(store, "--time", "-1")
    assert "stability limit of gradient descent" in refused(store, "--time", 100, "--step", 50)
    assert "is 3.33333 steps of 0.3" in refused(store, "--time", 1, "--step", "0.3")
    assert "finite" in refused(store, "--time", "inf", "--step", "0.3")
    for wrong in ("soon", "1:2", "5:1:3", "0:1:3", "1:10:1", "1,,2"):
        assert "training time" in refused(store, "--time", wrong, status=2)
    assert "--step" in refused(store, "--step", 1, status=2)
    assert "--ridge is a number" in refused(store, "--time", 1, "--ridge", "loo", status=2)
    assert "--scratch" in refused(store, "--time", 1, "--scratch", "s", status=2)
    assert "--device cuda" in refused(store, "--time", 1, "--device", "cuda", status=2)
