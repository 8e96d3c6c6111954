"""What a factor by tiles refuses, in one line with a remedy: pivots, a second process, bad input, a small disk."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matrices import problem, stored
from stores import without_power_cuts
from test_tiledfactor import SOLVER, cut, lower, λ

from kernreg.cholesky import NotPositiveDefiniteError
from kernreg.durable import Lock
from kernreg.errors import KernregError
from kernreg.store import GramStore
from kernreg.tiled import TiledCholesky, tiled_factor
from kernreg.tiledsolution import tiled_solve

__all__ = ["without_power_cuts"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("twin", [1, 17, 40])
def test_a_duplicate_is_named_and_the_ridge_that_is_named_is_enough(
    twin: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, 8, 16)
    p = problem(41, dtype=dtype, twins=(twin,))
    store = stored(tmp_path / "s.gram", p)
    with pytest.raises(NotPositiveDefiniteError) as caught:
        tiled_factor(store, "ntk", 0.0, SOLVER)
    failure = caught.value
    assert (failure.pivot, failure.row) == (twin + 1, twin)
    assert f"row {twin} is a duplicate of row 0 (rows {1000 + twin} and 1000 of the data set)" in str(failure)
    assert "\n" not in str(failure)
    # What was tried is there: the same with that ridge only verifies it.
    with tiled_factor(store, "ntk", failure.ridge, SOLVER) as factor:
        assert factor.scratch.written_bytes == 0
        A = p.K.astype(np.float64) + failure.ridge * np.eye(41)
        np.testing.assert_allclose(lower(factor) @ lower(factor).T, A, atol=1e-13)
    assert len(list(tmp_path.glob("*.factor"))) == 1


def test_an_indefinite_matrix_is_refused_by_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 8, 16)
    p = problem(41)
    p.K[30, 30] = -0.2
    with pytest.raises(NotPositiveDefiniteError, match=r"pivot 31 \(counting from 1; row 30") as caught:
        tiled_factor(stored(tmp_path / "s.gram", p), "ntk", 1e-4, SOLVER)
    assert 0.2 < caught.value.ridge < 10
    assert "duplicate" not in str(caught.value)
    np.linalg.cholesky(p.K + caught.value.ridge * np.eye(41))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.gram", problem(20))
    with tiled_factor(store, "ntk", λ, SOLVER) as factor:
        lock = Lock(factor.scratch.folder.parent)
    with pytest.raises(KernregError, match=r"is being written by process .* \(--scratch\)"):
        tiled_factor(store, "ntk", λ, SOLVER)
    lock.release()


@pytest.fixture
def store(tmp_path: Path) -> GramStore:
    return stored(tmp_path / "s.gram", problem(20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": TiledCholesky(memory="100MiB")}, "are allowed: use --memory"),
        ({"kernel": "nngp"}, "holds ntk, not 'nngp'"),
        ({"n": 21}, "21 rows are asked for"),
        ({"n": 0}, "n=0 rows are asked for"),
        ({"Y": np.ones((19, 1))}, "Y has 19 rows, K has 20"),
        ({"Y": np.full((20, 1), np.nan)}, "NaN"),
        ({"solver": TiledCholesky(memory="lots")}, "no amount of memory"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    store: GramStore, arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"store": store, "kernel": "ntk", "λ": λ, "solver": SOLVER} | arguments
    with pytest.raises(KernregError, match=message) as caught:
        tiled_solve(**given)
    assert "\n" not in str(caught.value)
    with pytest.raises(KernregError, match="float16"):
        TiledCholesky(dtype="float16")


def test_a_disk_that_is_too_small_is_refused_before_the_start(
    store: GramStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(store.path)
    monkeypatch.setattr("kernreg.scratch.shutil.disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(KernregError, match=r"the factor needs 3.12 KiB in .* and its disk has 1e\+03 B free"):
        tiled_factor(store, "ntk", λ, SOLVER)
