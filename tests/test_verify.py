"""verify: a sound store is sound, wrong numbers and damaged tiles are found and can be dropped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from stores import images

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.gram import build, fill
from kernreg.kernels import backends
from kernreg.store import GramStore
from kernreg.verify import verify

FCN = Architecture.fcn(depth=2)
GAP = Architecture.gap(depth=1)


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here cuts the power, and a busy disk makes fsync slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 4 to 8 rows, that tiny data have many of them."""
    monkeypatch.setattr("kernreg.plan.SMALLEST", 4)
    monkeypatch.setattr("kernreg.plan.LARGEST", 8)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_verify_finds_a_sound_store_sound(tmp_path: Path, dtype: str) -> None:
    d = images()
    store = build(tmp_path / "a.gram", d, GAP, "both", "reference", dtype)
    report = verify(store, d.x_train, d.x_test)
    assert report.ok
    assert report.tiles == len(store.grids["train"]) + len(store.grids["test"])
    assert report.entries >= 64
    assert report.backend == "reference"
    assert report.worst <= report.tolerance
    assert (report.missing, report.corrupt, report.dropped) == ((), (), ())
    assert verify(store).entries == 0


@pytest.mark.usefixtures("small_tiles")
def test_verify_finds_numbers_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    d, plain = images(), backends.compute
    wrong = lambda *a: {name: K * (1 + 1e-9) for name, K in plain(*a).items()}  # noqa: E731
    monkeypatch.setattr(backends, "compute", wrong)
    store = build(tmp_path / "a.gram", d, FCN, "ntk", "reference")
    monkeypatch.setattr(backends, "compute", plain)
    report = verify(store, d.x_train, d.x_test)
    assert not report.ok
    assert report.worst == pytest.approx(1e-9, rel=1e-3)
    assert "ntk, row" in report.where


@pytest.mark.usefixtures("small_tiles")
def test_verify_drops_what_is_damaged_and_fill_computes_it_again(tmp_path: Path) -> None:
    d, path = images(), tmp_path / "a.gram"
    store = build(path, d, FCN, "ntk", "reference")
    K = store.train("ntk")
    tiles = list(store.grids["train"])
    flipped, lost = store.shards.path("train", tiles[2]), store.shards.path("train", tiles[3])
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    lost.unlink()
    report = verify(store, d.x_train, d.x_test)
    assert not report.ok
    assert [file for file, _ in report.corrupt] == [flipped]
    assert report.missing == (lost,)
    assert flipped.exists()
    with pytest.raises(KernregError, match="reading only"):
        verify(store, drop=True)
    with GramStore.open(path, writer=True) as writer:
        assert verify(writer, drop=True).dropped == (flipped,)
        assert not flipped.exists()
        fill(writer, d.x_train, d.x_test)
    assert verify(store).ok
    np.testing.assert_array_equal(store.train("ntk"), K)


def test_verify_wants_the_rows_of_the_store(tmp_path: Path) -> None:
    d = images(5, 1)
    store = build(tmp_path / "a.gram", d, FCN, "ntk", "reference")
    with pytest.raises(KernregError, match="x_train, row 0"):
        verify(store, d.x_train + 1, d.x_test)
    with pytest.raises(KernregError, match="to be verified"):
        verify(store, d.x_train[:4], d.x_test)
