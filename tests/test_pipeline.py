"""The pipeline: bounded, in order, every block committed once; failures and signals end it with what was begun kept."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import twodevices
from stores import images, without_power_cuts
from twodevices import NAME, State

from kernreg import gramfile
from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.gram import build
from kernreg.kernels import backends, lanes
from kernreg.pipeline import Pipeline
from kernreg.seal import seal
from kernreg.store import GramStore

FCN = Architecture.fcn(depth=2)
__all__ = ["without_power_cuts"]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 4 rows, that tiny data have many of them."""
    monkeypatch.setattr("kernreg.plan.SMALLEST", 4)
    monkeypatch.setattr("kernreg.plan.LARGEST", 4)


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch, small_tiles: None) -> State:
    """A backend on two devices of its own."""
    monkeypatch.setattr(twodevices, "state", State())
    monkeypatch.setitem(backends.MODULES, NAME, "twodevices")
    monkeypatch.setitem(lanes.GPUS, NAME, twodevices.Gpus)
    return twodevices.state


def run(
    items: int,
    compute: Callable[[int], Any] = lambda item: item,
    commit: Callable[[int, Any], object] = lambda item, block: None,
    threads: int = 3,
    writers: int = 2,
    stopping: Callable[[], bool] = lambda: False,
    done: Callable[[int], object] = lambda item: None,
) -> None:
    Pipeline(compute, commit, [nullcontext] * threads, writers, stopping).run(range(items), done)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("writers", [1, 3])
@pytest.mark.parametrize("items", [0, 1, 2, 37])
def test_every_item_is_computed_committed_and_announced_once(threads: int, writers: int, items: int) -> None:
    begun, committed, announced = list[int](), dict[int, int](), list[int]()

    def compute(item: int) -> int:
        begun.append(item)
        time.sleep(random.uniform(0, 1e-3))
        return item**2

    run(items, compute, committed.__setitem__, threads, writers, done=announced.append)
    assert committed == {item: item**2 for item in range(items)}
    assert sorted(announced) == sorted(begun) == list(range(items))


def test_one_lane_begins_the_items_in_their_order() -> None:
    begun = list[int]()
    run(20, begun.append, threads=1, writers=2)
    assert begun == list(range(20))


def test_only_so_many_items_are_in_hand() -> None:
    lock, hand, most = threading.Lock(), 0, 0

    def compute(item: int) -> int:
        nonlocal hand, most
        with lock:
            hand += 1
            most = max(most, hand)
        return item

    def commit(item: int, block: int) -> None:
        nonlocal hand
        time.sleep(1e-3)
        with lock:
            hand -= 1

    run(40, compute, commit, threads=4, writers=2)
    assert most <= 4 + 2
    assert hand == 0


def test_a_commit_goes_on_while_the_next_item_is_computed() -> None:
    """The commit of item 0 ends only once item 1 is being computed, and would wait for ever in a serial loop."""
    second = threading.Event()
    waited = list[bool]()

    def compute(item: int) -> int:
        if item == 1:
            second.set()
        return item

    run(2, compute, lambda item, block: waited.append(second.wait(30)), threads=1, writers=1)
    assert waited == [True, True]


def test_two_lanes_compute_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)
    run(2, lambda item: both.wait(), threads=2, writers=1)


@pytest.mark.parametrize("where", ["compute", "commit"])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_failure_is_the_one_that_is_raised_and_what_was_begun_is_kept(where: str, threads: int) -> None:
    begun, committed = set[int](), set[int]()

    def compute(item: int) -> int:
        begun.add(item)
        time.sleep(1e-3)
        if where == "compute" and item == 5:
            raise KernregError("item 5 is ill")
        return item

    def commit(item: int, block: int) -> None:
        if where == "commit" and item == 5:
            raise KernregError("item 5 is ill")
        committed.add(item)

    with pytest.raises(KernregError, match="item 5 is ill"):
        run(1000, compute, commit, threads=threads)
    assert committed == begun - {5}
    assert len(begun) < 100


def test_a_failure_of_every_thread_ends_it_too() -> None:
    def fail(item: int) -> int:
        raise KernregError(f"item {item}")

    with pytest.raises(KernregError, match="item "):
        run(50, fail, threads=4)
    with pytest.raises(KernregError, match="item "):
        run(50, commit=lambda item, block: fail(item), threads=4, writers=3)


def test_a_lane_that_cannot_be_entered_is_a_failure() -> None:
    def enter() -> Any:
        raise KernregError("no such device")

    pipeline: Pipeline[int, int] = Pipeline(
        lambda item: item, lambda item, block: None, [nullcontext, enter], 1, lambda: False
    )
    with pytest.raises(KernregError, match="no such device"):
        pipeline.run(range(10**6), lambda item: None)


def test_stopping_keeps_what_was_begun_and_begins_nothing_more() -> None:
    begun, committed, stop = set[int](), set[int](), threading.Event()

    def compute(item: int) -> int:
        begun.add(item)
        time.sleep(1e-3)
        if item == 7:
            stop.set()
        return item

    run(1000, compute, lambda item, block: committed.add(item), stopping=stop.is_set)
    assert committed == begun
    assert len(begun) < 100


