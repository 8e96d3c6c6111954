"""A store that lost its main file gets one that knows its tiles again: their edges, and who computed them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from stores import N, T, filled, made, numbers, rows, without_power_cuts

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.gramfile import MAIN
from kernreg.store import GramStore

__all__ = ["without_power_cuts"]


def extended(folder: Path) -> GramStore:
    """A store that began with 13 and 4 rows in tiles of 5, and has N and T rows, the new ones in tiles of 7."""
    store = filled(made(folder, 13, 4))
    store.extend(tile=7, **rows())
    return filled(store)


@pytest.mark.parametrize("tile", [5, 7, 64])
def test_an_extended_store_keeps_its_tiles(tmp_path: Path, tile: int) -> None:
    with extended(tmp_path / "a.gram") as store:
        edges = {part: store.grids[part].row_edges for part in ("train", "test")}
    (tmp_path / "a.gram" / MAIN).unlink()
    with made(tmp_path / "a.gram", tile=tile) as again:
        assert {part: again.grids[part].row_edges for part in ("train", "test")} == edges
        assert again.complete
        np.testing.assert_array_equal(again.train("ntk"), numbers("train")["ntk"][:N, :N])
        np.testing.assert_array_equal(again.test("nngp"), numbers("test")["nngp"][:T, :N])


def test_a_tile_in_the_middle_may_be_gone(tmp_path: Path) -> None:
    with extended(tmp_path / "a.gram") as store:
        edges, tiles = store.grids["train"].row_edges, store.grids["train"]
        for tile in tiles:
            if 2 in (tile.row_block, tile.column_block):
                store.drop("train", tile)
        store.drop("test", store.grids["test"].tile(0, 2))
    (tmp_path / "a.gram" / MAIN).unlink()
    with made(tmp_path / "a.gram", tile=64) as again:
        assert again.grids["train"].row_edges == edges
        np.testing.assert_array_equal(filled(again).train("ntk"), numbers("train")["ntk"][:N, :N])


def test_tiles_of_several_backends_stay_good(tmp_path: Path) -> None:
    with filled(made(tmp_path / "a.gram", 13, 4)) as store:
        store.compute_by("cpu")
        store.extend(**rows())
        filled(store)
    (tmp_path / "a.gram" / MAIN).unlink()
    with made(tmp_path / "a.gram", backend="reference") as again:
        assert set(again.backends) == {"reference", "cpu"}
        assert again.backend == "reference"
        for place in again.shards.needed(N, T, N):
            again.shards.check(*place)


def test_what_belongs_to_others_has_no_say(tmp_path: Path) -> None:
    extended(tmp_path / "a.gram").close()
    (tmp_path / "a.gram" / MAIN).unlink()
    for path in (tmp_path / "a.gram" / "tiles").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with made(tmp_path / "a.gram", tile=7) as again:
        assert again.grids["train"].row_edges == (0, 7, 14, 21, 23)
    shutil.rmtree(tmp_path / "a.gram")
    extended(tmp_path / "a.gram").close()
    (tmp_path / "a.gram" / MAIN).unlink()
    with made(tmp_path / "a.gram", tile=7, architecture=Architecture.fcn(depth=3)) as other:
        assert other.grids["train"].row_edges == (0, 7, 14, 21, 23)
        with pytest.raises(KernregError, match="belongs to another Gram"):
            other.shards.describe("train", other.grids["train"].tile(0, 0))


def test_fewer_rows_than_there_were(tmp_path: Path) -> None:
    extended(tmp_path / "a.gram").close()
    (tmp_path / "a.gram" / MAIN).unlink()
    with made(tmp_path / "a.gram", 15, 4) as again:
        assert again.grids["train"].row_edges == (0, 5, 10, 13, 15)
        places = set(again.shards.needed(13, 4, 13))
        assert not places & set(again.missing())
