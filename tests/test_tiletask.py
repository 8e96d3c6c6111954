"""The task of a tile, in this process: what it commits, when it does not begin, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from stores import ARCHITECTURE, made, rows, without_power_cuts

from kernreg import tiletask
from kernreg.clusterfill import _rows_beside
from kernreg.errors import KernregError
from kernreg.gram import fill
from kernreg.kernels import backends
from kernreg.store import GramStore
from kernreg.tiletask import Answer, TileTask, compute

__all__ = ["without_power_cuts"]

X, Z = rows()["x_train"], rows()["x_test"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiletask, "SIGHT_SECONDS", 0.0)


def test_all_tiles_make_the_store_that_fill_makes(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as alone, made(tmp_path / "b.gram") as store:
        fill(alone, X, Z)
        with _rows_beside(store, X, Z) as task:
            for part, tile in store.missing():
                assert compute(task, part, tile.row_block, tile.column_block) == Answer("committed")
        assert store.complete
        for place in store.shards.needed(store.n, store.t, store.n):
            ours, theirs = store.shards.describe(*place), alone.shards.describe(*place)
            assert ours["checksums"] == theirs["checksums"]
        assert not list(store.path.glob("rows*")), "the rows go with the last task"


def test_a_tile_that_is_there_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(tmp_path / "a.gram") as store, _rows_beside(store, X, Z) as task:
        assert compute(task, "train", 0, 1).state == "committed"
        monkeypatch.setattr(backends, "compute", lambda *_: pytest.fail("computed again"))
        assert compute(task, "train", 0, 1).state == "committed"


def test_a_damaged_tile_that_is_there_is_refused(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store, _rows_beside(store, X, Z) as task:
        compute(task, "train", 0, 1)
        path = store.shards.path("train", store.grids["train"].tile(0, 1))
        path.write_bytes(path.read_bytes()[:-1])
        answer = compute(task, "train", 0, 1)
        assert answer.state == "refused"
        assert path.name in answer.reason


def test_without_rows_no_tile_is_begun(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store:
        with _rows_beside(store, X, Z) as task:
            pass
        assert compute(task, "test", 0, 0) == Answer("not begun")
        assert len(store.missing()) == len(store.shards.needed(store.n, store.t, store.n))


def test_other_rows_and_cut_files_are_refused(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store:
        with _rows_beside(store, X + 1, Z) as task:
            answer = compute(task, "train", 0, 0)
            assert answer.state == "refused"
            assert "x_train, row 0 (hash)" in answer.reason
        with _rows_beside(store, X, Z) as task:
            path = task.rows_path("train")
            path.write_bytes(path.read_bytes()[:200])
            answer = compute(task, "train", 0, 0)
            assert answer.state == "refused"
            assert "cannot be read" in answer.reason


def test_another_store_than_the_clients_is_refused_by_machine(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store, _rows_beside(store, X, Z) as task:
        other = TileTask(task.store, "0" * 32, task.token)
        absent = TileTask(str(tmp_path / "elsewhere.gram"), task.main, task.token)
        for wrong in (other, absent):
            answer = compute(wrong, "train", 0, 0)
            assert answer.state == "refused"
            assert answer.reason.startswith(tiletask.here())
            assert "all workers share" in answer.reason


def test_numbers_that_are_not_finite_and_too_little_memory_are_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = rows() | {"x_train": X * 1e200}
    with made(tmp_path / "a.gram", **huge) as store, _rows_beside(store, huge["x_train"], Z) as task:
        answer = compute(task, "train", 0, 0)
        assert answer.state == "refused"
        assert "--dtype float64" in answer.reason

        def full(*arguments: object) -> None:
            raise MemoryError

        monkeypatch.setattr(backends, "compute", full)
        assert "memory" in compute(task, "train", 0, 1).reason


def test_a_process_of_many_threads_computes_no_more_tiles_than_it_has_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, most, now = threading.Lock(), 0, 0

    @contextmanager
    def lane() -> Iterator[None]:
        nonlocal most, now
        with entered:
            now += 1
            most = max(most, now)
        yield
        with entered:
            now -= 1

    monkeypatch.setattr(tiletask, "_waiting", {})
    monkeypatch.setattr(tiletask, "lanes", lambda backend: [lane, lane])
    with made(tmp_path / "a.gram") as store, _rows_beside(store, X, Z) as task:
        places = [(part, tile.row_block, tile.column_block) for part, tile in store.missing()]
        threads = [threading.Thread(target=compute, args=(task, *place)) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.complete
    assert 1 <= most <= 2


def test_a_backend_that_is_not_here_leaves_no_empty_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(backend: str) -> list[object]:
        raise KernregError("no such GPU")

    monkeypatch.setattr(tiletask, "_waiting", {})
    monkeypatch.setattr(tiletask, "lanes", none)
    for _ in range(2):  # the second must not wait for a lane that nobody gives back
        with pytest.raises(KernregError, match="no such GPU"), tiletask._lane("cuda"):
            pass


def test_ability_resolves_auto_and_pace_measures() -> None:
    able = tiletask.ability("auto", ARCHITECTURE, (4,))
    assert able.backend == backends.resolve("auto", ARCHITECTURE, (4,))
    assert able.workers.computing >= 1
    assert 0 < tiletask.pace((4,), "float32", ARCHITECTURE, "ntk", "reference", "float64") < 60
    with pytest.raises(KernregError, match="unknown backend"):
        tiletask.ability("gpu", ARCHITECTURE, (4,))


def test_the_rows_that_a_killed_client_left_go_with_the_next_writer(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store:
        left = TileTask(str(store.path), "", "dead").rows_path("train")
        left.write_bytes(X.tobytes())
    with GramStore.open(tmp_path / "a.gram", writer=True):
        assert not left.exists()
