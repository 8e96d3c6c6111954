"""The registry, what the command line shows of it, and how light its import is."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernreg.data import describe, listing, load, names, reload
from kernreg.data.registry import ENTRIES
from kernreg.errors import KernregError

NAMES = (
    "digits",
    "cifar10",
    "cifar100",
    "mnist",
    "fashion-mnist",
    "synthetic",
    "sphere",
    "sphere-product",
    "eigenspaces",
    "synthetic-images",
)


def test_every_name_is_known_described_and_json(tmp_path: Path) -> None:
    assert names() == NAMES
    rows = listing(tmp_path)
    assert [row["name"] for row in rows] == list(NAMES)
    assert json.loads(json.dumps(rows)) == rows
    present = {row["name"]: row["present"] for row in rows}
    assert present == {name: ENTRIES[name].kind != "files" for name in NAMES}
    for row in rows:
        assert row["title"]
        assert row["licence"]
        assert (row["data_dir"] == str(tmp_path)) == (row["kind"] == "files")


def test_what_is_described_is_what_is_loaded() -> None:
    for name in ("digits", "synthetic-images"):
        shown, data = describe(name), load(name, n=20, test=10)
        assert shown["shape"] == list(data.shape)
        assert shown["classes"] == data.y_train.shape[1]
        assert shown["normalise"] == data.provenance["normalise"]
        assert data.name == data.provenance["name"] == name


def test_synthetic_takes_its_settings_and_no_others() -> None:
    data = load("synthetic", n=12, test=5, dimension=64, a=1.5, seed=3)
    assert (data.x_train.shape, data.y_test.shape) == ((12, 64), (5, 1))
    assert data.provenance["exponent"] == 0.5
    with pytest.raises(KernregError, match="has no setting width; it has a, b, dimension"):
        load("synthetic", n=12, test=5, width=64)
    with pytest.raises(KernregError, match="is generated to scale"):
        load("synthetic", n=12, test=5, normalise="standard")


def test_synthetic_is_loaded_again_with_its_settings() -> None:
    data = load("synthetic", n=12, test=5, dimension=64, a=1.5, seed=3, dtype="float64")
    again = reload(json.loads(json.dumps(data.provenance)))
    np.testing.assert_array_equal(again.x_train, data.x_train)
    np.testing.assert_array_equal(again.y_test, data.y_test)


def test_describing_a_file_or_nothing_known_is_refused() -> None:
    with pytest.raises(KernregError, match="is a file"):
        describe("mine.npz")
    with pytest.raises(KernregError, match="unknown data set 'nothing'"):
        describe("nothing")


def test_the_import_is_light() -> None:
    code = (
        "import sys, kernreg.data; kernreg.data.names(); kernreg.data.describe('mnist', '.'); "
        "heavy = ('sklearn', 'h5py', 'pooch', 'scipy', 'requests', 'numba', 'matplotlib'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
