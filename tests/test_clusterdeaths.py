"""`kernreg gram --cluster` killed, told to stop, bereft of its scheduler or of its workers; and what it says of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from clusterruns import (
    GRAM,
    SECONDS,
    SLOWLY,
    complaint,
    finish,
    finish_here,
    members,
    no_process_stays,
    same,
    start,
    tiles,
    until,
    whole,
)

from kernreg.store import GramStore
from kernreg.verify import verify

__all__ = ["no_process_stays", "whole"]
pytest.importorskip("distributed", reason="pip install 'kernreg[cluster]'")
pytestmark = pytest.mark.slow

FILE = "scheduler.json"


def worker(folder: Path) -> subprocess.Popen[str]:
    return dask(folder, "worker", "--scheduler-file", FILE, "--nthreads", "1", "--no-nanny")


def dask(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return start(folder, *arguments, module="dask")


def test_a_killed_client_leaves_whole_tiles_and_no_process_and_the_same_command_goes_on(
    whole: GramStore, tmp_path: Path
) -> None:
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", "local:2")
    until(lambda: tiles(tmp_path) >= 3, process)
    process.kill()
    process.communicate()
    until(lambda: not members(process.pid))
    store = GramStore.open(tmp_path / "a.gram")
    assert verify(store).ok
    assert 3 <= tiles(tmp_path) < len(whole.shards.needed(whole.n, whole.t, whole.n))
    done = finish(tmp_path, "--cluster", "local:2")
    assert done.returncode == 0, done.stderr
    assert "tiles begun there are done" in done.stdout
    assert "2 workers; dashboard: http://127.0.0.1:" in done.stderr
    assert same(whole, tmp_path / "a.gram")
    assert not list(tmp_path.rglob("*.partial"))


def test_ctrl_c_ends_it_cleanly(whole: GramStore, tmp_path: Path) -> None:
    """It reaches all processes of a terminal, the workers too, which go on to commit what they have in hand."""
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", "local:2")
    until(lambda: tiles(tmp_path) >= 2, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "finished tiles are kept" in complaint(err)
    assert not list(tmp_path.rglob("*.partial"))
    until(lambda: not members(process.pid))
    assert finish_here(tmp_path).exit_code == 0, "and without a cluster"
    assert same(whole, tmp_path / "a.gram")


def test_workers_and_a_scheduler_of_ones_own_that_die(whole: GramStore, tmp_path: Path) -> None:
    head = dask(tmp_path, "scheduler", "--scheduler-file", FILE, "--host", "127.0.0.1", "--port", "0")
    until((tmp_path / FILE).exists, head)
    address = json.loads((tmp_path / FILE).read_text())["address"]
    (tmp_path / "c.toml").write_text(f'kind = "address"\naddress = "{address}"\ntimeout = 1')
    done = finish(tmp_path, "--cluster", "c.toml")
    assert done.returncode == 1
    assert f"has no worker after 1 s: start some with `dask worker {address}`" in complaint(done.stderr)
    assert not (tmp_path / "a.gram").exists()

    workers = [worker(tmp_path) for _ in range(2)]
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", FILE, "--json")
    until(lambda: tiles(tmp_path) >= 2, process)
    for lost in workers:
        lost.kill()
    worker(tmp_path)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert json.loads(out)["complete"]
    assert same(whole, tmp_path / "a.gram")

    for tile in (tmp_path / "a.gram" / "tiles").glob("train*"):
        tile.unlink()
    left = tiles(tmp_path)
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", address)
    until(lambda: tiles(tmp_path) >= left + 2, process)
    head.kill()
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "the scheduler of the cluster is gone" in complaint(err)
    assert finish_here(tmp_path).exit_code == 0
    assert same(whole, tmp_path / "a.gram")


def test_info_watches_a_run_to_its_end(tmp_path: Path) -> None:
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", "local:2")
    until(lambda: tiles(tmp_path) >= 1, process)
    watch = start(tmp_path, "info", "a.gram", "--watch", "0.1", "--json")
    out, err = watch.communicate(timeout=SECONDS)
    assert watch.returncode == 0, err
    assert process.wait(SECONDS) == 0
    process.communicate()
    looks: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    done = [look["tiles_done"] for look in looks]
    assert done == sorted(done)
    assert looks[-1]["complete"]
    assert looks[-1]["tiles_done"] == looks[-1]["tiles"] == looks[-1]["tiles_by_backend"]["reference"]
    on_the_way = [look for look in looks if 0 < look["tiles_done"] < look["tiles"]]
    assert on_the_way, "it was watched while it went on"
    assert all(look["seconds_left"] > 0 and look["pairs_per_second"] > 0 for look in on_the_way)
