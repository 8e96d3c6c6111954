"""Tiles on imitated GPUs: the factor of NumPy, whatever the order in which streams run; memory within the budget."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imitatedcupy import Machine
from matrices import problem, stored
from stores import without_power_cuts

from kernreg import blocks, device, placement, tiled
from kernreg.blocks import GPU_BYTES, RING, Blocks, choose_blocks
from kernreg.cholesky import EPS, NotPositiveDefiniteError
from kernreg.curve import curve_from_store
from kernreg.errors import KernregError
from kernreg.gputiles import Deal, GpuTiles
from kernreg.progress import Meter
from kernreg.scratch import Scratch
from kernreg.storedgram import StoredGram
from kernreg.tiled import TiledCholesky, tiled_factor
from kernreg.tiledfactor import TiledFactor
from kernreg.tiledsolution import tiled_solve

__all__ = ["without_power_cuts"]

λ = 1e-2
AGREE = 1e-9  # of two ways to a curve, as in test_tiledcurve


def cut(monkeypatch: pytest.MonkeyPatch, tile: int, panel: int) -> None:
    monkeypatch.setattr(tiled, "choose_blocks", lambda n, *_: Blocks(n, tile, panel))


def on(machine: Machine, **settings: Any) -> TiledCholesky:
    return TiledCholesky(gpus=machine.gpus(), memory="4GiB", device_memory=machine.memory, **settings)


def lower(factor: TiledFactor) -> np.ndarray:
    """L, put together from its tiles."""
    e, n = factor.blocks.edges, factor.blocks.n
    places = [(J, k) for J in range(len(e) - 1) for k in range(J + 1)]
    L = np.zeros((n, n))
    for (J, k), tile in zip(places, factor.scratch.tiles(places), strict=True):
        L[e[J] : e[J + 1], e[k] : e[k + 1]] = tile
    return L


@pytest.mark.parametrize("gpus", [1, 2, 3])
@pytest.mark.parametrize(("tile", "panel"), [(8, 8), (8, 24), (8, 40), (64, 64)])
@pytest.mark.parametrize(
    ("n", "store_tile", "dtype"), [(1, 5, "float64"), (31, 5, "float32"), (61, 64, "float64")]
)
def test_every_cut_on_any_number_of_gpus_gives_the_factor_of_numpy(
    gpus: int, tile: int, panel: int, n: int, store_tile: int, dtype: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cut(monkeypatch, tile, panel)
    p = problem(n, dtype=dtype)
    A = p.K.astype(np.float64) + λ * np.eye(n)
    machine = Machine(gpus, seed=n + panel)
    with tiled_factor(stored(tmp_path / "s.gram", p, store_tile), "ntk", λ, on(machine)) as factor:
        np.testing.assert_allclose(lower(factor), np.linalg.cholesky(A), atol=10 * n * EPS)
        np.testing.assert_allclose(lower(factor) @ factor.z, p.y, atol=100 * n * EPS)
        B = np.random.default_rng(1).standard_normal((n, 30))
        np.testing.assert_allclose(A @ factor.solve(B), B, atol=10 * n * EPS * np.linalg.cond(A))
        assert factor.scratch.written_bytes == 8 * factor.blocks.written
        assert (
            machine.calls[0, "potrf"] + machine.calls[1, "potrf"] + machine.calls[2, "potrf"]
            == len(factor.blocks.edges) - 1
        )
    del factor
    gc.collect()
    assert not machine.used.total()
    assert not machine.pinned


@pytest.mark.parametrize("seed", range(6))
def test_the_order_in_which_streams_run_does_not_matter(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, 4, 16)
    store = stored(tmp_path / "s.gram", problem(41, 13))
    found = []
    for at in (seed, 100 + seed):
        solver = on(Machine(2, seed=at), scratch=tmp_path / f"scratch{at}")
        with tiled_factor(store, "ntk", λ, solver) as factor:
            found.append(lower(factor))
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize(
    "forgotten",
    ["imitatedcupy.Stream.wait_event", "imitatedcupy.Event.synchronize", "kernreg.gputiles.GpuTiles.settle"],
)
def test_a_wait_that_is_forgotten_shows(
    forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the imitation: GPUs that are as late as they may be give wrong numbers without one of the waits."""
    p = problem(41)
    gram = StoredGram(stored(tmp_path / "s.gram", p), "ntk")
    scratch = Scratch.begin(tmp_path / "factor", {}, Blocks(41, 4, 16), "float64", 3)
    monkeypatch.setattr(forgotten, lambda *_: None)
    tiles = GpuTiles(Machine(2, idle=True).gpus(), scratch.blocks, "float64")
    exact = np.linalg.cholesky(p.K + λ * np.eye(41))
    with TiledFactor(scratch, tiles) as factor:
        try:
            factor.make(gram, p.y, λ, Meter(0, 1, False))
        except (KernregError, RuntimeWarning):
            return
        assert not np.abs(lower(factor) - exact).max() < 1e-6


