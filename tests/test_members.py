"""Members of a shared run, as plain processes: one store, each tile once, the bits of a run alone; killed, late, or stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from members import bits, child, claimed, ended, environment, tiles, wait
from test_claims import foreign

from kernreg.cli.main import main

SECONDS = 0.03  # that a tile takes longer, so that several members meet
TILES_OF_100 = 28 + 2 * 7  # rows of 100 in tiles of 16, and 20 test rows


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alone") / "alone.gram"
    status, begun, err = ended(child(path, "alone"))
    assert status == 0, err
    assert begun == TILES_OF_100
    return path


def test_members_share_a_store_each_tile_once(tmp_path: Path, alone: Path) -> None:
    path = tmp_path / "shared.gram"
    processes = [child(path, f"{number}/3", seconds=SECONDS) for number in (1, 2, 3)]
    results = [ended(process) for process in processes]
    assert [status for status, _, _ in results] == [0, 0, 0], results
    assert sum(begun for _, begun, _ in results) == TILES_OF_100
    assert bits(path) == bits(alone)
    assert sorted(entry.name for entry in path.iterdir()) == ["gram.h5", "lock", "tiles"]


def test_one_member_does_what_the_others_never_do(tmp_path: Path, alone: Path) -> None:
    path = tmp_path / "shared.gram"
    status, begun, err = ended(child(path, "2/5"))
    assert (status, begun) == (0, TILES_OF_100), err
    assert bits(path) == bits(alone)


def test_members_may_have_one_number(tmp_path: Path, alone: Path) -> None:
    path = tmp_path / "shared.gram"
    results = [ended(process) for process in [child(path, "1/1", seconds=SECONDS) for _ in range(3)]]
    assert [status for status, _, _ in results] == [0, 0, 0], results
    assert sum(begun for _, begun, _ in results) == TILES_OF_100
    assert bits(path) == bits(alone)


def test_a_killed_member_costs_its_tile_in_hand(tmp_path: Path, alone: Path) -> None:
    path = tmp_path / "shared.gram"
    victim, other = (child(path, f"{number}/2", seconds=SECONDS) for number in (1, 2))
    wait(lambda: claimed(path, "1/2") and tiles(path) > 3)
    victim.kill()
    _, lost, _ = ended(victim)
    status, begun, err = ended(other)
    assert status == 0, err
    assert (
        TILES_OF_100 <= lost + begun <= TILES_OF_100 + 2
    )  # one was computed, one perhaps waited for its commit
    assert bits(path) == bits(alone)
    assert sorted(entry.name for entry in path.iterdir()) == ["gram.h5", "lock", "tiles"]
    assert not list(path.rglob("*.partial"))


def test_a_killed_member_that_starts_again_goes_on(tmp_path: Path, alone: Path) -> None:
    path = tmp_path / "shared.gram"
    victim = child(path, "1/2", seconds=SECONDS)
    wait(lambda: tiles(path) > 3)
    victim.kill()
    ended(victim)
    before = {tile: tile.stat().st_mtime_ns for tile in path.glob("tiles/*.h5")}
    again, other = child(path, "1/2", seconds=SECONDS), child(path, "2/2", seconds=SECONDS)
    results = [ended(again), ended(other)]
    assert [status for status, _, _ in results] == [0, 0], results
    assert sum(begun for _, begun, _ in results) == TILES_OF_100 - len(before)
    assert {tile: tile.stat().st_mtime_ns for tile in before} == before
    assert bits(path) == bits(alone)


@pytest.mark.parametrize("when", [0.0, 4e9])
def test_tiles_of_a_silent_member_elsewhere_are_taken_over(tmp_path: Path, alone: Path, when: float) -> None:
    path = tmp_path / "shared.gram"
    first = child(path, "1/1", seconds=SECONDS)
    wait(lambda: tiles(path) > 1)
    first.terminate()
    ended(first)
    done = {tile.stem for tile in path.glob("tiles/*.h5")}
    left = [f"train-{i:05d}-{j:05d}" for j in range(7) for i in range(j + 1)]
    for name in left:
        if name not in done:
            foreign(path, name, when)
    status, begun, err = ended(child(path, "1/1", patience=0.3))
    assert (status, begun) == (0, TILES_OF_100 - len(done)), err
    assert "waiting for" not in err  # said beside a bar only
    assert bits(path) == bits(alone)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_member_told_to_stop_leaves_no_claim_and_no_half_tile(
    tmp_path: Path, alone: Path, number: signal.Signals
) -> None:
    path = tmp_path / "shared.gram"
    stopped, other = (child(path, f"{number}/2", seconds=SECONDS) for number in (1, 2))
    wait(lambda: claimed(path, "1/2") and tiles(path) > 3)
    stopped.send_signal(number)
    status, kept, err = ended(stopped)
    assert status != 0
    assert ("TimeIsUp" if number == signal.SIGUSR1 else "KeyboardInterrupt") in err
    assert claimed(path, "1/2") == []
    status, begun, err = ended(other)
    assert (status, begun) == (0, TILES_OF_100 - kept), err
    assert bits(path) == bits(alone)


def test_after_sigterm_a_long_tile_is_abandoned_in_time(tmp_path: Path) -> None:
    path = tmp_path / "shared.gram"
    ended(child(path, "1/1"))
    for tile in path.glob("tiles/test-*"):
        tile.unlink()
    slow = child(path, "1/1", seconds=600.0)
    wait(lambda: claimed(path))
    slow.terminate()
    slow.terminate()  # as Slurm may send it, to the step and through srun
    assert ended(slow)[0] != 0
    assert claimed(path) == []
    assert not list(path.rglob("*.partial"))


def run_gram(*arguments: object) -> Result:
    command = ["gram", "--arch", "fcn", "--data", "digits", *map(str, arguments)]
    return CliRunner().invoke(main, command)


def test_the_command_takes_a_member_and_goes_on_to_more_rows(tmp_path: Path) -> None:
    shared, whole = tmp_path / "shared.gram", tmp_path / "alone.gram"
    options = ("--backend", "reference", "--test", 9)
    for n in (20, 30):
        done = run_gram(*options, "--n", n, "--out", shared, "--member", "2/3")
        assert done.exit_code == 0, done.output
        assert f"complete: {shared}" in done.stdout
        assert "measuring" not in done.stderr
        assert run_gram(*options, "--n", n, "--out", whole).exit_code == 0
    assert bits(shared) == bits(whole)


def test_a_time_limit_is_a_status_of_its_own(tmp_path: Path) -> None:
    options = ("--arch", "gap", "--depth", "1", "--n", "30", "--test", "0", "--backend", "reference")
    command = ["gram", "--data", "digits", *options, "--out", str(tmp_path / "a.gram"), "--member", "1/1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kernreg", *command], stderr=subprocess.PIPE, text=True, env=environment()
    )
    wait(lambda: claimed(tmp_path / "a.gram"))
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err.splitlines()[-1].startswith("kernreg: error: stopped ahead of the time limit")
    assert claimed(tmp_path / "a.gram") == []


def test_a_wrong_member_is_a_usage_error() -> None:
    done = run_gram("--member", "4/3")
    assert done.exit_code == 2
    assert "members are 1/N to N/N" in done.stderr
