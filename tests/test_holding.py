"""What one worker holds and multiplies, without a cluster: host, threads, a GPU imitated on NumPy arrays, refusals."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import columnmajor
import numpy as np
import pytest
import stores
from tolerances import relative

from kernreg import device
from kernreg.architecture import Architecture
from kernreg.computedtiles import ComputedTiles
from kernreg.errors import KernregError
from kernreg.holding import Holder, StoredTiles, crossings
from kernreg.kernels.reference import compute
from kernreg.partition import Partition
from kernreg.store import GramStore
from kernreg.tiles import TileGrid

N, TILE = 23, 5
EPS = np.finfo(np.float64).eps
pytestmark = pytest.mark.usefixtures("without_power_cuts")


@pytest.fixture(name="without_power_cuts")
def _without_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def made(folder: Path, dtype: str = "float32") -> GramStore:
    return stores.filled(stores.made(folder / "a.gram", n=N, dtype=dtype, tile=TILE))


def loaded(store: GramStore, partition: Partition, **given: object) -> Holder:
    source = pickle.loads(pickle.dumps(StoredTiles.of(store, "ntk", partition.n)))
    holder = Holder(source, **given)  # type: ignore[arg-type]
    for part, tiles in enumerate(partition.parts):
        holder.load(part, tiles)
    return holder


def whole(holder: Holder, partition: Partition, V: np.ndarray) -> np.ndarray:
    """K·V of a holder that holds everything, its shares added as one group each."""
    m, shares = len(V), partition.shares(len(V))
    touched = partition.spans([p for share in shares for p in share], m)
    rows = np.concatenate([V[a:b] for a, b in touched])
    out = np.zeros_like(V)
    for share, block in zip(shares, holder.multiply(rows, m, shares), strict=True):
        at = 0
        for a, b in partition.spans(share, m):
            out[a:b] += block[at : at + b - a]
            at += b - a
        assert at == len(block)
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("n", "m"), [(N, N), (N, 11), (17, 17), (17, 1)])
def test_products_diagonal_and_columns(dtype: str, threads: int, n: int, m: int, tmp_path: Path) -> None:
    store = made(tmp_path, dtype)
    partition = Partition.of(store.tiles("train", "ntk", n), n, 2, 3)
    holder = loaded(store, partition, threads=threads)
    K = store.train("ntk", m)
    V = np.random.default_rng(0).standard_normal((m, 3))
    tolerance = 10 * m * EPS * np.abs(K).max()
    np.testing.assert_allclose(whole(holder, partition, V), K @ V, atol=tolerance)
    assert holder.bytes_held == sum(partition.entries) * np.dtype(dtype).itemsize
    parts = [p for share in partition.shares(m) for p in share]
    numbers = np.concatenate(holder.diagonal(parts, m))
    np.testing.assert_array_equal(np.sort(numbers), np.sort(K.diagonal()))
    rows = np.array([m - 1, 0, m // 2, 0])
    out = np.full((m, len(rows)), np.nan)
    for part, blocks in zip(parts, holder.columns(parts, m, rows), strict=True):
        for (_, index, place), block in zip(crossings(partition.parts[part], m, rows), blocks, strict=True):
            assert block.dtype == np.dtype(dtype)
            out[place] = block if len(index) == 2 else block.T
    np.testing.assert_array_equal(out, K[:, rows])


def test_threads_and_groups_do_not_change_the_bits(tmp_path: Path) -> None:
    store = made(tmp_path)
    partition = Partition.of(store.tiles("train", "ntk"), N, 1, 4)
    V = np.random.default_rng(0).standard_normal((N, 2))
    one = whole(loaded(store, partition), partition, V)
    many = whole(loaded(store, partition, threads=4), partition, V)
    np.testing.assert_array_equal(one, many)


def test_on_a_gpu_imitated_on_numpy_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = columnmajor.cuda()
    monkeypatch.setattr(device, "cuda", lambda: gpu)
    monkeypatch.setattr(device, "free_bytes", lambda: device.LIBRARY_BYTES + 4 * N * N)
    store = made(tmp_path)
    partition = Partition.of(store.tiles("train", "ntk"), N, 2, 2)
    V = np.random.default_rng(0).standard_normal((N, 2))
    holder = loaded(store, partition, chosen="auto")
    assert holder.about()["device"] == "cuda"
    assert holder.about()["room"] == 4 * N * N
    np.testing.assert_array_equal(
        whole(holder, partition, V), whole(loaded(store, partition, chosen="cpu"), partition, V)
    )
    monkeypatch.setattr(device, "free_bytes", lambda: device.LIBRARY_BYTES + 10)
    with pytest.raises(KernregError, match=r"room for 10 B of tiles: use more workers"):
        loaded(store, partition, chosen="cuda")


@pytest.mark.gpu
def test_on_the_gpu_of_this_machine(tmp_path: Path) -> None:
    store = made(tmp_path)
    partition = Partition.of(store.tiles("train", "ntk"), N, 2, 2)
    V, K = np.random.default_rng(0).standard_normal((N, 2)), store.train("ntk")
    holder = loaded(store, partition, chosen="cuda")
    np.testing.assert_allclose(whole(holder, partition, V), K @ V, atol=10 * N * EPS * np.abs(K).max())
    parts = list(range(len(partition.parts)))
    for part, blocks in zip(parts, holder.columns(parts, N, np.array([N - 1, 0])), strict=True):
        for (tile, index, _), block in zip(
            crossings(partition.parts[part], N, np.array([N - 1, 0])), blocks, strict=True
        ):
            np.testing.assert_array_equal(block, K[tile.rows, tile.columns].astype(np.float32)[index])


def test_a_gpu_that_is_named_and_missing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise KernregError("device cuda needs CuPy")

    monkeypatch.setattr(device, "cuda", missing)
    store = made(tmp_path)
    source = StoredTiles.of(store, "ntk", N)
    assert Holder(source, "auto").about()["device"] == "cpu"
    with pytest.raises(KernregError, match="needs CuPy"):
        Holder(source, "cuda")
    with pytest.raises(KernregError, match=r"device is cpu, cuda, auto, not 'tpu'"):
        Holder(source, "tpu")


def test_what_cannot_be_read_is_one_line_that_travels(tmp_path: Path) -> None:
    store = made(tmp_path)
    source = StoredTiles.of(store, "ntk", N)
    holder = Holder(source)
    tile = TileGrid.triangle(N, TILE).tile(0, 1)
    store.shards.path("train", tile).unlink()
    with pytest.raises(KernregError, match=r"train-00000-00001.h5 .*kernreg gram") as caught:
        holder.load(0, [tile])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(KernregError, match=r"other rows"):
        Holder(StoredTiles(store.path, "ntk", 7, 4, source.rows))
    with pytest.raises(KernregError, match=r"no Gram store.*share"):
        Holder(StoredTiles(tmp_path / "absent.gram", "ntk", N, 4, source.rows))


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tiles_are_computed_once_or_every_time(dtype: str, keeps: bool, tmp_path: Path) -> None:
    x, V = (
        np.random.default_rng(3).standard_normal((N, 3, 3, 2)),
        np.random.default_rng(0).standard_normal((N, 2)),
    )
    np.save(tmp_path / "x.npy", x)
    given: Any = {"backend": "reference", "dtype": dtype, "tile": TILE, "keeps": keeps}
    source = ComputedTiles.of(tmp_path / "x.npy", Architecture.vec(depth=1), **given)
    assert source.n == N
    partition = Partition.of(list(TileGrid.triangle(N, TILE)), N, 2, 2)
    holder = Holder(pickle.loads(pickle.dumps(source)))
    for part, tiles in enumerate(partition.parts):
        holder.load(part, tiles)
    assert holder.bytes_held == (source.itemsize * sum(partition.entries) if keeps else 0)
    K = compute(x, x, Architecture.vec(depth=1), "ntk", "float64")["ntk"]
    tolerance = relative(dtype, Architecture.vec(depth=1)) * np.abs(K).max()
    np.testing.assert_allclose(whole(holder, partition, V), K @ V, atol=N * tolerance)
    parts = list(range(len(partition.parts)))
    numbers = np.concatenate(holder.diagonal(parts, N))
    np.testing.assert_allclose(np.sort(numbers), np.sort(K.diagonal()), atol=tolerance)


def test_rows_that_cannot_be_computed_are_refused(tmp_path: Path) -> None:
    path, network = tmp_path / "x.npy", Architecture.fcn(depth=1)
    with pytest.raises(KernregError, match=r"x.npy on .* is no .npy file of rows"):
        ComputedTiles.of(path, network)
    np.save(path, np.arange(4))
    with pytest.raises(KernregError, match="floating-point"):
        ComputedTiles.of(path, network)
    np.save(path, np.array([[1.0], [np.nan], [2.0]]))
    with pytest.raises(KernregError, match="use ntk or nngp"):
        ComputedTiles.of(path, network, "both")
    source = ComputedTiles.of(path, network, backend="reference")
    with pytest.raises(KernregError, match="NaN or infinity in rows 0 to 2"):
        Holder(source).load(0, list(TileGrid.triangle(3, 8)))
    np.save(path, np.ones((4, 1)))
    with pytest.raises(KernregError, match="share its file system"):
        Holder(source)


def test_room_is_kept(tmp_path: Path) -> None:
    store = made(tmp_path)
    partition = Partition.of(store.tiles("train", "ntk"), N, 1, 1)
    size = 4 * sum(partition.entries)
    assert loaded(store, partition, room=size).bytes_held == size
    with pytest.raises(KernregError, match="use more workers"):
        loaded(store, partition, room=size - 1)
