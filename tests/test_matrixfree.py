"""A store without tiles: the same coefficients, curve and predictions, the kernel computed anew in every product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from kernreg.cli.main import main
from kernreg.errors import KernregError
from kernreg.matrixfree import without_tiles
from kernreg.store import GramStore

N, T = 40, 10
GRAM = (
    "gram",
    "--data",
    "digits",
    "--arch",
    "fcn",
    "--depth",
    1,
    "--backend",
    "reference",
    "--dtype",
    "float64",
)
AGREE = 1e-6  # of coefficients of residual 1e-10


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


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun = run(*GRAM, "--n", N, "--test", T, "--no-tiles", "--out", "begun.gram")
    assert begun.exit_code == 0, begun.output
    assert "begun: begun.gram" in begun.stdout
    assert not list(Path("begun.gram/tiles").glob("*"))


def test_solution_curve_and_predictions_are_those_of_the_tiles() -> None:
    done(*GRAM, "--n", N, "--test", T, "--out", "whole.gram")
    cg = ("--solver", "cg", "--ridge", 1e-2, "--rtol", 1e-10)
    found = []
    for gram, free in (("begun.gram", ("--matrix-free",)), ("whole.gram", ())):
        facts = done("solve", gram, *cg, *free, "--gcv", "--probes", 100, "--out", f"{gram}.h5")
        curve = done(
            "fit", gram, *cg, *free, "--gcv", "--probes", 100, "--no-exponent", "--out", f"{gram}.fit"
        )
        predicted = done("predict", f"{gram}.h5", *free, "--out", f"{gram}.p.h5")
        with h5py.File(f"{gram}.h5") as file, h5py.File(f"{gram}.p.h5") as predictions:
            arrays = (file["coefficients"][...], predictions["predictions"][...])
        found.append((facts["gcv"][0], curve["results"][0]["loss"], predicted["loss"], *arrays))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=AGREE, atol=1e-9)
    assert not list(Path("begun.gram/tiles").glob("*"))
    assert done("predict", "begun.gram.h5", "--matrix-free", "--test", 7)["rows"] == 7
    assert "missing" in refused("predict", "begun.gram.h5")


def test_a_smaller_solution_is_a_start_and_the_store_can_still_be_filled() -> None:
    cg = ("solve", "begun.gram", "--matrix-free", "--rank", 0, "--ridge", 10.0, "--rtol", 1e-6)
    done(*cg, "--n", N - 4, "--out", "fewer.h5")
    warm, cold = done(*cg, "--start", "fewer.h5", "--out", "a.h5"), done(*cg, "--out", "b.h5")
    assert sum(warm["iterations"]) < sum(cold["iterations"])
    assert run(*GRAM, "--n", N, "--test", T, "--out", "begun.gram").exit_code == 0
    assert GramStore.open("begun.gram").complete
    done("solve", "begun.gram", "--out", "c.h5")


def test_no_tiles_begins_a_store_and_extends_it() -> None:
    run(*GRAM, "--n", N + 9, "--test", T, "--no-tiles", "--out", "begun.gram")
    assert GramStore.open("begun.gram").n == N + 9
    again = run(*GRAM, "--n", N, "--test", T, "--no-tiles", "--out", "begun.gram")
    assert again.exit_code == 0, again.output
    assert GramStore.open("begun.gram").n == N + 9


def test_what_does_not_go_is_refused() -> None:
    assert "tiles" in refused("solve", "begun.gram")
    for option in (("--solver", "tiled"), ("--factor-dtype", "float32"), ("--device", "cuda")):
        said = refused("solve", "begun.gram", "--matrix-free", *option, status=2)
        assert "--matrix-free is for conjugate gradients" in said
    assert "--gcv and --matrix-free are for --solver cg" in refused(
        "fit", "begun.gram", "--matrix-free", status=2
    )
    assert "use --memory" in refused("solve", "begun.gram", "--matrix-free", "--memory", "1MiB")
    store = GramStore.open("begun.gram")
    for wrong, said in (({"n": N + 1}, f"{N + 1} rows are asked for"), ({"kernel": "nngp"}, "holds ntk")):
        with pytest.raises(KernregError, match=said):
            without_tiles(**{"store": store, "kernel": "ntk", **wrong})  # type: ignore[arg-type]
