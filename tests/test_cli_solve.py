"""kernreg solve and predict: the numbers of LAPACK, files, resuming, new images, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

import kernreg
from kernreg.cgstate import load as load_state
from kernreg.cli.main import main
from kernreg.errors import KernregError
from kernreg.solutionfile import SavedSolution

N, T = 90, 30
GRAM = (
    "gram",
    "--data",
    "digits",
    "--backend",
    "reference",
    "--dtype",
    "float64",
    "--arch",
    "fcn",
    "--depth",
    1,
)


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
def gram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "digits.gram"
    done(*GRAM, "--n", N, "--test", T, "--out", path)
    return path


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def exact(path: Path, n: int, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and predictions by NumPy."""
    store = kernreg.GramStore.open(path)
    α = np.linalg.solve(store.train("ntk", n) + ridge * np.eye(n), store.y_train[:n])
    return α, store.test("ntk", n) @ α


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
@pytest.mark.parametrize("n", [N, 50])
def test_solve_writes_the_coefficients_of_lapack(gram: Path, solver: str, n: int) -> None:
    facts = json.loads(
        done("solve", gram, "--solver", solver, "--ridge", "1e-2", "--rtol", "1e-11", "--n", n, "--json")
    )
    α, _ = exact(gram, n, 1e-2)
    path = Path(facts["path"])
    assert path == Path("kernreg-out") / f"digits-ntk-n{n}.solution.h5"
    with h5py.File(path) as file:
        np.testing.assert_allclose(file["coefficients"][...], α, rtol=1e-6, atol=1e-9)
        assert file["residuals"].shape == (10,)
        assert file["residuals"][...].max() <= 1e-11
        assert json.loads(file.attrs["facts"])["ridge"] == 1e-2
        assert json.loads(file.attrs["settings"])["architecture"]["name"] == "fcn"
    assert facts["status"] == "converged"
    assert facts["solver"] == solver
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_text_says_solver_ridge_residual_and_why(gram: Path) -> None:
    result = run("solve", gram, "--ridge", "1e-3", "--ridge-mode", "relative", "--out", "a.h5")
    assert result.exit_code == 0
    assert "cholesky: n = 90 takes" in result.stderr
    for word in ("0.001 of the mean diagonal", "in float64", "eigenvalues", "wrote a.h5"):
        assert word in result.stdout
    tight = run("solve", gram, "--memory", "321MiB", "--out", "a.h5")
    assert tight.exit_code == 0, tight.output


def test_a_solve_that_stops_early_goes_on(gram: Path) -> None:
    given = ("solve", gram, "--solver", "cg", "--rank", 0, "--ridge", "1e-4", "--out", "a.h5")
    said = refused(*given, "--max-iterations", 5)
    assert "after 5 iterations" in said
    assert "larger --max-iterations goes on from here" in said
    assert not Path("a.h5").exists()
    state = Path("a.h5.state")
    assert state.exists()
    with pytest.raises(KernregError, match="another problem"):
        load_state(state, "")
    assert "another problem" in refused(*given[:-2], "--out", "a.h5", "--ridge", "1e-3")
    facts = json.loads(done(*given, "--json"))
    assert facts["status"] == "converged"
    assert not state.exists()
    whole = json.loads(done(*given, "--json"))
    assert whole["iterations"] == facts["iterations"]


def test_no_solution_is_one_line_with_a_remedy() -> None:
    x = np.repeat(np.eye(4), 3, axis=0)
    np.savez("twins.npz", X=x, y=np.arange(12) % 2, X_test=x[:4], y_test=np.arange(4) % 2)
    done("gram", "--data", "twins.npz", "--arch", "fcn", "--backend", "reference", "--out", "twins.gram")
    for solver in ("cholesky", "cg"):
        said = refused("solve", "twins.gram", "--ridge", 0, "--solver", solver, "--out", "a.h5")
        assert said.startswith("kernreg: error: ")
        assert not Path("a.h5").exists()
    assert "same input" in refused("solve", "twins.gram", "--ridge", 0, "--solver", "cholesky")
    done("solve", "twins.gram", "--ridge", "1e-3", "--out", "a.h5")


