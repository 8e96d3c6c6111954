"""What a store's folder tells of a run: how far, how fast, how long yet; and `kernreg info --watch`."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from stores import filled, made, numbers, without_power_cuts

from kernreg.cli.main import main
from kernreg.errors import KernregError
from kernreg.store import GramStore
from kernreg.watching import Watch

__all__ = ["without_power_cuts"]

BEGUN = 1_000_000.0


def commit(store: GramStore, seconds: list[float]) -> int:
    """So many tiles, so many seconds after the run began; their pairs."""
    os.utime(store.path / "lock", (BEGUN, BEGUN))
    pairs, values = 0, {part: numbers(part) for part in ("train", "test")}
    for (part, tile), after in zip(store.missing(), seconds, strict=False):
        store.write(part, tile, {k: values[part][k][tile.rows, tile.columns] for k in store.kernels})
        os.utime(store.shards.path(part, tile), (BEGUN + after, BEGUN + after))
        pairs += tile.pairs
    return pairs


def test_rate_and_time_left_are_those_of_the_run(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store:
        watch = Watch(store.path)
        nothing = watch.look(BEGUN)
        assert (nothing.tiles_done, nothing.pairs_done, nothing.complete) == (0, 0, False)
        assert nothing.pairs_per_second is nothing.seconds_left is nothing.seconds_since_last is None
        pairs = commit(store, [10.0, 12.0, 20.0])
        seen = watch.look(BEGUN + 25.0)
        assert (seen.tiles_done, seen.pairs_done) == (3, pairs)
        assert seen.pairs_per_second == pairs / 20.0
        assert seen.seconds_left == (seen.pairs - pairs) / (pairs / 20.0)
        assert seen.seconds_since_last == 5.0
        assert seen.tiles_by_backend == {"reference": 3}


def test_tiles_of_an_earlier_run_count_as_done_not_as_fast(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store:
        earlier = commit(store, [-5000.0, -4000.0])
        assert Watch(store.path).look(BEGUN).pairs_per_second is None
        now = commit(store, [4.0])
        seen = Watch(store.path).look(BEGUN + 4.0)
        assert seen.pairs_done == earlier + now
        assert seen.pairs_per_second == now / 4.0


def test_clocks_that_disagree_and_tiles_that_vanish(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store:
        commit(store, [3.0, 4.0])
        watch = Watch(store.path)
        assert watch.look(BEGUN - 100.0).seconds_since_last == 0.0, "the file system's clock is ahead"
        store.drop(*store.shards.needed(store.n, store.t, store.n)[1])
        assert watch.look(BEGUN).tiles_done == 1
        (store.path / "lock").unlink()
        assert watch.look(BEGUN).pairs_per_second is None
        damaged = store.shards.path(*store.shards.needed(store.n, store.t, store.n)[0])
        damaged.write_bytes(b"")
        assert Watch(store.path).look(BEGUN).tiles_by_backend == {"unreadable": 1}
    with pytest.raises(KernregError, match="is no Gram store"):
        Watch(tmp_path).look(BEGUN)


def test_the_command_looks_until_the_store_is_complete(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store:
        commit(store, [1.0])
        rest = threading.Timer(0.3, filled, (store,))
        rest.start()
        result = CliRunner().invoke(main, ["info", str(store.path), "--watch", "0.1"])
        rest.join()
    assert result.exit_code == 0, result.output
    first, *_, last = result.stdout.splitlines()
    total = len(store.shards.needed(store.n, store.t, store.n))
    assert first.startswith(f"1 of {total} tiles, ")
    assert " left; last tile " in first
    assert last == f"{total} of {total} tiles, 100.0%; complete; reference {total}"


def test_a_line_of_json_for_each_look(tmp_path: Path) -> None:
    with made(tmp_path / "a.gram") as store:
        filled(store)
    result = CliRunner().invoke(main, ["info", str(store.path), "--watch", "--json"])
    (look,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert look["complete"]
    assert look["tiles"] == look["tiles_done"]
    assert CliRunner().invoke(main, ["info", str(store.path), "--watch", "0"]).exit_code == 2
    assert CliRunner().invoke(main, ["info", str(tmp_path), "--watch"]).exit_code == 1
