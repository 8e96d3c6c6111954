"""On NVIDIA GPUs: factors by tiles against the host's, within their memory; the imitation's promises kept by CUDA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matrices import problem, stored

from kernreg import placement, tiled
from kernreg.blocks import GPU_BYTES, Blocks
from kernreg.cholesky import EPS, NotPositiveDefiniteError
from kernreg.curve import curve_from_store
from kernreg.device import gpus
from kernreg.solve import solve_store
from kernreg.tiled import TiledCholesky, tiled_factor
from kernreg.tiledsolution import tiled_solve

pytestmark = pytest.mark.gpu
λ = 1e-2
AGREE = 1e-8  # of two ways to a curve, as in test_curve


def solver(count: int | None = None, **settings: object) -> TiledCholesky:
    return TiledCholesky(gpus=gpus()[:count], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, None])
@pytest.mark.parametrize(
    ("n", "tile", "panel"), [(1, 8, 8), (61, 8, 24), (1021, 128, 384), (3000, 512, 1024), (3000, 512, 3072)]
)
def test_factor_and_solution_are_those_of_the_host(
    count: int | None, n: int, tile: int, panel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled, "choose_blocks", lambda n, *_: Blocks(n, tile, panel))
    p = problem(n)
    A = p.K + λ * np.eye(n)
    store = stored(tmp_path / "s.gram", p, 512)
    with tiled_factor(store, "ntk", λ, solver(count)) as factor:
        e = factor.blocks.edges
        places = [(J, k) for J in range(len(e) - 1) for k in range(J + 1)]
        L = np.linalg.cholesky(A)
        for (J, k), found in zip(places, factor.scratch.tiles(places), strict=True):
            np.testing.assert_allclose(found, L[e[J] : e[J + 1], e[k] : e[k + 1]], atol=10 * n * EPS)
        B = np.random.default_rng(1).standard_normal((n, 7))
        np.testing.assert_allclose(A @ factor.solve(B), B, atol=10 * n * EPS * np.linalg.cond(A))


@pytest.mark.parametrize("count", [1, None])
def test_the_curve_is_that_of_the_host(
    count: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stored(tmp_path / "s.gram", problem(2500, 300), 500)
    expected = curve_from_store(store, ridge=λ)
    monkeypatch.setattr(placement, "PROCESS_BYTES", 1 << 60)
    found = curve_from_store(store, ridge=λ, solver=solver(count, device_memory=GPU_BYTES + (30 << 20)))
    assert found.traffic is not None
    assert len(found.traffic.blocks.panels) > 1
    for name in ("loss", "loo", "gcv", "squared_errors"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=AGREE, err_msg=name)


def test_a_float32_factor_is_refined(tmp_path: Path) -> None:
    p = problem(2000)
    store = stored(tmp_path / "s.gram", p, 500)
    found = tiled_solve(store, "ntk", λ, solver(dtype="float32"))
    assert found.residual.max() <= 1e-10
    np.testing.assert_allclose(
        found.value, np.linalg.solve(p.K + λ * np.eye(2000), p.y), rtol=1e-6, atol=1e-8
    )


def test_a_pivot_that_fails_is_named(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.gram", problem(700, twins=(500,)), 200)
    with pytest.raises(NotPositiveDefiniteError, match="row 500 is a duplicate of row 0"):
        tiled_factor(store, "ntk", 0.0, solver())


def test_the_budget_is_kept(tmp_path: Path) -> None:
    import cupy

    room = 40 << 20
    store = stored(tmp_path / "s.gram", problem(4000), 1000)
    pools = []
    for number in range(len(gpus())):
        with cupy.cuda.Device(number):
            pool = cupy.get_default_memory_pool()
            pool.free_all_blocks()
            pool.set_limit(size=pool.total_bytes() + room + (4 << 20))  # cuSOLVER's work space
            pools.append((number, pool))
    try:
        with tiled_factor(store, "ntk", λ, solver(device_memory=GPU_BYTES + room)) as factor:
            assert len(factor.blocks.panels) > 1 or len(pools) > 1
    finally:
        for number, pool in pools:
            with cupy.cuda.Device(number):
                pool.set_limit(size=0)


@pytest.mark.parametrize("name", ["cholesky", "tiled"])
def test_solutions_of_a_store_are_those_of_the_host(name: str, tmp_path: Path) -> None:
    store = stored(tmp_path / "s.gram", problem(1500), 500)
    ours, theirs = (solve_store(store, solver=name, ridge=λ, device=d).require() for d in ("cuda", "cpu"))
    np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-7, atol=1e-9)
