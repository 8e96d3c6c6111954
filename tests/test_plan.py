"""The plan: counts what the grids have, keeps to the memory, and never depends on a measured time."""

from __future__ import annotations

import pytest
from stores import images

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.plan import MOST_SHARDS, memory_bytes, parse_bytes, plan, seconds_per_pair, show_bytes
from kernreg.tiles import TileGrid

FCN = Architecture.fcn(depth=2)
GAP = Architecture.gap(depth=1)


def pairs(n: int, t: int) -> int:
    return n * (n + 1) // 2 + n * t


def test_plan_counts_what_the_grids_have() -> None:
    p = plan(1000, 77, (8, 8, 1), FCN, "both", "float32")
    assert p.pairs == pairs(1000, 77)
    assert p.tile == 4096
    assert p.tiles == 2
    assert p.disk_bytes == pytest.approx((1000 * 1000 + 77 * 1000) * 8, rel=0.01)


def test_plan_makes_tiles_of_less_work_where_a_pair_costs_more() -> None:
    shapes = [(8, 8, 1), (16, 16, 1), (32, 32, 3)]
    tiles = [plan(1500, 100, shape, Architecture.gap(depth=8), "ntk", "float32").tile for shape in shapes]
    assert tiles == sorted(tiles, reverse=True)
    assert tiles[-1] == 64
    assert all(tile % 64 == 0 for tile in tiles)


@pytest.mark.parametrize(("n", "t"), [(50_000, 10_000), (50_000, 50_000), (20_000, 1), (3_000, 3_000)])
def test_plan_makes_no_more_shards_than_h5py_can_open(n: int, t: int) -> None:
    tile = plan(n, t, (32, 32, 3), Architecture.gap(depth=8), "ntk", "float32").tile
    assert len(TileGrid.triangle(n, tile)) <= MOST_SHARDS
    assert len(TileGrid.rectangle(t, n, tile)) <= MOST_SHARDS


def test_plan_keeps_to_the_memory() -> None:
    shape, x_bytes = (32, 32, 3), 50_000 * 3072 * 4
    free = plan(50_000, 0, shape, FCN, "ntk", "float32")
    assert free.tile == 4096
    tight = plan(50_000, 0, shape, FCN, "ntk", "float32", "1200MiB", x_bytes)
    assert tight.memory_bytes <= 1200 << 20 < free.memory_bytes
    assert tight.tile < free.tile
    assert tight.pairs == free.pairs == 50_000 * 50_001 // 2
    with pytest.raises(KernregError, match=r"needs about .* MiB .* 500 MiB are allowed: use --memory"):
        plan(50_000, 0, shape, FCN, "ntk", "float32", "500MiB", x_bytes)


def test_the_memory_estimate_counts_rows_kernels_and_dtype() -> None:
    least = memory_bytes(64, 0, (10,), FCN, "ntk", "float32")
    assert memory_bytes(64, 1000, (10,), FCN, "ntk", "float32") == least + 1000
    assert memory_bytes(64, 0, (10,), FCN, "both", "float32") > least
    assert memory_bytes(64, 0, (10,), FCN, "ntk", "float64") > least


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("4GiB", 4 << 30),
        ("4g", 4 << 30),
        ("4GB", 4 * 10**9),
        ("0.5 MiB", 1 << 19),
        ("123", 123),
        (7, 7),
        ("9b", 9),
    ],
)
def test_parse_bytes(text: str | int, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "much", "-4GiB", "4 parsecs", "1e3"])
def test_parse_bytes_refuses(text: str) -> None:
    with pytest.raises(KernregError, match="like 4GiB"):
        parse_bytes(text)


def test_show_bytes() -> None:
    assert [show_bytes(b) for b in (12, 1536, 5 << 30, 3 << 40)] == ["12 B", "1.5 KiB", "5 GiB", "3 TiB"]


def test_the_time_of_a_pair_is_measured() -> None:
    assert 0 < seconds_per_pair(images().x_train, GAP, "ntk", "reference", "float64") < 1
