"""GramStore: what is written is read, by kernreg and by plain h5py; what is damaged is named, never read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from stores import ARCHITECTURE, TILE, N, T, filled, made, numbers, rows

from kernreg import gramfile
from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.seal import seal
from kernreg.store import GramStore

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, and a busy disk makes fsync slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a.gram"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernels", [("nngp", "ntk"), ("ntk",)])
def test_what_is_written_is_read(folder: Path, dtype: str, kernels: tuple[str, ...]) -> None:
    filled(made(folder, dtype=dtype, kernels=kernels)).close()
    store = GramStore.open(folder)
    assert (store.n, store.t, store.dtype, store.kernels) == (N, T, dtype, kernels)
    assert store.architecture == ARCHITECTURE
    assert store.complete
    for kernel in kernels:
        K, K_test = numbers("train", dtype)[kernel], numbers("test", dtype)[kernel]
        for n in (1, TILE - 1, TILE, TILE + 1, N):
            np.testing.assert_array_equal(store.train(kernel, n), K[:n, :n].astype(float))
            np.testing.assert_array_equal(store.test(kernel, n), K_test[:T, :n].astype(float))
        assert store.train(kernel, dtype=np.float32).dtype == np.float32
    for name, given in rows().items():
        if not name.startswith("x"):
            np.testing.assert_array_equal(getattr(store, name), given)


@pytest.mark.parametrize("n", [1, 2, TILE - 1, TILE, TILE + 1, 13])
@pytest.mark.parametrize("t", [0, 1, TILE + 1])
def test_any_size(folder: Path, n: int, t: int) -> None:
    store = filled(made(folder, n, t))
    np.testing.assert_array_equal(store.train("ntk"), numbers("train")["ntk"][:n, :n])
    np.testing.assert_array_equal(store.test("ntk"), numbers("test")["ntk"][:t, :n])
    with h5py.File(folder / "gram.h5") as file:
        assert file["test/ntk"].shape == (t, n)


def test_labels_rows_and_test_rows_may_be_absent(folder: Path) -> None:
    x = rows()["x_train"]
    arguments: dict[str, Any] = {"architecture": ARCHITECTURE, "kernels": ("ntk",), "dtype": "float64"}
    GramStore.create(folder, **arguments, backend="cpu", tile=4, x_train=x, y_train=x[:, 0]).close()
    store = GramStore.open(folder)
    assert store.labels_train is None
    assert store.t == 0
    assert store.y_train.shape == (N, 1)
    np.testing.assert_array_equal(store.rows_train, np.arange(N))


def test_the_snippet_of_the_format_document_reads_it_with_h5py_alone(folder: Path) -> None:
    filled(made(folder)).close()
    text = (ROOT / "docs" / "format.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = next(block for block in blocks if "gram.h5" in block)
    assert "kernreg" not in code
    assert len(code.strip().splitlines()) <= 5
    moved = shutil.move(folder, folder.with_name("moved.gram"))
    report = code + "\nimport sys; assert 'kernreg' not in sys.modules; np.save('K.npy', K)"
    subprocess.run([sys.executable, "-c", report], cwd=moved, check=True)
    np.testing.assert_array_equal(np.load(Path(moved) / "K.npy"), numbers("train")["ntk"][:N, :N])


def test_the_main_file_says_what_determines_the_numbers(folder: Path) -> None:
    filled(made(folder)).close()
    with h5py.File(folder / "gram.h5") as file:
        said = dict(file.attrs)
        assert said["format"] == "kernreg-gram"
        assert said["format_version"] == 1
        assert Architecture.from_dict(json.loads(said["architecture"])) == ARCHITECTURE
        assert said["architecture_digest"] == ARCHITECTURE.digest
        assert said["dtype"] == "float64"
        assert said["backend"] == "reference"
        assert json.loads(said["kernels"]) == ["nngp", "ntk"]
        assert json.loads(said["provenance"])["seed"] == 1
        # other tests of the run may have imported some
        gpu_libraries = {"cupy", "torch", "triton"} & set(sys.modules)
        assert set(json.loads(said["versions"])) == {"kernreg", "numpy", "numba", "h5py"} | gpu_libraries
        assert file["train/hashes"].shape == (N, 16)
        assert list(file["train/edges"]) == [0, 5, 10, 15, 20, 23]
        strictly_lower = file["train/ntk"][TILE:, :TILE]
        assert np.isnan(strictly_lower).all()
    store = GramStore.open(folder)
    said_by_tile = store.shards.describe("test", store.grids["test"].tile(1, 2))
    assert said_by_tile["backend"] == "reference"
    assert set(said_by_tile["checksums"]) == {"nngp", "ntk"}
    assert said_by_tile["versions"]["kernreg"]
    assert said_by_tile["created"].endswith("+00:00")


def test_requests_out_of_range(folder: Path) -> None:
    store = filled(made(folder, kernels=("ntk",)))
    with pytest.raises(KernregError, match="holds ntk, not 'nngp'"):
        store.train("nngp")
    with pytest.raises(KernregError, match=f"use n ≤ {N}"):
        store.train("ntk", N + 1)
    with pytest.raises(KernregError, match="n=0"):
        store.test("ntk", 0)


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("dtype", "float32", "dtype: stored 'float64', given 'float32'"),
        ("backend", "cpu", "backend: stored 'reference', given 'cpu'"),
        ("kernels", ("ntk",), "kernels: stored"),
        ("architecture", Architecture.fcn(depth=3), f"architecture: stored .*{ARCHITECTURE.digest}"),
        ("input_shape", (5,), "input_shape: stored"),
        ("provenance", {"name": "random", "seed": 2, "shape": [4]}, "provenance.seed: stored 1, given 2"),
    ],
)
def test_other_settings_are_refused_by_name(folder: Path, field: str, value: Any, shown: str) -> None:
    made(folder).close()
    with pytest.raises(KernregError, match=f"{shown}.*use the stored value, or another folder"):
        GramStore.open(folder, **{field: value})


def test_sizes_and_places_in_the_provenance_may_differ(folder: Path) -> None:
    made(folder).close()
    provenance = {"name": "random", "seed": 1, "n": 4, "test": 0, "path": "/elsewhere", "shape": [4]}
    assert GramStore.open(folder, provenance=provenance).n == N


def test_creating_twice_is_refused(folder: Path) -> None:
    made(folder).close()
    with pytest.raises(KernregError, match="holds a store already"):
        made(folder)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(KernregError, match=r"no Gram store: gram.h5 is missing"):
        GramStore.open(tmp_path)
    with h5py.File(tmp_path / "gram.h5", "w"):
        pass
    with pytest.raises(KernregError, match=r"not written by kernreg.*move gram.h5 away"):
        GramStore.open(tmp_path)


def test_a_newer_format_is_refused(folder: Path) -> None:
    made(folder).close()
    seal(folder / "gram.h5", {"format_version": 2})
    with pytest.raises(KernregError, match="format version 2, this kernreg reads 1"):
        GramStore.open(folder)


def test_extension_recomputes_nothing(folder: Path) -> None:
    with filled(made(folder)) as store:
        before = {path: path.stat().st_mtime_ns for path in (folder / "tiles").iterdir()}
        store.extend(**rows(N, T + 3), provenance={"name": "random", "seed": 1, "shape": [4]})
        assert {part for part, _ in store.missing()} == {"test"}
        filled(store)
        store.extend(**rows(N + 17, T + 3), tile=7)
        assert store.train("ntk", N).shape == (N, N)
        filled(store)
        assert before.items() <= {p: p.stat().st_mtime_ns for p in (folder / "tiles").iterdir()}.items()
    store = GramStore.open(folder)
    n, t = N + 17, T + 3
    assert (store.n, store.t) == (n, t)
    np.testing.assert_array_equal(store.train("nngp"), numbers("train")["nngp"][:n, :n])
    np.testing.assert_array_equal(store.test("nngp"), numbers("test")["nngp"][:t, :n])
    np.testing.assert_array_equal(store.y_train, rows(n, t)["y_train"])


def changed(name: str, row: int) -> dict[str, Any]:
    given = rows(N + 5)
    given[name] = given[name].copy()
    given[name][row] += 1
    return given


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x_train", "x_train, row 22 .hash."),
        ("y_train", "y_train, row 22"),
        ("labels_train", "labels_train, row 22"),
        ("rows_train", "rows_train, row 22: stored 1022, given 1023"),
    ],
)
def test_extension_by_other_rows_is_refused(folder: Path, name: str, shown: str) -> None:
    with made(folder) as store:
        with pytest.raises(KernregError, match=shown):
            store.extend(**changed(name, 22))
        store.extend(**changed(name, 23))
        assert store.n == N + 5


def test_a_store_only_grows(folder: Path) -> None:
    with (
        made(folder) as store,
        pytest.raises(KernregError, match=f"holds {N} train rows, {N - 1} are given: a store only grows"),
    ):
        store.extend(**rows(N - 1))


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        ({"y_train": np.zeros((3, 2))}, "x_train has 23 rows and y_train 3"),
        ({"y_train": np.full((N, 2), np.nan)}, "y_train must be finite"),
        ({"labels_test": np.zeros(2, int)}, "labels_test 2"),
        ({"x_test": np.zeros((T, 5))}, r"x_test \(9, 5\)"),
        ({"y_test": np.zeros((T, 3))}, "as many columns"),
        ({"kernels": ("gp",)}, "kernels are"),
        ({"kernels": ()}, "kernels are"),
        ({"dtype": "float16"}, "float32 or float64"),
        ({"backend": "auto"}, "resolve it"),
        ({"provenance": {"a": object()}}, "JSON-able"),
        ({"tile": 0}, "at least one row"),
    ],
)
def test_wrong_arguments(folder: Path, wrong: dict[str, Any], shown: str) -> None:
    with pytest.raises(KernregError, match=shown):
        made(folder, **wrong)
    assert not folder.exists()


def test_hashes_do_not_depend_on_how_rows_are_held(folder: Path) -> None:
    x = rows()["x_train"].astype(np.float32)
    with made(folder, x_train=x) as store:
        store.require_inputs(x.astype(np.float64), np.asfortranarray(rows()["x_test"]))
        wrong = x.copy()
        wrong[7, 1] = np.nextafter(wrong[7, 1], 9)
        with pytest.raises(KernregError, match="x_train, row 7"):
            store.require_inputs(wrong, rows()["x_test"])


def test_other_versions_resume_and_are_recorded_by_tile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(folder).close()
    first, second = (GramStore.open(folder).grids["train"].tile(0, j) for j in (0, 1))
    values = numbers("train")
    with GramStore.open(folder, writer=True) as store:
        store.write("train", first, {k: v[first.rows, first.columns] for k, v in values.items()})
        monkeypatch.setattr(gramfile, "versions", lambda: {"kernreg": "9.9"})
        store.write("train", second, {k: v[second.rows, second.columns] for k, v in values.items()})
    store = GramStore.open(folder)
    assert store.shards.describe("train", first)["versions"] == store.versions
    assert store.shards.describe("train", second)["versions"] == {"kernreg": "9.9"}
    np.testing.assert_array_equal(store.train("ntk", 5), values["ntk"][:5, :5])


def test_a_reader_may_keep_the_store_while_it_grows(folder: Path) -> None:
    with filled(made(folder)) as store:
        reader = GramStore.open(folder)
        store.extend(**rows(N + 4))
        np.testing.assert_array_equal(reader.train("ntk"), numbers("train")["ntk"][:N, :N])
        assert reader.complete
        assert not store.complete
        np.testing.assert_array_equal(store.train("ntk", N), reader.train("ntk"))
