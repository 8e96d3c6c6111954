"""Sharing a store: who begins with which tiles, who may write beside whom, and what double work does, in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from members import environment
from stores import filled, made
from stores import without_power_cuts as without_power_cuts
from test_claims import foreign

from kernreg import gramfile, sharing
from kernreg.durable import Busy, Lock
from kernreg.errors import KernregError
from kernreg.sharing import Member, Share, partition
from kernreg.store import GramStore
from kernreg.tiles import TileGrid


@pytest.mark.parametrize("n", [1, 2, 23, 64, 101])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_parts_hold_every_tile_once_and_are_balanced_within_a_tile(n: int, count: int) -> None:
    places = [("train", tile) for tile in TileGrid.triangle(n, 7)]
    places += [("test", tile) for tile in TileGrid.rectangle(5, n, 7)]
    parts = partition(places, count)
    assert sorted(map(repr, (place for part in parts for place in part))) == sorted(map(repr, places))
    pairs = [sum(tile.pairs for _, tile in part) for part in parts]
    assert max(pairs) - min(pairs) <= max(tile.pairs for _, tile in places)
    order = {place: number for number, place in enumerate(places)}
    assert all(part == sorted(part, key=order.__getitem__) for part in parts)


@pytest.mark.parametrize(
    ("text", "variables", "member"),
    [
        ("1/1", {}, (1, 1)),
        ("3/8", {}, (3, 8)),
        ("slurm", {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (1, 1)),
        (
            "slurm",
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_MAX": "8",
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
            },
            (10, 16),
        ),
        (
            "slurm",
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_MIN": "2",
                "SLURM_ARRAY_TASK_MAX": "5",
                "SLURM_PROCID": "0",
                "SLURM_STEP_NUM_TASKS": "1",
            },
            (4, 4),
        ),
    ],
)
def test_member_of_a_text(text: str, variables: dict[str, str], member: tuple[int, int]) -> None:
    parsed = Member.parse(text, variables)
    assert (parsed.index, parsed.count) == member


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "3", "3/", "-1/2", "a/b", "1/2/3", "", "slurm", "1/99999999999"]
)
def test_what_is_no_member_is_refused(text: str) -> None:
    with pytest.raises(KernregError, match="member"):
        Member.parse(text, {})


def test_a_writer_keeps_members_out_and_members_a_writer(tmp_path: Path) -> None:
    store = made(tmp_path / "a.gram")
    with store, pytest.raises(Busy, match=f"process {os.getpid()} on"):
        GramStore.open(store.path, shared=True)
    with GramStore.open(store.path, shared=True) as one, GramStore.open(store.path, shared=True) as two:
        with pytest.raises(Busy, match="members that fill it together"):
            GramStore.open(store.path, writer=True)
        assert not one.alone()
        two.close()
        assert one.alone()
        with pytest.raises(Busy):
            GramStore.open(store.path, shared=True)


def test_a_lock_that_could_not_be_made_its_own_is_still_shared(tmp_path: Path) -> None:
    one, two = Lock(tmp_path, shared=True), Lock(tmp_path, shared=True)
    assert not one.alone()
    two.release()
    with pytest.raises(Busy):
        Lock(tmp_path)
    one.release()
    assert not one.alone()
    Lock(tmp_path).release()


def test_where_there_are_no_locks_members_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", without)
    with GramStore.open(made_without_lock(tmp_path), shared=True) as store:
        filled(store)
        assert not store.alone()
    assert store.complete
    with pytest.raises(KernregError, match="no file locks"):
        GramStore.open(store.path, writer=True)


def made_without_lock(folder: Path) -> Path:
    with made(folder / "a.gram", shared=True) as store:
        return store.path


def test_members_change_nothing_but_tiles(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram", shared=True) as store:
        filled(store)
        with pytest.raises(KernregError, match="writer=True"):
            store.compute_by("cpu")
        with pytest.raises(KernregError, match="writer=True"):
            store.drop(*store.shards.needed(1, 0, 1)[0])


def test_of_two_that_create_a_store_the_first_one_is_taken(tmp_path: Path) -> None:
    with (
        made(tmp_path / "a.gram", shared=True, tile=5) as one,
        made(tmp_path / "a.gram", shared=True, tile=7) as two,
    ):
        assert one.grids == two.grids
        assert one.created == two.created
    assert sorted(path.name for path in (tmp_path / "a.gram").iterdir()) == ["gram.h5", "lock", "tiles"]


def test_without_hard_links_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(KernregError, match="no hard links"):
        made(tmp_path / "a.gram", shared=True)
    assert not list((tmp_path / "a.gram").glob("gram.h5*"))


def test_two_who_compute_one_tile_do_no_harm(tmp_path: Path) -> None:
    with (
        made(tmp_path / "a.gram", shared=True) as store,
        Share(store, Member(1, 1), lambda: False, print) as share,
    ):
        place = next(iter(share))
        filled(store)
        before = store.shards.read(*place, "ntk")

        def refuse() -> None:
            raise KernregError("the disk is full")

        share.commit(place, refuse)
        assert (store.shards.read(*place, "ntk") == before).all()
        store.shards.path(*place).unlink()
        assert share._take(place)
        with pytest.raises(KernregError, match="the disk is full"):
            share.commit(place, refuse)


def test_pairs_of_others_are_told_once(tmp_path: Path) -> None:
    with (
        made(tmp_path / "a.gram", shared=True) as store,
        Share(store, Member(1, 2), lambda: False, print) as share,
    ):
        total = sum(tile.pairs for _, tile in store.missing())
        mine = next(iter(share))
        assert share.by_others() == 0
        filled(store)
        assert share.by_others() == total - mine[1].pairs
        assert share.by_others() == 0


def test_waiting_is_said_once_and_ends_when_it_is_time_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.0)
    looks, said = iter(range(4)), list[str]()
    with made(tmp_path / "a.gram", shared=True) as store:
        for place in store.missing():
            foreign(store.path, gramfile.shard_name(*place).removesuffix(".h5"))
        with Share(store, Member(1, 2), lambda: next(looks) == 3, said.append) as share:
            assert list(share) == []
    assert said == [f"waiting for {len(store.missing())} tiles that other members have in hand"]


def test_info_tells_who_is_at_work(tmp_path: Path) -> None:
    with (
        made(tmp_path / "a.gram", shared=True) as store,
        Share(store, Member(1, 2), lambda: False, print) as share,
    ):
        next(iter(share))
        command = [sys.executable, "-m", "kernreg", "info", str(store.path)]
        text = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True).stdout
        assert "in hand" in text
        assert "1/2 on" in text
        facts = json.loads(
            subprocess.run([*command, "--json"], capture_output=True, env=environment(), check=True).stdout
        )
        assert [claim["pid"] for claim in facts["in_hand"]] == [os.getpid()]
