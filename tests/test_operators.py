"""Every operator against its matrix: products, diagonal, columns, leading blocks; budgets and reads of the streamed one."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stores
from grams import laplace

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels.reference import compute
from kernreg.operators import Dense, MatrixFree, Nested, Shifted, Stored
from kernreg.predict import ComputedRows
from kernreg.streaming import streaming_bytes

EPS = np.finfo(np.float64).eps
FCN, VEC = Architecture.fcn(depth=2), Architecture.vec(depth=1)
Make = Callable[[Path], tuple[Nested, np.ndarray]]


def dense(n: int, dtype: str) -> Make:
    return lambda folder: (Dense(laplace(n).astype(dtype)), laplace(n).astype(dtype).astype(np.float64))


def stored(n: int | None, dtype: str, memory: int | None = None, prefetch: bool = True) -> Make:
    def make(folder: Path) -> tuple[Nested, np.ndarray]:
        store = stores.filled(stores.made(folder / "a.gram", dtype=dtype))
        least = streaming_bytes(store, store.tiles("train", "ntk"), prefetch)
        budget = None if memory is None else least + memory
        return Stored(store, "ntk", n, budget, prefetch), store.train("ntk", n)

    return make


def free(n: int, architecture: Architecture, kernel: str, dtype: str = "float64") -> Make:
    shape = (n, 5) if architecture is FCN else (n, 3, 3, 2)

    def make(folder: Path) -> tuple[Nested, np.ndarray]:
        x = np.random.default_rng(1).standard_normal(shape)
        K = compute(x, x, architecture, kernel, "float64")[kernel]
        return MatrixFree(x, architecture, kernel, "reference", dtype, block=8), K

    return make


CASES: dict[str, Make] = {
    "dense": dense(31, "float64"),
    "one row": dense(1, "float64"),
    "dense float32 beyond a band": dense(257, "float32"),
    "stored": stored(None, "float64"),
    "stored float32": stored(None, "float32"),
    "a prefix of the store, ragged": stored(17, "float32"),
    "one row of the store": stored(1, "float64"),
    "no tile kept": stored(None, "float32", memory=0),
    "three tiles kept": stored(None, "float32", memory=3 * 100),
    "read without a thread": stored(None, "float64", memory=0, prefetch=False),
    "free": free(23, FCN, "ntk"),
    "free, one block": free(8, FCN, "nngp"),
    "free, one row": free(1, FCN, "ntk"),
    "free, images": free(9, VEC, "ntk"),
}


@pytest.mark.parametrize("case", CASES)
def test_operator_is_its_matrix(case: str, tmp_path: Path) -> None:
    operator, K = CASES[case](tmp_path)
    n = len(K)
    tolerance = 10 * n * EPS * np.abs(K).max()
    rng = np.random.default_rng(0)
    assert operator.n == n
    for c in (1, 3):
        V = rng.standard_normal((n, c))
        before = V.copy()
        np.testing.assert_allclose(operator.matmul(V), K @ V, atol=tolerance)
        np.testing.assert_allclose(operator @ V, K @ V, atol=tolerance)
        np.testing.assert_array_equal(V, before)
        np.testing.assert_allclose(Shifted(operator, 0.3) @ V, K @ V + 0.3 * V, atol=tolerance)
    np.testing.assert_allclose(operator.diagonal(), K.diagonal(), atol=tolerance)
    for rows in (rng.permutation(n)[:5], np.array([n - 1, 0, n - 1]), np.zeros(0, dtype=np.int64)):
        np.testing.assert_allclose(operator.columns(rows), K[:, rows], atol=tolerance)
        shifted = (K + 0.3 * np.eye(n))[:, rows]
        np.testing.assert_allclose(Shifted(operator, 0.3).columns(rows), shifted, atol=tolerance)
    for m in {1, n // 2 or 1, n}:
        leading = operator.leading(m)
        assert leading.n == m
        V = rng.standard_normal((m, 2))
        np.testing.assert_allclose(leading @ V, K[:m, :m] @ V, atol=tolerance)
        np.testing.assert_allclose(leading.diagonal(), K.diagonal()[:m], atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_shapes_that_do_not_fit_are_refused(case: str, tmp_path: Path) -> None:
    operator, K = CASES[case](tmp_path)
    for V in (np.ones((len(K) + 1, 1)), np.ones(len(K))):
        with pytest.raises(KernregError, match=r"multiplies"):
            operator.matmul(V)
    for m in (0, len(K) + 1):
        with pytest.raises(KernregError, match=f"first {m} rows"):
            operator.leading(m)


def test_float32_entries_are_summed_in_float64() -> None:
    K = np.full((3000, 3000), np.float32(0.1))
    exact = 3000 * float(np.float32(0.1))
    np.testing.assert_allclose(Dense(K, checked=True) @ np.ones((3000, 1)), exact, rtol=3000 * EPS)


def test_rounding_asymmetry_is_settled_by_the_upper_triangle() -> None:
    K = laplace(40).astype(np.float32)
    K[30, 2] *= np.float32(1 + 3e-7)
    operator = Dense(K)
    np.testing.assert_array_equal(operator.K, operator.K.T)
    np.testing.assert_array_equal(np.triu(operator.K), np.triu(K))
    with pytest.raises(KernregError, match="not symmetric"):
        Dense(np.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(KernregError, match="is nan"):
        Dense(np.array([[1.0, np.nan], [np.nan, 1.0]]))


def test_a_product_reads_each_tile_once_and_kept_tiles_never_again(tmp_path: Path) -> None:
    store = stores.filled(stores.made(tmp_path / "a.gram", dtype="float32"))
    tiles = store.tiles("train", "ntk")
    sizes = sum(tile.shape[0] * tile.shape[1] * 4 for tile in tiles)
    V = np.ones((store.n, 2))
    everything = Stored(store, "ntk")
    for _ in range(3):
        everything @ V
    assert (everything.reader.tiles_read, everything.reader.bytes_read) == (len(tiles), sizes)
    assert everything.reader.bytes_kept == sizes
    nothing = Stored(store, "ntk", memory=streaming_bytes(store, tiles))
    for _ in range(3):
        nothing @ V
    assert nothing.reader.tiles_read == 3 * len(tiles)
    assert nothing.reader.bytes_kept == 0
    some = Stored(store, "ntk", memory=streaming_bytes(store, tiles) + 2 * 100)
    for _ in range(3):
        some @ V
    assert some.reader.bytes_kept == 200
    assert some.reader.tiles_read == 2 + 3 * (len(tiles) - 2)
    before = everything.reader.tiles_read
    everything.leading(7) @ V[:7]
    assert everything.reader.tiles_read == before


def test_columns_read_only_the_tiles_they_cross(tmp_path: Path) -> None:
    store = stores.filled(stores.made(tmp_path / "a.gram"))
    tiles = store.tiles("train", "ntk")
    operator = Stored(store, "ntk", memory=streaming_bytes(store, tiles))
    operator.columns(np.array([0, 4]))
    assert operator.reader.tiles_read == 5  # the five blocks of the first five rows


def test_the_budget_is_kept(tmp_path: Path) -> None:
    tile = 400
    n = 3 * tile
    x = np.random.default_rng(0).standard_normal((n, 4))
    given: dict[str, Any] = {"x_train": x, "y_train": x[:, :2], "x_test": x[:0], "y_test": x[:0, :2]}
    given |= dict.fromkeys(("labels_train", "labels_test", "rows_train", "rows_test"))
    store = stores.made(tmp_path / "a.gram", dtype="float32", kernels=("ntk",), tile=tile, **given)
    K = (x @ x.T).astype(np.float32)
    for part, place in store.missing():
        store.write(part, place, {"ntk": K[place.rows, place.columns]})
    V = np.ones((n, 1))
    for kept in (0, 2):
        memory = streaming_bytes(store, store.tiles("train", "ntk")) + kept * tile**2 * 4
        operator = Stored(store, "ntk", memory=memory)
        operator.diagonal()
        tracemalloc.start()
        operator @ V
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        beside = 20 * 8 * n  # vectors and their products
        assert peak <= memory + beside
    with pytest.raises(KernregError, match=r"use --memory \d+MiB"):
        Stored(store, "ntk", memory=tile**2 * 4)


def test_what_a_store_lacks_is_refused(tmp_path: Path) -> None:
    store = stores.made(tmp_path / "a.gram")
    with pytest.raises(KernregError, match="not complete"):
        Stored(store, "ntk")
    stores.filled(store)
    with pytest.raises(KernregError, match="not 'rbf'"):
        Stored(store, "rbf")
    with pytest.raises(KernregError, match="n=24"):
        Stored(store, "ntk", n=24)
    operator = Stored(store, "ntk", memory=streaming_bytes(store, store.tiles("train", "ntk")))
    next((tmp_path / "a.gram" / "tiles").glob("train-00001-00002*")).unlink()
    with pytest.raises(KernregError, match=r"train-00001-00002.*is missing"):
        operator @ np.ones((store.n, 1))


def test_a_backend_that_multiplies_its_own_tiles_gets_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernreg.kernels import reference

    calls: list[tuple[int, int]] = []

    def matmul(
        x: np.ndarray, arch: Architecture, kernel: str, V: np.ndarray, dtype: str, z: np.ndarray | None
    ) -> np.ndarray:
        calls.append((len(x), len(V)))
        return np.asarray(compute(x, x if z is None else z, arch, kernel, dtype)[kernel] @ V)

    rng = np.random.default_rng(0)
    x, z, V = rng.standard_normal((9, 5)), rng.standard_normal((4, 5)), rng.standard_normal((9, 2))
    free, rows = MatrixFree(x, FCN, backend="reference"), ComputedRows(z, x, FCN, "ntk", "reference")
    before, predicted = free @ V, rows.matmul(V)
    monkeypatch.setattr(reference, "matmul", matmul, raising=False)
    np.testing.assert_allclose(free @ V, before, rtol=1e-12)
    np.testing.assert_allclose(rows.matmul(V[:7]), compute(z, x[:7], FCN, "ntk", "float64")["ntk"] @ V[:7])
    np.testing.assert_allclose(rows.matmul(V), predicted, rtol=1e-12)
    assert calls == [(9, 9), (4, 7), (4, 9)]
    monkeypatch.setattr(reference, "matmul", lambda *_: np.full((9, 2), np.nan))
    with pytest.raises(KernregError, match="overflows"):
        free @ V


def test_matrix_free_refusals() -> None:
    x = np.ones((3, 4))
    with pytest.raises(KernregError, match="use ntk or nngp"):
        MatrixFree(x, FCN, "both")
    with pytest.raises(KernregError, match="unknown backend"):
        MatrixFree(x, FCN, backend="abacus")
    with pytest.raises(KernregError, match="NaN or infinity"):
        MatrixFree(np.full((3, 4), np.nan), FCN)
    with pytest.raises(KernregError, match="needs images"):
        MatrixFree(x, VEC)
