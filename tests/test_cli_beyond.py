"""What reaches beyond memory from the command line: float32 factors, GCV, starts, curves by iterations, imitated GPUs."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from imitatedcupy import Machine
from matrices import Problem, problem, stored
from stores import without_power_cuts

from kernreg import device
from kernreg.blocks import GPU_BYTES
from kernreg.cli.main import main
from kernreg.curve import curve_from_store
from kernreg.store import GramStore

__all__ = ["without_power_cuts"]

N, T, λ = 90, 30, 1e-2
AGREE = 1e-6  # of two solutions of residual 1e-9 at condition 1e3


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def given() -> Problem:
    return problem(N, T)


@pytest.fixture(scope="module")
def gram(tmp_path_factory: pytest.TempPathFactory, given: Problem) -> Path:
    return stored(tmp_path_factory.mktemp("store") / "s.gram", given, 32).path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def done(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: object, status: int = 1) -> str:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    return result.stderr.splitlines()[-1]


def coefficients(path: str) -> np.ndarray:
    with h5py.File(path) as file:
        return np.asarray(file["coefficients"][...])


def test_a_float32_factor_gives_float64_coefficients(gram: Path, given: Problem) -> None:
    result = run("solve", gram, "--factor-dtype", "float32", "--ridge", λ, "--rtol", 1e-12, "--out", "a.h5")
    assert result.exit_code == 0, result.output
    assert "tiled: a factor in float32 is made by tiles on disk and refined in float64" in result.stderr
    assert "× in float64" in result.stdout
    exact = np.linalg.solve(given.K + λ * np.eye(N), given.y)
    np.testing.assert_allclose(coefficients("a.h5"), exact, rtol=AGREE)


def test_a_float32_factor_that_does_not_do_says_what_does(gram: Path) -> None:
    command = ("solve", gram, "--factor-dtype", "float32", "--out", "a.h5")
    said = refused(*command, "--ridge", λ, "--rtol", 1e-17)
    assert "refinement of the float32 factor stopped at a residual of" in said
    assert "use a float64 factor (--factor-dtype float64), or a larger ridge or rtol" in said
    assert not Path("a.h5").exists()
    assert not list(gram.parent.glob("*.factor"))


def test_what_float32_cannot_factor_names_float64_too() -> None:
    store = stored(Path("twins.gram"), problem(60, twins=(7,)))
    said = refused("solve", store.path, "--factor-dtype", "float32", "--ridge", 1e-12, "--out", "a.h5")
    assert "not positive definite in float32: pivot 8 (counting from 1; row 7 counting from 0) fails" in said
    assert "row 7 is a duplicate of row 0" in said
    assert "or use a float64 factor (--factor-dtype float64)" in said
    assert said.count("duplicate") == 1
    done("solve", store.path, "--ridge", 1e-9, "--out", "a.h5")


@pytest.mark.parametrize("solver", ["cholesky", "tiled", "cg"])
@pytest.mark.parametrize("probes", [40, 200])
def test_gcv_is_that_of_the_curve(solver: str, probes: int, gram: Path, given: Problem) -> None:
    facts = done("solve", gram, "--solver", solver, "--ridge", λ, "--rtol", 1e-11, "--gcv", "--probes", probes,
                 "--out", "a.h5")  # fmt: skip
    curve = curve_from_store(GramStore.open(gram), ridge=λ)
    assert curve.gcv is not None
    trace = np.trace(np.linalg.inv(given.K + λ * np.eye(N)))
    exact = {"trace": trace, "degrees_of_freedom": N - λ * trace, "gcv": curve.gcv[-1]}
    for name, value in exact.items():
        found, error = facts[name]
        assert abs(found - value) <= 6 * error + 1e-7 * abs(value), name
        assert (error == 0) == (probes >= N)
    text = run("solve", gram, "--solver", solver, "--ridge", λ, "--gcv", "--out", "a.h5").stdout
    for word in ("of (K + λI)⁻¹", "degrees, of n = 90", "of the error of the zero predictor"):
        assert word in text
    assert done("solve", gram, "--solver", solver, "--out", "a.h5")["gcv"] is None


@pytest.mark.parametrize("solver", ["cholesky", "tiled"])
def test_extreme_eigenvalues_are_those_of_the_matrix(solver: str, gram: Path, given: Problem) -> None:
    least, largest = done("solve", gram, "--solver", solver, "--ridge", λ, "--out", "a.h5")["eigenvalues"]
    e = np.linalg.eigvalsh(given.K + λ * np.eye(N))
    assert e[0] * (1 - 1e-9) <= least <= 2 * e[0]  # Ritz values lie inside the spectrum
    np.testing.assert_allclose(largest, e[-1], rtol=1e-6)


def test_fewer_rows_are_a_start(gram: Path, given: Problem) -> None:
    cg = ("solve", gram, "--solver", "cg", "--rank", 0, "--ridge", 1.0, "--rtol", 1e-6)
    done(*cg, "--n", N - 5, "--out", "fewer.h5")
    warm, cold = done(*cg, "--start", "fewer.h5", "--out", "a.h5"), done(*cg, "--out", "b.h5")
    assert sum(warm["iterations"]) < sum(cold["iterations"])
    np.testing.assert_allclose(coefficients("a.h5"), coefficients("b.h5"), rtol=1e-3, atol=1e-6)
    direct = run("solve", gram, "--start", "fewer.h5", "--out", "a.h5")
    assert "a start is not needed: cholesky solves directly" in direct.stderr
    assert "of at most 50 rows, not of the ntk and 85" in refused(*cg, "--n", 50, "--start", "fewer.h5")
    other = stored(Path("other.gram"), problem(N, T, seed=1))
    assert "another x_train, row 0" in refused("solve", other.path, "--solver", "cg", "--start", "fewer.h5")


@pytest.mark.parametrize("gcv", [False, True])
def test_a_curve_by_iterations_is_that_of_the_factor(gcv: bool, gram: Path) -> None:
    options = ("--ridge", λ, "--rtol", 1e-11, *(("--gcv", "--probes", 100) if gcv else ()))
    table = run("fit", gram, "--solver", "cg", "--ridge", λ, "--out", "cg").stdout
    assert f"ntk     {N}  " in table.splitlines()[1] + "  "
    result = run("fit", gram, "--solver", "cg", *options, "--out", "cg", "--json")
    assert result.exit_code == 0, result.output
    assert "by conjugate gradients, without leave-one-out" in result.stderr
    exact = curve_from_store(GramStore.open(gram), ridge=λ)
    with Path("cg/fit.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    at = np.array([int(row["samples"]) for row in rows]) - 1
    assert at.tolist() == [m - 1 for m in exact.anchors.tolist() if m >= 8]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], exact.loss[at], rtol=AGREE)
    assert exact.gcv is not None
    if gcv:  # a hundred probes of at most ninety rows: exact
        np.testing.assert_allclose([float(row["gcv"]) for row in rows], exact.gcv[at], rtol=AGREE)
    assert {row["gcv"] == "" for row in rows} == {not gcv}
    (found,) = json.loads(result.stdout)["results"]
    assert found["loss"] == pytest.approx(float(exact.loss[-1]), rel=AGREE)
    assert sorted(path.suffix for path in Path("cg").iterdir()) == [".csv", ".json", ".png", ".svg"]


def test_what_does_not_go_together_is_refused(gram: Path) -> None:
    assert "needs all eigenvalues, which iterations do not give" in refused(
        "fit", gram, "--solver", "cg", "--ridge", "loo"
    )
    assert "conjugate gradients have none: use --solver cholesky" in refused(
        "solve", gram, "--solver", "cg", "--factor-dtype", "float32"
    )
    assert "conjugate gradients have none: use --solver cholesky" in refused(
        "solve", gram, "--solver", "cg", "--device", "cuda"
    )
    assert "use --memory" in refused("fit", gram, "--solver", "cg", "--memory", "10MiB")
    refused("solve", gram, "--gcv", "--probes", 1, status=2)


def test_a_gpu_that_is_missing_is_one_line(gram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    device.cuda.cache_clear()
    for command in (("solve", gram), ("solve", gram, "--solver", "tiled"), ("fit", gram)):
        assert "device cuda needs CuPy" in refused(*command, "--device", "cuda")
        done(
            *command,
            "--device",
            "auto",
            *(("--out", "a.h5") if command[0] == "solve" else ("--no-exponent",)),
        )


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(2)
    monkeypatch.setitem(sys.modules, "cupy", machine.xp)
    monkeypatch.setitem(sys.modules, "cupy.cuda", machine.xp.cuda)
    device.cuda.cache_clear()
    return machine


def test_solve_and_fit_by_tiles_on_gpus(gram: Path, given: Problem, gpus: Machine) -> None:
    limits = ("--device", "cuda", "--device-memory", GPU_BYTES + 40_000, "--memory", "4GiB", "--ridge", λ)
    result = run("solve", gram, *limits, "--out", "a.h5")
    assert result.exit_code == 0, result.output
    assert "tiled: the factor goes to disk, the factor of n = 90 needs" in result.stderr
    exact = np.linalg.solve(given.K + λ * np.eye(N), given.y)
    np.testing.assert_allclose(coefficients("a.h5"), exact, rtol=AGREE)
    asked = gpus.calls[0, "potrf"] + gpus.calls[1, "potrf"]
    assert asked > 1
    assert max(gpus.peak.values()) <= 40_000
    result = run("fit", gram, *limits, "--no-loo", "--no-exponent", "--out", "fit", "--json")
    assert result.exit_code == 0, result.output
    assert "on 2 GPUs" in result.stderr
    assert "of the GPU's memory and 256 MiB are allowed: the factor is made by tiles on disk" in result.stderr
    expected = curve_from_store(GramStore.open(gram), ridge=λ)
    assert json.loads(result.stdout)["results"][0]["loss"] == pytest.approx(expected.loss[-1], rel=AGREE)
    assert gpus.calls[0, "potrf"] + gpus.calls[1, "potrf"] > asked
    assert max(gpus.peak.values()) <= 40_000
    said = refused("fit", gram, "--device", "cuda", "--device-memory", "1MiB")
    assert "are allowed: use --device-memory" in said