def test_predict_test_rows_is_the_product_with_k_test(gram: Path) -> None:
    done("solve", gram, "--ridge", "1e-2", "--out", "a.h5")
    _, f = exact(gram, N, 1e-2)
    store = kernreg.GramStore.open(gram)
    facts = json.loads(done("predict", "a.h5", "--json"))
    loss = np.square(f - store.y_test).sum() / np.square(store.y_test).sum()
    np.testing.assert_allclose(facts["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(facts["error"], np.mean(f.argmax(axis=1) != store.labels_test), rtol=1e-12)
    with Path("a.predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == T
    assert [int(row["row"]) for row in rows] == store.rows_test.tolist()
    np.testing.assert_allclose([float(row["output_3"]) for row in rows], f[:, 3], rtol=1e-6, atol=1e-9)
    assert [row["predicted"] for row in rows] == [str(k) for k in f.argmax(axis=1)]
    text = done("predict", "a.h5", "--test", 7, "--out", "few.h5")
    assert "7 rows of" in text
    with h5py.File("few.h5") as file:
        np.testing.assert_allclose(file["predictions"][...], f[:7], rtol=1e-6, atol=1e-9)
        assert file["labels"].shape == (7,)


def test_predict_finds_a_store_that_was_moved(gram: Path) -> None:
    done("solve", gram, "--ridge", "1e-2", "--out", "a.h5")
    gram.rename(gram.with_name("moved.gram"))
    try:
        assert "no Gram store" in refused("predict", "a.h5")
        done("predict", "a.h5", "--gram", gram.with_name("moved.gram"))
    finally:
        gram.with_name("moved.gram").rename(gram)
    done(*GRAM, "--n", N, "--test", T, "--seed", 1, "--out", "other.gram")
    assert "provenance.seed" in refused("predict", "a.h5", "--gram", "other.gram")


def raw_digits(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch["images"][rows].astype(np.uint8), bunch["target"][rows]


def test_predict_new_images_is_what_the_store_says_of_the_same_ones(gram: Path) -> None:
    """The test rows as a file of raw pixels: scaled as the training rows were, they give the same predictions."""
    done("solve", gram, "--ridge", "1e-2", "--out", "a.h5")
    store = kernreg.GramStore.open(gram)
    x, labels = raw_digits(store.rows_test)
    _, f = exact(gram, N, 1e-2)
    np.savez("new.npz", X=x, y=labels)
    facts = json.loads(done("predict", "a.h5", "--images", "new.npz", "--out", "new.h5", "--json"))
    with h5py.File("new.h5") as file:
        np.testing.assert_allclose(file["predictions"][...], f, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(file["labels"][...], labels)
    np.testing.assert_allclose(facts["error"], np.mean(f.argmax(axis=1) != labels))
    np.save("alone-X.npy", x)
    silent = json.loads(done("predict", "a.h5", "--images", "alone-X.npy", "--json"))
    assert (silent["rows"], silent["loss"], silent["error"]) == (T, None, None)


def test_new_images_are_transformed_as_the_training_rows_were() -> None:
    done(
        *GRAM,
        "--n",
        40,
        "--test",
        12,
        "--transform",
        "rotation",
        "--transform-seed",
        3,
        "--out",
        "turned.gram",
    )
    done("solve", "turned.gram", "--ridge", "1e-2", "--out", "a.h5")
    store = kernreg.GramStore.open("turned.gram")
    x, labels = raw_digits(store.rows_test)
    np.savez("new.npz", X=x, y=labels)
    done("predict", "a.h5", "--images", "new.npz", "--out", "new.h5")
    with h5py.File("new.h5") as file:
        f = store.test("ntk") @ np.linalg.solve(store.train("ntk") + 1e-2 * np.eye(40), store.y_train)
        np.testing.assert_allclose(file["predictions"][...], f, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.zeros((2, 9, 8), np.uint8), [0, 1], "has shape (9, 8, 1)"),
        (np.zeros((2, 8, 8), np.uint8), [0, 11], "the label 11"),
        (np.zeros((2, 8, 8), np.uint8), [0.5, 1.5], "real numbers"),
        (np.full((2, 8, 8), np.nan), [0, 1], "NaN"),
    ],
)
def test_new_images_that_do_not_fit_are_refused(gram: Path, x: np.ndarray, y: list[Any], said: str) -> None:
    done("solve", gram, "--ridge", "1e-2", "--out", "a.h5")
    np.savez("new.npz", X=x, y=np.array(y))
    assert said in refused("predict", "a.h5", "--images", "new.npz")


def test_refusals(gram: Path) -> None:
    assert "absent.gram" in refused("solve", "absent.gram")
    assert "holds ntk, not 'nngp'" in refused("solve", gram, "--kernel", "nngp")
    assert "n=91" in refused("solve", gram, "--n", 91)
    assert "use --memory" in refused("solve", gram, "--solver", "cholesky", "--memory", "1MiB")
    for wrong in (("--ridge", "-1"), ("--rtol", "0"), ("--solver", "lu"), ("--max-iterations", "0")):
        refused("solve", gram, *wrong, status=2)
    assert "absent.h5 does not exist" in refused("predict", "absent.h5")
    Path("junk.h5").write_bytes(b"junk")
    assert "no solution" in refused("predict", "junk.h5")
    done("solve", gram, "--out", "a.h5")
    assert ".csv, .h5" in refused("predict", "a.h5", "--out", "a.txt")
    refused("predict", "a.h5", "--images", "new.npz", "--test", 3, status=2)
    damaged = bytearray(Path("a.h5").read_bytes())
    damaged[-100] ^= 255
    Path("a.h5").write_bytes(bytes(damaged))
    assert "checksum" in refused("predict", "a.h5")


def test_a_solution_reads_back_as_it_was(gram: Path) -> None:
    done("solve", gram, "--ridge", "1e-2", "--n", 40, "--out", "a.h5")
    saved = SavedSolution.read(Path("a.h5"))
    store = kernreg.GramStore.open(gram)
    saved.require_store(store)
    assert saved.n == 40
    assert saved.settings == store.settings
    np.testing.assert_array_equal(saved.rows, store.rows_train[:40])
    assert len(saved.facts["residuals"]) == 10
    assert saved.facts["solver"] == "cholesky"
