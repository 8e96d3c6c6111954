"""The factor on disk against NumPy: every cut, every edge; solutions and their residuals; what is refused."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from matrices import problem, stored
from stores import without_power_cuts

from kernreg import tiled
from kernreg.blocks import Blocks
from kernreg.cholesky import EPS
from kernreg.errors import KernregError
from kernreg.panel import Panel
from kernreg.progress import Meter
from kernreg.scratch import HEAD, Scratch
from kernreg.storedgram import StoredGram
from kernreg.tileblas import Blas
from kernreg.tiled import TiledCholesky, tiled_factor
from kernreg.tiledfactor import TiledFactor
from kernreg.tiledsolution import tiled_solve

__all__ = ["without_power_cuts"]

λ = 1e-2
SOLVER = TiledCholesky(memory="1GiB")


def cut(monkeypatch: pytest.MonkeyPatch, tile: int, panel: int) -> None:
    monkeypatch.setattr(tiled, "choose_blocks", lambda n, *_: Blocks(n, tile, panel))


def lower(factor: TiledFactor) -> np.ndarray:
    """L, put together from its tiles."""
    e, n = factor.blocks.edges, factor.blocks.n
    places = [(J, k) for J in range(len(e) - 1) for k in range(J + 1)]
    L = np.zeros((n, n))
    for (J, k), tile in zip(places, factor.scratch.tiles(places), strict=True):
        L[e[J] : e[J + 1], e[k] : e[k + 1]] = tile
    return L


@pytest.mark.parametrize(("tile", "panel"), [(8, 8), (8, 24), (16, 64), (64, 64)])
@pytest.mark.parametrize(
    ("n", "store_tile", "dtype"),
    [(1, 5, "float64"), (7, 64, "float32"), (31, 5, "float32"), (64, 16, "float64"), (65, 13, "float64")],
)
def test_every_cut_gives_the_factor_of_numpy(
    tile: int,
    panel: int,
    n: int,
    store_tile: int,
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut(monkeypatch, tile, panel)
    p = problem(n, dtype=dtype)
    A = p.K.astype(np.float64) + λ * np.eye(n)
    with tiled_factor(stored(tmp_path / "s.gram", p, store_tile), "ntk", λ, SOLVER) as factor:
        L = lower(factor)
        B = np.random.default_rng(1).standard_normal((n, 30))
        np.testing.assert_allclose(L, np.linalg.cholesky(A), atol=10 * n * EPS)
        np.testing.assert_allclose(L @ factor.z, p.y, atol=100 * n * EPS)
        np.testing.assert_allclose(A @ factor.solve(B), B, atol=10 * n * EPS * np.linalg.cond(A))
        assert factor.scratch.written_bytes == 8 * factor.blocks.written
        passes = 1 + 2 * len(factor.blocks.strips(30))
        assert factor.scratch.read_bytes == 8 * (factor.blocks.read + passes * factor.blocks.written)


def test_leading_rows_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 8, 16)
    p = problem(50)
    with tiled_factor(stored(tmp_path / "s.gram", p), "ntk", λ, SOLVER, n=37) as factor:
        np.testing.assert_allclose(
            lower(factor), np.linalg.cholesky(p.K[:37, :37] + λ * np.eye(37)), atol=1e-13
        )


def test_a_finished_factor_is_taken_up_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 8, 16)
    p = problem(41)
    store = stored(tmp_path / "s.gram", p)
    with tiled_factor(store, "ntk", λ, SOLVER) as factor:
        L, folder = lower(factor), factor.scratch.folder
    cut(monkeypatch, 8, 24)  # one that is there keeps its own cut
    with tiled_factor(store, "ntk", λ, SOLVER) as again:
        assert again.blocks.panel == 16
        assert again.scratch.written_bytes == 0
        np.testing.assert_array_equal(lower(again), L)
    with TiledFactor.open(folder) as opened:
        np.testing.assert_array_equal(opened.z, factor.z)
    head = (folder / HEAD).read_text()
    (folder / HEAD).write_text(head.replace('"panel": 16', '"panel": 24'))
    with pytest.raises(
        KernregError, match=r"checksum does not fit; delete this file.*keeps the finished panels"
    ):
        TiledFactor.open(folder)
    (folder / HEAD).unlink()
    cut(monkeypatch, 8, 16)
    with tiled_factor(store, "ntk", λ, SOLVER) as again:
        assert again.scratch.written_bytes == 0
    assert (folder / HEAD).read_text() == head
    panel = folder / "panel-00001"
    numbers = bytearray(panel.read_bytes())
    numbers[1000] ^= 1
    panel.write_bytes(numbers)
    with pytest.raises(KernregError, match=r"panel-00001 is damaged; delete this file"):
        TiledFactor.open(folder)
    panel.write_bytes(numbers[:500])
    with pytest.raises(KernregError, match="is damaged"):
        TiledFactor.open(folder)
    panel.unlink()
    with pytest.raises(KernregError, match="is not finished"):
        TiledFactor.open(folder)
    (folder / HEAD).write_text("{}")
    with pytest.raises(KernregError, match="cannot be used"):
        TiledFactor.open(folder)
    shutil.rmtree(folder)
    with pytest.raises(KernregError, match="holds no factor"):
        TiledFactor.open(folder)


def test_another_matrix_has_another_folder(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.gram", problem(20))
    other = stored(tmp_path / "o.gram", problem(20, seed=1))
    folders = set()
    for made, ridge, n in ((store, λ, 20), (store, 2 * λ, 20), (store, λ, 19), (other, λ, 20)):
        with tiled_factor(made, "ntk", ridge, SOLVER, n) as factor:
            folders.add(factor.scratch.folder)
            identity = factor.scratch.identity
    assert len(folders) == 4
    with pytest.raises(KernregError, match=r"another matrix: its ridge is 0\.01, not 0\.5"):
        Scratch.open(factor.scratch.folder, {**identity, "ridge": 0.5})


@pytest.mark.parametrize(("dtype", "refinements"), [("float64", 0), ("float32", 1)])
def test_solutions_carry_their_residual(
    dtype: str, refinements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, 8, 16)
    p = problem(61)
    store = stored(tmp_path / "s.gram", p)
    solver = TiledCholesky(dtype=dtype, scratch=tmp_path / "scratch")
    found = tiled_solve(store, "ntk", λ, solver)
    A = p.K + λ * np.eye(61)
    np.testing.assert_allclose(found.value, np.linalg.solve(A, p.y), rtol=1e-8)
    np.testing.assert_allclose(
        found.residual,
        np.linalg.norm(p.y - A @ found.value, axis=0) / np.linalg.norm(p.y, axis=0),
        atol=1e-14,
    )
    assert found.residual.max() <= 1e-10
    assert (found.refinements > 0) == (refinements > 0)
    assert not list((tmp_path / "scratch").iterdir())
    item = np.dtype(dtype).itemsize
    assert found.traffic.factor_written == item * found.traffic.blocks.written
    Y = np.zeros((61, 2))
    Y[3, 1] = 1.0
    np.testing.assert_allclose(
        tiled_solve(store, "ntk", λ, solver, Y).value, np.linalg.solve(A, Y), atol=1e-8
    )


def test_a_float32_factor_that_cannot_be_refined_says_so(tmp_path: Path) -> None:
    store = stored(tmp_path / "s.gram", problem(40))
    with pytest.raises(KernregError, match="refinement of the float32 factor stopped at a residual of"):
        tiled_solve(store, "ntk", 1e-3, TiledCholesky(dtype="float32"), rtol=1e-30)


class Elsewhere:
    """A device whose memory the host cannot read, and that gives nothing back before it must."""

    def __init__(self) -> None:
        self.blas = Blas("float64")
        self.owed: list[tuple[Far, np.ndarray]] = []
        self.brought = Far(np.empty(0))
        self.closed = False

    def empty(self, numbers: int) -> np.ndarray:
        return np.full(numbers, np.nan)

    def begin(self) -> None:
        assert not self.owed

    def take(self, block: np.ndarray, first: int = 0) -> "Far":
        return Far(block.copy())

    def bring(self, tile: np.ndarray) -> "Far":
        self.brought.hidden[...] = np.nan
        self.brought = Far(tile.copy())
        return self.brought

    def give(self, taken: "Far", block: np.ndarray) -> None:
        self.owed.append((Far(taken.hidden.copy()), block.view()))
        block[...] = np.nan

    def settle(self) -> None:
        while self.owed:
            taken, block = self.owed.pop()
            block[...] = taken.hidden

    def close(self) -> None:
        self.closed = True

    def subtract_product(self, C: "Far", A: "Far", B: "Far") -> None:
        self.blas.subtract_product(C.hidden, A.hidden, B.hidden)

    def subtract_plain_product(self, C: "Far", A: "Far", B: "Far") -> None:
        self.blas.subtract_plain_product(C.hidden, A.hidden, B.hidden)

    def subtract_square(self, C: "Far", A: "Far") -> None:
        self.blas.subtract_square(C.hidden, A.hidden)

    def divide(self, C: "Far", L: "Far", *, transposed: bool = True) -> None:
        self.blas.divide(C.hidden, L.hidden, transposed=transposed)

    def factor(self, C: "Far") -> int:
        return self.blas.factor(C.hidden)


class Far:
    """An array of `Elsewhere`: it can be cut by rows, and nothing else."""

    def __init__(self, hidden: np.ndarray) -> None:
        self.hidden = hidden

    def __getitem__(self, rows: slice) -> "Far":
        return Far(self.hidden[rows])


def test_the_arithmetic_can_be_elsewhere(tmp_path: Path) -> None:
    p = problem(61)
    gram = StoredGram(stored(tmp_path / "s.gram", p), "ntk")
    scratch = Scratch.begin(tmp_path / "far", {}, Blocks(61, 8, 24), "float64", 3)
    device = Elsewhere()
    with TiledFactor(scratch, device) as factor:
        factor.make(gram, p.y, λ, Meter(0, 1, False))
        A = p.K + λ * np.eye(61)
        np.testing.assert_allclose(lower(factor), np.linalg.cholesky(A), atol=1e-13)
        np.testing.assert_allclose(A @ factor.solve(p.y), p.y, atol=1e-10)
    assert device.closed


def test_no_operation_on_tiles_makes_a_copy() -> None:
    rng, w = np.random.default_rng(0), 200
    blas = Blas("float64")
    C, A, B = (rng.standard_normal((w, w)) for _ in range(3))
    L = np.linalg.cholesky(A @ A.T + w * np.eye(w))
    expected = C - A @ B.T
    tracemalloc.start()
    blas.subtract_product(C, A, B)
    blas.subtract_plain_product(C, A, B)
    blas.subtract_square(C, A)
    blas.divide(C[10:], L)
    blas.divide(C[10:], L, transposed=False)
    blas.factor(L)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * w * w / 10
    C[...] = expected + A @ B.T
    blas.subtract_product(C, A, B)
    np.testing.assert_allclose(C, expected, atol=1e-10)


def test_a_panel_takes_rectangles_that_stick_out() -> None:
    source = np.arange(200.0).reshape(10, 20)
    for row, column in ((-3, -2), (2, 3), (0, 0), (4, -19), (9, 12), (-9, 5)):
        for values, transposed in ((source, False), (source.T.copy(), True)):
            panel = Panel(np.full(9 * 13, -1.0), 9, (0, 4, 8, 13))
            panel.put(values, row, column, transposed=transposed)
            whole = np.full((60, 60), -1.0)
            whole[20 + row : 30 + row, 20 + column : 40 + column] = source
            together = np.concatenate([panel[k] for k in range(3)], axis=1)
            np.testing.assert_array_equal(together, whole[20:29, 20:33])
