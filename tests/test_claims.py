"""Claims: one holder at a time, taken over when abandoned whatever the clocks say, given back at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernreg import claims
from kernreg.claims import Claims, clear, holders, tidy
from kernreg.errors import KernregError

PATIENCE_SECONDS = 0.3
DAY_SECONDS = 86400


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)


def foreign(store: Path, name: str, when: float = 0.0) -> Path:
    """A claim of a process on another host, touched at this time by its clock."""
    path = store / claims.FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"member": "9/9", "host": "elsewhere", "pid": 1, "machine": "another"}))
    os.utime(path, (when, when))
    return path


def taken_in_time(mine: Claims, name: str) -> bool:
    until = time.monotonic() + 20 * PATIENCE_SECONDS
    while time.monotonic() < until:
        if mine.take(name):
            return True
        time.sleep(0.01)
    return False


def test_one_holds_a_tile_and_gives_it_back(tmp_path: Path) -> None:
    with Claims(tmp_path, "1/2") as one, Claims(tmp_path, "2/2") as two:
        assert one.take("a")
        assert one.holds("a")
        assert not two.take("a")
        assert not two.holds("a")
        assert two.take("b")
        assert {(claim["tile"], claim["member"], claim["pid"]) for claim in holders(tmp_path)} == {
            ("a", "1/2", os.getpid()),
            ("b", "2/2", os.getpid()),
        }
        one.release("a")
        assert two.take("a")
    assert holders(tmp_path) == []


@pytest.mark.parametrize("ahead", [-365 * DAY_SECONDS, -DAY_SECONDS, 0.0, DAY_SECONDS, 3650 * DAY_SECONDS])
def test_silence_is_what_abandons_a_claim_whatever_its_clock(tmp_path: Path, ahead: float) -> None:
    foreign(tmp_path, "a", time.time() + ahead)
    with Claims(tmp_path, "1/1", PATIENCE_SECONDS) as mine:
        assert not mine.take("a")
        assert not mine.take("a")
        assert taken_in_time(mine, "a")


@pytest.mark.parametrize("ahead", [-DAY_SECONDS, DAY_SECONDS])
def test_a_claim_that_moves_is_respected_whatever_its_clock(tmp_path: Path, ahead: float) -> None:
    path, begun = foreign(tmp_path, "a"), time.time() + ahead
    with Claims(tmp_path, "1/1", PATIENCE_SECONDS) as mine:
        until, beats = time.monotonic() + 2 * PATIENCE_SECONDS, 0
        while time.monotonic() < until:
            beats += 1
            os.utime(path, (begun + beats, begun + beats))
            assert not mine.take("a")
        assert beats > 2


def test_the_heart_keeps_a_claim_from_being_taken(tmp_path: Path) -> None:
    with Claims(tmp_path, "1/2") as one, Claims(tmp_path, "2/2", PATIENCE_SECONDS) as two:
        assert one.take("a")
        until = time.monotonic() + 3 * PATIENCE_SECONDS
        while time.monotonic() < until:
            assert not two.take("a")
            time.sleep(0.02)


def test_a_process_of_this_machine_that_is_gone_is_known_at_once(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from kernreg.claims import Claims
Claims(Path({str(tmp_path)!r}), "2/2").take("a")
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = holders(tmp_path)
    assert left["member"] == "2/2"
    with Claims(tmp_path, "1/2") as mine:
        assert mine.take("a")
    assert holders(tmp_path) == []


def test_of_two_onlookers_one_takes_over(tmp_path: Path) -> None:
    foreign(tmp_path, "a")
    with Claims(tmp_path, "1/2", 0.0) as one, Claims(tmp_path, "2/2", 0.0) as two:
        one.take("a"), two.take("a")
        time.sleep(0.01)
        assert [one.take("a"), two.take("a")] == [True, False]


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"machine": 3}', '{"pid": "x"}', "\0" * 9000])
def test_a_claim_that_says_nothing_is_respected_until_it_is_silent_for_long(
    tmp_path: Path, text: str
) -> None:
    foreign(tmp_path, "a").write_text(text)
    with Claims(tmp_path, "1/1", PATIENCE_SECONDS) as mine:
        assert not mine.take("a")
        assert taken_in_time(mine, "a")


def test_none_is_taken_once_ended_and_what_is_held_is_given_back_on_an_error(tmp_path: Path) -> None:
    mine = Claims(tmp_path, "1/1")

    def interrupted() -> None:
        with mine:
            assert mine.take("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert holders(tmp_path) == []
    assert not mine.take("a")


def test_a_claim_that_was_lost_is_given_back_without_an_error(tmp_path: Path) -> None:
    with Claims(tmp_path, "1/1") as mine:
        assert mine.take("a")
        clear(tmp_path)
        assert not (tmp_path / claims.FOLDER).exists()
        mine.release("a")
        assert mine.take("b")


def test_tidy_removes_what_the_killed_left(tmp_path: Path) -> None:
    foreign(tmp_path, "a")
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "train-00000-00000.h5.7-ab.partial").touch()
    tidy(tmp_path)
    assert list((tmp_path / "tiles").iterdir()) == []
    assert not (tmp_path / claims.FOLDER).exists()
    tidy(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / claims.FOLDER).write_text("a file")
    with Claims(tmp_path, "1/1") as mine, pytest.raises(KernregError, match="cannot write"):
        mine.take("a")
