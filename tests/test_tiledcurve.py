"""The curve of a factor on disk is the curve of the matrix in memory, and moves what the formula says."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from matrices import Problem, problem, stored
from stores import without_power_cuts

from kernreg import placement, tiled
from kernreg.blocks import Blocks
from kernreg.cholesky import NotPositiveDefiniteError
from kernreg.cli.main import main
from kernreg.curve import LearningCurve, curve_from_store, learning_curve
from kernreg.errors import KernregError
from kernreg.store import GramStore
from kernreg.tiled import TiledCholesky

__all__ = ["without_power_cuts"]

AGREE = 1e-9  # what the two must agree to, whatever the order of the sums
λ = 1e-2


@pytest.fixture(autouse=True)
def _beyond_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "PROCESS_BYTES", 1 << 60)


def cut(monkeypatch: pytest.MonkeyPatch, tile: int, panel: int) -> None:
    monkeypatch.setattr(tiled, "choose_blocks", lambda n, *_: Blocks(n, tile, panel))


def in_memory(p: Problem, **settings: Any) -> LearningCurve:
    K = p.K.astype(np.float64)
    return learning_curve(K, p.y, p.K_test, p.y_test, λ, labels_test=p.labels_test, **settings)


def assert_same(found: LearningCurve, expected: LearningCurve, rtol: float = AGREE) -> None:
    for name in (
        "samples",
        "loss",
        "mse",
        "error",
        "loo",
        "gcv",
        "anchors",
        "squared_errors",
        "squared_targets",
    ):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=rtol, err_msg=name)
    assert found.ridge == expected.ridge
    assert found.relative_ridge == pytest.approx(expected.relative_ridge)
    assert len(found.replicates) == len(expected.replicates)
    for one, other in zip(found.replicates, expected.replicates, strict=True):
        assert (one.start, one.size) == (other.start, other.size)
        np.testing.assert_array_equal(one.anchors, other.anchors)
        for name in ("loss", "mse", "error", "squared_errors"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol)


@pytest.mark.parametrize(
    ("tile", "panel", "n", "t", "store_tile", "dtype"),
    [
        (8, 8, 1, 1, 5, "float64"),
        (8, 24, 16, 40, 64, "float32"),
        (64, 64, 61, 23, 16, "float64"),
        (16, 32, 61, 23, 32, "float64"),
        (8, 8, 41, 9, 13, "float32"),
        (8, 24, 67, 70, 13, "float32"),
    ],
)
def test_the_curve_is_that_of_the_matrix_in_memory(
    tile: int,
    panel: int,
    n: int,
    t: int,
    store_tile: int,
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut(monkeypatch, tile, panel)
    p = problem(n, t, dtype=dtype)
    found = curve_from_store(stored(tmp_path / "s.gram", p, store_tile), ridge=λ)
    assert found.traffic is not None
    assert_same(found, in_memory(p))
    assert [path.name for path in tmp_path.iterdir()] == ["s.gram"]


def test_cached_blocks_of_rows_leave_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 8, 24)
    monkeypatch.setattr("kernreg.prefix.BLOCK_ROWS", (5, 5))
    p = problem(61, 23)
    assert_same(curve_from_store(stored(tmp_path / "s.gram", p), ridge=λ), in_memory(p))


def test_leading_rows_relative_ridge_anchors_and_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, 8, 16)
    p = problem(61)
    store = stored(tmp_path / "s.gram", p)
    settings: dict[str, Any] = {"loo": False, "replicates": 0, "anchors": [3, 40]}
    found = curve_from_store(store, "ntk", λ, "relative", n=44, **settings)
    settings["labels_test"] = p.labels_test
    expected = learning_curve(p.K[:44, :44], p.y[:44], p.K_test[:, :44], p.y_test, λ, "relative", **settings)
    assert found.loo is None
    assert_same(found, expected)


@pytest.mark.parametrize("loo", [False, True])
@pytest.mark.parametrize(
    ("n", "tile", "panel"),
    [
        (640, 16, 640),
        (640, 16, 320),
        (640, 16, 128),
        (640, 16, 64),
        (640, 16, 32),
        (624, 16, 48),
        (320, 8, 40),
    ],
)
def test_reads_and_writes_are_those_of_the_formula(
    loo: bool, n: int, tile: int, panel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t, store_tile = 50, 128
    cut(monkeypatch, tile, panel)
    p = problem(n, t)
    store = stored(tmp_path / "s.gram", p, tile=store_tile)
    found = curve_from_store(store, ridge=λ, loo=loo, replicates=0).traffic
    assert found is not None
    cut_of = found.blocks
    strips = len(cut_of.strips(t))
    assert found.factor_read == 8 * (cut_of.read + strips * cut_of.written + loo * cut_of.read_for_inverse)
    assert found.factor_written == 8 * cut_of.written
    # The closed forms of docs/solvers.md: n³/6b, half of what reading both tiles of each product would move.
    r, w = panel / n, tile / n
    made = n**3 / (6 * panel) * ((1 - r) * (1 - r / 2) + 1.5 * w * (1 - r))
    inverse = n**3 / (6 * panel) * ((1 + r) * (1 + r / 2) + 1.5 * w * (1 + r))
    once = n * (n + tile) / 2
    assert found.factor_read / 8 == pytest.approx(made + strips * once + loo * inverse, rel=0.05)
    assert found.factor_written / 8 == pytest.approx(once, rel=0.05)
    # Each tile of the store for each panel that it meets, and those on the diagonal once more.
    bands = n * n / 2 + n * store_tile / 2
    if panel % store_tile == 0:
        expected = bands + n * store_tile + n * t
        assert found.store_read / 8 == pytest.approx(expected, rel=0.05)


def test_a_kept_factor_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 8, 16)
    p = problem(61)
    store = stored(tmp_path / "s.gram", p)
    solver = TiledCholesky(scratch=tmp_path / "scratch", keep_factor=True)
    first = curve_from_store(store, ridge=λ, solver=solver)
    (folder,) = (tmp_path / "scratch").iterdir()
    assert [path.name for path in folder.glob("rows*")] == ["rows-0-61"]
    with tiled.tiled_factor(store, "ntk", λ, solver) as factor:
        assert factor.scratch.written_bytes == 0
        f = p.K_test @ factor.solve(p.y)
        np.testing.assert_allclose(np.square(f - p.y_test).sum() / len(f), first.mse[-1], rtol=1e-8)
    again = curve_from_store(store, ridge=λ, solver=TiledCholesky(scratch=tmp_path / "scratch"), anchors=[7])
    assert again.traffic is not None
    assert again.traffic.factor_written < 8 * Blocks(61, 8, 16).written  # of the replicates only
    np.testing.assert_array_equal(again.loss, first.loss)
    assert not list((tmp_path / "scratch").iterdir())


def test_a_ridge_that_needs_all_eigenvalues_is_refused(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.gram", problem(20))
    with pytest.raises(
        KernregError, match=r"by loo needs all eigenvalues.*20 rows in float64 need .*--memory"
    ):
        curve_from_store(store, ridge="loo")
    with pytest.raises(KernregError, match="float32 refines solutions only"):
        curve_from_store(store, ridge=λ, solver=TiledCholesky(dtype="float32"))
    for ridge, mode in ((-1.0, "absolute"), (0.1, "percent")):
        with pytest.raises(KernregError, match="must be"):
            curve_from_store(store, ridge=ridge, ridge_mode=mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("beyond", [False, True])
def test_duplicates_are_named(beyond: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not beyond:
        monkeypatch.setattr(placement, "PROCESS_BYTES", 0)
    store = stored(tmp_path / "s.gram", problem(30, twins=(12,)))
    with pytest.raises(NotPositiveDefiniteError, match="row 12 is a duplicate of row 0") as caught:
        curve_from_store(store, ridge=0.0)
    assert np.isfinite(curve_from_store(store, ridge=caught.value.ridge).loss).all()


def test_the_command_takes_the_same_way_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 8, 16)
    p = problem(90, 20)
    store = stored(tmp_path / "s.gram", p)

    def fit(out: str, *options: str) -> tuple[Any, str]:
        command = [
            "fit",
            str(store.path),
            "--ridge",
            str(λ),
            "--json",
            "--out",
            str(tmp_path / out),
            *options,
        ]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["results"][0], result.stderr

    scratch = str(tmp_path / "scratch")
    found, said = fit("a", "--memory", "1GiB", "--scratch", scratch, "--keep-factor")
    assert "90 rows in float64 need" in said
    assert "the factor is made by tiles on disk" in said
    assert len(list(Path(scratch).glob("*.factor/rows-0-90/panel-*"))) == 6
    shutil.rmtree(scratch)
    monkeypatch.setattr(placement, "PROCESS_BYTES", 0)
    expected, said = fit("b")
    assert "by tiles" not in said
    assert found["loss"] == pytest.approx(expected["loss"], rel=AGREE)
    assert found["fit"]["exponent"] == pytest.approx(expected["fit"]["exponent"], rel=1e-6)


def test_no_test_rows(tmp_path: Path) -> None:
    with pytest.raises(KernregError, match="no test rows"):
        curve_from_store(stored(tmp_path / "s.gram", problem(20, 0)))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.gram", problem(40))
    next(store.path.glob("tiles/test*")).unlink()
    with pytest.raises(KernregError, match="is not complete"):
        curve_from_store(GramStore.open(store.path), ridge=λ)