def test_an_exception_of_the_watching_thread_waits_for_commits_that_have_begun_only() -> None:
    computing, committing, release = threading.Event(), threading.Event(), threading.Event()
    committed = list[int]()

    def compute(item: int) -> int:
        if item == 2:
            computing.set()
            release.wait(60)
        return item

    def commit(item: int, block: int) -> None:
        if item == 1:
            committing.set()
            time.sleep(0.05)
        committed.append(item)

    def done(item: int) -> None:
        assert committing.wait(30)
        assert computing.wait(30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(10, compute, commit, threads=1, writers=1, done=done)
    assert committed == [0, 1]
    release.set()
    time.sleep(0.05)
    assert committed == [0, 1]


def reference(tmp_path: Path, dtype: str = "float32") -> GramStore:
    return build(tmp_path / "plain.gram", images(), FCN, "both", "reference", dtype)


def test_two_devices_fill_a_store_with_the_same_bits(twin: State, tmp_path: Path) -> None:
    twin.longest_delay = 3e-3
    store = build(tmp_path / "a.gram", images(), FCN, "both", NAME, "float32")
    plain = reference(tmp_path)
    for kernel in store.kernels:
        np.testing.assert_array_equal(store.train(kernel), plain.train(kernel))
        np.testing.assert_array_equal(store.test(kernel), plain.test(kernel))
    tiles = sum(len(grid) for grid in store.grids.values())
    assert twin.calls == tiles == sum(twin.tiles_by_device.values())
    assert set(twin.tiles_by_device) == {0, 1}
    assert len(twin.streams) == 2 * lanes.LANES_PER_GPU
    assert all(store.shards.describe(*place)["backend"] == NAME for place in store.shards.needed(21, 10, 21))


def test_the_tiles_alive_are_bounded_when_the_disk_is_slow(
    twin: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = gramfile.write_shard

    def slow(*arguments: Any) -> None:
        time.sleep(4e-3)
        plain(*arguments)

    monkeypatch.setattr(gramfile, "write_shard", slow)
    build(tmp_path / "a.gram", images(), FCN, "ntk", NAME, "float32")
    count = 2 * lanes.LANES_PER_GPU
    assert count < twin.most_alive <= 2 * count  # it runs ahead of the disk, and not too far
    assert twin.alive == 0


@pytest.mark.parametrize("call", [0, 3, 11])
def test_a_failing_device_stops_the_fill_with_its_line_and_a_second_run_goes_on(
    twin: State, tmp_path: Path, call: int
) -> None:
    twin.longest_delay = 2e-3
    twin.fails_at = {call: KernregError("the GPU fell off the bus")}
    with pytest.raises(KernregError, match="fell off the bus"):
        build(tmp_path / "a.gram", images(), FCN, "ntk", NAME, "float32")
    kept = len(list((tmp_path / "a.gram" / "tiles").glob("*.h5")))
    assert kept == twin.calls - 1
    assert not list((tmp_path / "a.gram").rglob("*.partial"))
    twin.fails_at = {}
    assert build(tmp_path / "a.gram", images(), FCN, "ntk", NAME, "float32").complete


def test_a_full_disk_stops_all_devices_with_one_line(
    twin: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, written = seal, list[Path]()

    def fills(path: Path, facts: Any) -> None:
        written.append(path)
        if len(written) == 6:
            raise OSError(28, "No space left on device")
        plain(path, facts)

    monkeypatch.setattr(gramfile, "seal", fills)
    with pytest.raises(KernregError, match="no space left on device; finished tiles are kept"):
        build(tmp_path / "a.gram", images(), FCN, "ntk", NAME, "float32")
    monkeypatch.setattr(gramfile, "seal", plain)
    assert build(tmp_path / "a.gram", images(), FCN, "ntk", NAME, "float32").complete


def test_numbers_that_are_none_are_refused_by_their_rows(twin: State, tmp_path: Path) -> None:
    d = images()
    d.x_train[9] *= 1e200
    with pytest.raises(KernregError, match=r"train row|rescale|range"):
        build(tmp_path / "a.gram", d, FCN, "ntk", NAME, "float32")


@pytest.mark.parametrize("seed", range(3))
def test_stopped_by_signals_again_and_again_it_ends_with_the_same_bits(
    twin: State, tmp_path: Path, seed: int
) -> None:
    random.seed(seed)
    twin.longest_delay = 2e-3
    said, sent = list[int](), list[int]()

    def stop(done: int, total: int) -> None:
        said.append(done)  # first of all what earlier runs did, before the signals are caught
        if len(said) > 1 and not sent and random.random() < 0.3:
            sent.append(done)
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(100):
        said.clear()
        sent.clear()
        try:
            store = build(tmp_path / "a.gram", images(), FCN, "both", NAME, "float32", progress=stop)
            break
        except KeyboardInterrupt:
            continue
    np.testing.assert_array_equal(store.train("ntk"), reference(tmp_path).train("ntk"))
    assert twin.calls == sum(len(grid) for grid in store.grids.values())


def test_a_store_keeps_the_cut_of_the_machine_that_began_it(
    twin: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin.fails_at = {9: KernregError("stopped")}
    with pytest.raises(KernregError, match="stopped"):
        build(tmp_path / "a.gram", images(), FCN, "ntk", NAME, "float32")
    edges = GramStore.open(tmp_path / "a.gram").grids["train"].row_edges
    monkeypatch.setattr("kernreg.plan.LARGEST", 8)
    twin.fails_at, twin.free_bytes = {}, [20 << 30, 30 << 30]
    assert build(tmp_path / "a.gram", images(), FCN, "ntk", NAME, "float32").grids["train"].row_edges == edges