def test_all_gpus_have_as_much_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 4, 96)
    machine = Machine(3)
    with tiled_factor(stored(tmp_path / "s.gram", problem(96)), "ntk", λ, on(machine)):
        out = [machine.copies[g, "out"] for g in range(3)]
        assert max(out) <= 1.2 * min(out)
        # Every GPU is brought every tile of L once, and its own rows of K.
        brought = sum(machine.copies[g, "in"] for g in range(3))
        assert brought == 8 * (3 * Blocks(96, 4, 96).written + Blocks(96, 4, 96).written)


@pytest.mark.parametrize(("gpus", "strip"), [(1, 5), (2, 3), (3, 4)])
def test_rows_are_dealt_out_once(gpus: int, strip: int) -> None:
    deal = Deal(gpus, strip)
    block = np.arange(23)[:, None]
    for first in (0, strip, 2 * strip):
        dealt = [
            np.concatenate([np.zeros((0, 1)), *deal.pieces(g, block[first:], first)]) for g in range(gpus)
        ]
        assert sorted(np.concatenate(dealt)[:, 0].tolist()) == list(range(first, 23))
        for g, rows in enumerate(dealt):
            assert len(rows) == deal.above(g, 23) - deal.above(g, first)


@pytest.mark.parametrize("gpus", [1, 2])
@pytest.mark.parametrize("loo", [False, True])
def test_the_curve_is_that_of_the_host(
    gpus: int, loo: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "PROCESS_BYTES", 1 << 60)
    cut(monkeypatch, 8, 24)
    store = stored(tmp_path / "s.gram", problem(61, 23))
    expected = curve_from_store(store, ridge=λ, loo=loo)
    found = curve_from_store(store, ridge=λ, loo=loo, solver=on(Machine(gpus)))
    for name in ("loss", "error", "loo", "gcv", "squared_errors"):
        if getattr(expected, name) is not None:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=AGREE)
    for one, other in zip(found.replicates, expected.replicates, strict=True):
        np.testing.assert_allclose(one.loss, other.loss, rtol=AGREE)
    assert [path.name for path in tmp_path.iterdir()] == ["s.gram"]


def test_a_float32_factor_is_refined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 8, 24)
    p, machine = problem(61), Machine(2)
    found = tiled_solve(stored(tmp_path / "s.gram", p), "ntk", λ, on(machine, dtype="float32"))
    np.testing.assert_allclose(found.value, np.linalg.solve(p.K + λ * np.eye(61), p.y), rtol=1e-8)
    assert found.refinements
    assert found.residual.max() <= 1e-10


@pytest.mark.parametrize("twin", [1, 17, 40])
def test_a_pivot_that_fails_is_named_and_memory_is_not_taken_twice(
    twin: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, 8, 48)
    machine = Machine(1)
    store = stored(tmp_path / "s.gram", problem(41, twins=(twin,)))
    with pytest.raises(NotPositiveDefiniteError, match=f"row {twin} is a duplicate of row 0") as caught:
        tiled_factor(store, "ntk", 0.0, on(machine))
    assert caught.value.row == twin
    assert machine.peak[0] <= 1.1 * (Blocks(41, 8, 48).gpu_bytes(8, 1) - GPU_BYTES)  # work spaces
    with tiled_factor(store, "ntk", caught.value.ridge, on(machine)) as factor:
        assert factor.scratch.written_bytes == 0


@pytest.mark.parametrize("gpus", [1, 2, 4])
@pytest.mark.parametrize("room", [600_000, 1_200_000, 3_000_000])
def test_the_budget_of_device_memory_is_kept_and_used(gpus: int, room: int, tmp_path: Path) -> None:
    n = 400
    machine = Machine(gpus, memory=1 << 30)
    solver = TiledCholesky(gpus=machine.gpus(), memory="4GiB", device_memory=GPU_BYTES + room)
    p = problem(n)
    with tiled_factor(stored(tmp_path / "s.gram", p, 128), "ntk", λ, solver) as factor:
        L = np.linalg.cholesky(p.K + λ * np.eye(n))
        np.testing.assert_allclose(lower(factor), L, atol=1e-12)
        used = factor.blocks.gpu_bytes(8, gpus) - GPU_BYTES
        for g in range(gpus):
            assert machine.peak[g] <= room
            assert machine.peak[g] <= used + 8 * factor.blocks.tile**2
        assert machine.peak[0] >= min(0.4 * room, 8 * n * n / gpus)


