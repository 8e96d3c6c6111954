"""gram, fill and build: in memory and on disk the same numbers; resumed, extended, refused by name."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from stores import images

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.gram import Kernels, build, fill, gram
from kernreg.kernels import backends
from kernreg.store import GramStore

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


class Computed(NamedTuple):
    """Calls of the backend."""

    pairs: list[int]

    @property
    def total(self) -> int:
        return sum(self.pairs)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    calls = Computed([])
    plain = backends.compute

    def counting(x: Any, z: Any, *settings: Any) -> Any:
        calls.pairs.append(len(x) * (len(x) + 1) // 2 if z is None else len(x) * len(z))
        return plain(x, z, *settings)

    monkeypatch.setattr(backends, "compute", counting)
    return calls


def pairs(n: int, t: int) -> int:
    return n * (n + 1) // 2 + n * t


def test_gram_is_the_backend() -> None:
    d = images()
    for kernel in ("nngp", "ntk"):
        direct = backends.compute(d.x_test, d.x_train, GAP, kernel, "reference", "float64")[kernel]
        np.testing.assert_array_equal(gram(d.x_test, d.x_train, GAP, kernel, "reference"), direct)
    both = gram(d.x_train, None, GAP, "both", "reference", "float32")
    assert isinstance(both, Kernels)
    assert both.ntk.dtype == np.float32
    np.testing.assert_array_equal(both.ntk, both.ntk.T)


@pytest.mark.parametrize("n", [1, 5, 6, 7, 13])
def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    x = images(n).x_train.reshape(n, -1)
    z = images(t=7).x_test.reshape(7, -1)
    K, C = gram(x, None, FCN, backend="reference"), gram(x, z, FCN, backend="reference")
    monkeypatch.setattr(sys.modules["kernreg.gram"], "BLOCK", 6)
    np.testing.assert_allclose(gram(x, None, FCN, backend="reference"), K, rtol=1e-14)
    np.testing.assert_allclose(gram(x, z, FCN, backend="reference"), C, rtol=1e-14)
    np.testing.assert_array_equal(gram(x, None, FCN, backend="reference"), K.T)


def test_whole_numbers_are_converted() -> None:
    x = np.arange(12).reshape(4, 3)
    exact = gram(x * 1.0, None, FCN, backend="reference")
    for held in (x, x.astype(np.uint8), x.tolist(), np.asfortranarray(x.astype(np.float32))):
        np.testing.assert_array_equal(gram(held, None, FCN, backend="reference"), exact)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "z", "shown"),
    [
        (np.zeros(4), None, r"x is \(4,\): give images"),
        (np.zeros((4, 3, 3)), None, r"pass x\[..., None\]"),
        (np.zeros((0, 3)), None, "x is empty"),
        (np.ones((4, 3)), np.ones((2, 0)), "z is empty"),
        (np.ones((4, 3)), np.ones((4, 5)), r"rows of x are \(3,\) and of z \(5,\)"),
        (np.ones((4, 3)), np.array([[1, 2, 3], [4, np.nan, 6]]), "z: row 1 holds NaN"),
        (np.full((4, 3), np.inf), None, "x: row 0 holds NaN or infinity"),
        (np.ones((4, 3), complex), None, "complex128, not real numbers"),
        (np.array([["a", "b"]]), None, "not real numbers"),
    ],
)
def test_wrong_rows(x: Any, z: Any, shown: str) -> None:
    with pytest.raises(KernregError, match=shown):
        gram(x, z, FCN, backend="reference")


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"kernel": "gp"}, "kernel is nngp, ntk or both"),
        ({"backend": "abacus"}, "unknown backend 'abacus'"),
        ({"dtype": "float16"}, "float32"),
    ],
)
def test_wrong_names(settings: dict[str, str], shown: str) -> None:
    with pytest.raises(KernregError, match=shown):
        gram(np.ones((2, 3)), None, FCN, **settings)


def test_an_architecture_is_asked_for() -> None:
    with pytest.raises(KernregError, match="must be an Architecture"):
        gram(np.ones((2, 3)), None, "fcn")  # type: ignore[call-overload]


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kernel", ["nngp", "both"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_build_is_gram(tmp_path: Path, kernel: str, dtype: str) -> None:
    d = images()
    store = build(tmp_path / "a.gram", d, GAP, kernel, "reference", dtype)
    assert store.complete
    assert store.backend == "reference"
    assert len(store.grids["train"]) > 3
    for name in store.kernels:
        K: Any = gram(d.x_train, None, GAP, name, "reference", dtype)
        C: Any = gram(d.x_test, d.x_train, GAP, name, "reference", dtype)
        np.testing.assert_allclose(store.train(name), K, rtol=float(4 * np.finfo(dtype).eps))
        np.testing.assert_allclose(store.test(name), C, rtol=float(4 * np.finfo(dtype).eps))
        np.testing.assert_array_equal(store.train(name), store.train(name).T)


@pytest.mark.usefixtures("small_tiles")
def test_build_resumes_extends_and_takes_prefixes(tmp_path: Path, computed: Computed) -> None:
    path, seen = tmp_path / "a.gram", list[tuple[int, int]]()

    def run(n: int, t: int, **settings: Any) -> GramStore:
        def progress(done: int, total: int) -> None:
            seen.append((done, total))

        return build(path, images(n, t), FCN, "ntk", "reference", progress=progress, **settings)

    run(13, 5)
    assert computed.total == pairs(13, 5)
    assert seen[0] == (0, pairs(13, 5))
    assert seen[-1] == (pairs(13, 5), pairs(13, 5))
    run(13, 5)
    run(9, 2)
    assert computed.total == pairs(13, 5)
    seen.clear()
    store = run(21, 5)
    assert seen[0] == (pairs(13, 5), pairs(21, 5))
    store = run(21, 9, memory="4GiB")
    assert computed.total == pairs(21, 9)
    assert (store.n, store.t, store.complete) == (21, 9, True)
    assert store.provenance["n"] == 21
    tile = store.grids["train"].tile(0, 0)
    store.shards.path("train", tile).unlink()
    run(21, 9)
    assert computed.total == pairs(21, 9) + tile.pairs
    K = gram(images().x_train, None, FCN, backend="reference")
    np.testing.assert_allclose(store.train("ntk"), K, rtol=1e-13)
    store.shards.path("train", tile).unlink()
    with pytest.raises(KernregError, match=r"needs about .* use --memory"):
        run(21, 9, memory="1MiB")


@pytest.mark.usefixtures("small_tiles")
def test_a_smaller_n_of_an_unfinished_store_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.gram"
    store = build(path, images(), FCN, "ntk", "reference")
    first, last = store.grids["train"].tile(0, 0), store.grids["train"].tile(2, 2)
    store.shards.path("train", last).unlink()
    assert build(path, images(8, 2), FCN, "ntk", "reference").n == 21
    store.shards.path("train", first).unlink()
    with pytest.raises(KernregError, match="use --n 21 --test 10, or another folder"):
        build(path, images(8, 2), FCN, "ntk", "reference")
    with pytest.raises(KernregError, match="use --n 21 --test 12, or another folder"):
        build(path, images(8, 12), FCN, "ntk", "reference")
    assert build(path, images(), FCN, "ntk", "reference").complete


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"architecture": GAP}, "architecture: stored"),
        ({"kernel": "both"}, "kernels: stored"),
        ({"dtype": "float32"}, "dtype: stored 'float64', given 'float32'"),
    ],
)
def test_build_with_other_settings_is_refused(tmp_path: Path, settings: dict[str, Any], shown: str) -> None:
    plain: dict[str, Any] = {"architecture": FCN, "kernel": "ntk", "backend": "reference", "dtype": "float64"}
    build(tmp_path / "a.gram", images(5, 1), **plain)
    with pytest.raises(KernregError, match=shown):
        build(tmp_path / "a.gram", images(5, 1), **{**plain, **settings})


def test_build_with_other_rows_is_refused(tmp_path: Path) -> None:
    path, d = tmp_path / "a.gram", images(5, 1)
    build(path, d, FCN, "ntk", "reference")
    x = d.x_train.copy()
    x[3, 0, 0, 0] += 1e-9
    with pytest.raises(KernregError, match="x_train, row 3"):
        build(path, replace(d, x_train=x), FCN, "ntk", "reference")
    with pytest.raises(KernregError, match=r"provenance\.seed: stored 3, given 4"):
        build(path, replace(d, provenance={**d.provenance, "seed": 4}), FCN, "ntk", "reference")


def test_fill_wants_the_rows_of_the_store(tmp_path: Path) -> None:
    d = images(5, 1)
    build(tmp_path / "a.gram", d, FCN, "ntk", "reference")
    with GramStore.open(tmp_path / "a.gram", writer=True) as store:
        with pytest.raises(KernregError, match="needs 5 train and 1 test rows"):
            fill(store, d.x_train)
        with pytest.raises(KernregError, match="x_test, row 0"):
            fill(store, d.x_train, d.x_test + 1)


def test_a_layer_that_is_not_covered_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*settings: Any) -> None:
        raise NotImplementedError("layer pool")

    monkeypatch.setattr(backends, "covers", refuse)
    with pytest.raises(NotImplementedError, match="layer pool"):
        build(tmp_path / "a.gram", images(5, 1), FCN)
    assert not (tmp_path / "a.gram").exists()


def test_a_disk_too_small_is_refused_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: Computed
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100))
    with pytest.raises(KernregError, match=r"needs .* more and its disk has 100 B free: free some space"):
        build(tmp_path / "a.gram", images(5, 1), FCN, "ntk", "reference")
    assert computed.total == 0


@pytest.mark.usefixtures("small_tiles")
def test_a_damaged_tile_stops_a_resumed_run(tmp_path: Path) -> None:
    store = build(tmp_path / "a.gram", images(), FCN, "ntk", "reference")
    places = list(store.grids["train"])
    store.shards.path("train", places[1]).write_bytes(b"")
    store.shards.path("train", places[-1]).unlink()
    with pytest.raises(KernregError, match=r"train-00000-00001\.h5 .*delete this file and run the same"):
        build(tmp_path / "a.gram", images(), FCN, "ntk", "reference")
    store.shards.path("train", places[1]).unlink()
    assert build(tmp_path / "a.gram", images(), FCN, "ntk", "reference").complete


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_tiles_in_hand(tmp_path: Path, computed: Computed, number: int) -> None:
    path, before = tmp_path / "a.gram", (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))

    sent = list[int]()

    def stop(done: int, total: int) -> None:
        if done and not sent:
            sent.append(done)
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        build(path, images(), FCN, "ntk", "reference", progress=stop)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    store = GramStore.open(path)
    kept = len(list((path / "tiles").iterdir()))
    assert 1 <= kept == len(computed.pairs) <= 3  # the committed one, and those that were in hand
    assert len(store.missing()) == len(store.grids["train"]) + len(store.grids["test"]) - kept
    assert build(path, images(), FCN, "ntk", "reference").complete
    assert computed.total == pairs(21, 10)


@pytest.mark.usefixtures("small_tiles")
def test_a_second_signal_ends_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def twice(*settings: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # two of one kind, sent at once, would arrive as one
        over.wait(60)  # a tile that takes much longer than anybody waits

    monkeypatch.setattr(backends, "compute", twice)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "a.gram", images(), FCN, "ntk", "reference")
    assert not over.is_set()
    over.set()
    GramStore.open(tmp_path / "a.gram", writer=True).close()


@pytest.mark.usefixtures("small_tiles")
def test_the_bar_is_drawn_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(tmp_path / "a.gram", images(), FCN, "ntk", "reference", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pair/s" in captured.err
    assert "100%" in captured.err


def test_numbers_that_overflow_are_refused(tmp_path: Path) -> None:
    d = images(4, 0)
    huge = replace(d, x_train=d.x_train * 1e200)
    with pytest.raises(KernregError, match=r"rescale|range|overflow"):
        build(tmp_path / "a.gram", huge, FCN, "ntk", "reference")
    with pytest.raises(KernregError, match=r"rescale|range|overflow"):
        gram(huge.x_train, None, FCN, backend="reference")