def test_more_device_memory_never_makes_more_traffic() -> None:
    for gpus in (1, 2, 5):
        before = None
        for room in (40, 100, 300, 1000, 4000, 40_000, 400_000):
            found = choose_blocks(100_000, 1 << 40, 8, 0, gpus, GPU_BYTES + (room << 20) * 8)
            assert found.gpu_bytes(8, gpus) <= GPU_BYTES + (room << 20) * 8
            assert before is None or found.read <= before * (1 + 2 * found.tile / 100_000)
            before = found.read
        assert before == 0
    # One GPU of 80 GB takes half of 100,000 rows; two take all of them, and the tiles are large.
    one, two = (choose_blocks(100_000, 1 << 40, 8, 0, gpus, 70 << 30) for gpus in (1, 2))
    assert (len(one.panels), len(two.panels)) == (2, 1)
    assert one.tile > 1024


def test_what_a_gpu_cannot_hold_is_refused_before_the_start(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.gram", problem(400), 128)
    machine = Machine(2)
    little = TiledCholesky(gpus=machine.gpus(), memory="4GiB", device_memory=GPU_BYTES + 1000)
    with pytest.raises(
        KernregError,
        match=r"of each GPU's memory and .* are allowed: use --device-memory \S+GiB, or --device cpu",
    ):
        tiled_factor(store, "ntk", λ, little)
    with pytest.raises(KernregError, match=r"--device-memory allows 2 GiB and 1 GiB of the GPU are free"):
        tiled_factor(store, "ntk", λ, TiledCholesky(gpus=machine.gpus(), device_memory="2GiB"))
    assert not machine.peak.total()
    assert not list(tmp_path.rglob("panel*"))


def test_memory_that_others_have_taken_meanwhile_is_one_line() -> None:
    machine = Machine(1, memory=1000)
    with pytest.raises(KernregError, match=r"GPU 0 has not the .* use a smaller --device-memory"):
        GpuTiles(machine.gpus(), Blocks(100, 8, 8), "float64")


def test_a_factor_begun_with_more_device_memory_asks_for_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, 40, 200)
    store, machine = stored(tmp_path / "s.gram", problem(200)), Machine(1)
    with tiled_factor(store, "ntk", λ, on(machine)):
        pass
    less = TiledCholesky(gpus=machine.gpus(), device_memory=GPU_BYTES + 200_000)
    with pytest.raises(KernregError, match="use --device-memory"):
        tiled_factor(store, "ntk", λ, less)
    with tiled_factor(store, "ntk", λ, TiledCholesky()) as on_host:  # what GPUs began the host may use
        assert on_host.scratch.written_bytes == 0


def test_the_ring_is_what_the_budget_counts() -> None:
    assert Blocks(100, 8, 24).gpu_bytes(8, 1) == 8 * (24 * 100 + RING * 64) + GPU_BYTES
    assert Blocks(100, 8, 24).gpu_bytes(4, 2) == 4 * (16 * 100 + RING * 64) + GPU_BYTES
    assert Blocks(5, 8, 24).gpu_bytes(8, 3) == 8 * (5 * 5 + RING * 25) + GPU_BYTES
    assert blocks.GPU_PROCESS_BYTES > blocks.PROCESS_BYTES


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Two imitated GPUs behind the door to CuPy."""
    machine = Machine(2)
    monkeypatch.setitem(sys.modules, "cupy", machine.xp)
    monkeypatch.setitem(sys.modules, "cupy.cuda", machine.xp.cuda)
    device.cuda.cache_clear()
    return machine


def test_the_door_finds_all_gpus(cupy: Machine) -> None:
    found = device.gpus()
    assert [gpu.number for gpu in found] == [0, 1]
    assert [gpu.free_bytes for gpu in found] == [1 << 30, 1 << 30]


def test_cuda_beyond_its_memory_goes_by_tiles_and_auto_prefers_the_host(
    cupy: Machine, tmp_path: Path
) -> None:
    store = stored(tmp_path / "s.gram", problem(90, 20))
    where = placement.place(store, TiledCholesky(), "cuda")
    assert where.solver is not None
    assert where.name == "2 GPUs"
    assert "the learning curve of 90 rows needs" in where.why
    assert "1 GiB are free: the factor is made by tiles on disk" in where.why
    assert placement.place(store, TiledCholesky(), "auto").name == "cpu"
    beyond = placement.place(store, TiledCholesky(memory=1), "auto")
    assert (beyond.name, beyond.solver is None) == ("2 GPUs", False)
    found = curve_from_store(store, ridge=λ, device="cuda", solver=TiledCholesky(memory="4GiB"))
    np.testing.assert_allclose(found.loss, curve_from_store(store, ridge=λ).loss, rtol=AGREE)
    assert cupy.calls[0, "potrf"]
