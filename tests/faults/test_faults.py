"""Faults of a seed, one of every kind and a few more; and an oracle that can tell."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from faults.campaign import Campaign, deck, table
from faults.catalogue import CATALOGUE
from faults.child import READ, Order
from faults.jobs import JOBS
from faults.oracle import FAILURES, Verdict, judge, manners, remedy
from faults.processes import ENVIRONMENT, Ended
from faults.scene import Scene

SEED, FAULTS = 6, 44


@pytest.fixture(scope="module")
def campaign() -> Iterator[Campaign]:
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        yield Campaign(Path(folder), SEED)


def test_nothing_is_lost_and_nothing_wrong_is_accepted(campaign: Campaign) -> None:
    rows = [campaign.play(number) for number in range(FAULTS)]
    assert {row.kind for row in rows} == set(CATALOGUE)
    failed = [row for row in rows if row.outcome in FAILURES]
    assert not failed, "\n".join(map(str, failed))
    assert {"recovered", "refused"} == {row.outcome for row in rows}
    assert f"| **all** | {FAULTS} |" in table(rows)


def test_a_seed_is_a_plan() -> None:
    assert [kind.name for kind in deck(3)] == [kind.name for kind in deck(3)]
    assert [kind.name for kind in deck(3)] != [kind.name for kind in deck(4)]
    assert {kind.name for kind in deck(3)[: len(CATALOGUE)]} == set(CATALOGUE)
    assert len(CATALOGUE) <= FAULTS
    assert all(job in JOBS for kind in CATALOGUE.values() for job in kind.jobs)


def scene(campaign: Campaign, box: Path, job: str = "gram") -> Scene:
    """A whole job of that name in a folder of its own."""
    box.mkdir()
    made = Scene(
        JOBS[job], campaign.whole(JOBS[job]), box, random.Random(0), campaign.server, campaign.others()
    )
    made.lay_whole()
    return made


def test_a_fork_says_and_does_what_a_fresh_interpreter_does(campaign: Campaign, tmp_path: Path) -> None:
    store = str(scene(campaign, tmp_path / "box").folder / "a.gram")
    for arguments in (
        ("info", store, "--json"),
        ("info", "absent.gram"),
        ("verify", store, "--samples", "0"),
        ("grams",),
    ):
        forked = campaign.server.start(Order(arguments, tmp_path, tmp_path / "said", small=False)).finish()
        command, environment = [sys.executable, "-m", "kernreg", *arguments], {**os.environ, **ENVIRONMENT}
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
        )
        assert (forked.status, forked.out, forked.err) == (done.returncode, done.stdout, done.stderr)


def test_a_wrong_number_is_wrong(campaign: Campaign, tmp_path: Path) -> None:
    played = scene(campaign, tmp_path / "box")
    played.whole = replace(played.whole, numbers={**played.whole.numbers, "ntk train": "another"})
    assert judge(played).problems == [("wrong", "ntk train is another one")]


def test_a_wrong_reading_is_wrong(campaign: Campaign, tmp_path: Path) -> None:
    arrays, played = tmp_path / "other.npz", scene(campaign, tmp_path / "box")
    other = (READ, str(played.others["other-rows"]), str(arrays))
    assert campaign.server.start(Order(other, tmp_path, tmp_path / "said")).finish().status == 0
    played.whole = replace(played.whole, arrays=arrays)
    assert judge(played).problems == [("wrong", "read gave other numbers")]


def test_work_made_twice_is_lost(campaign: Campaign, tmp_path: Path) -> None:
    played = scene(campaign, tmp_path / "box")
    name = played.work()[3]

    kept = played.path(name).read_bytes()
    played.path(name).write_bytes(kept[:-1])  # damage that the fault does not own up to
    assert ("lost", f"{name} was finished, and was made again") in judge(played).problems
    honest = scene(campaign, tmp_path / "honest")
    honest.path(name).write_bytes(kept[:-1])
    honest.damaged.add(name)
    assert judge(honest).outcome == "refused"


def test_manners() -> None:
    def of(status: int, err: str, sent: tuple[int, ...] = (), hung: bool = False, out: str = "") -> str:
        verdict = Verdict()
        manners(Ended(("gram", "x"), status, out, err, sent, 0.1, hung), verdict)
        return verdict.problems[0][0] if verdict.problems else ""

    assert of(0, "50 %|###\rdone\n") == ""
    assert of(1, "bar\rkernreg: error: the disk is full\n") == ""
    assert of(2, "Usage: …\n\nError: No such option\n") == ""
    assert of(1, "") == "unclear"
    assert of(1, "kernreg: error: one\nkernreg: error: two\n") == "unclear"
    assert of(0, "kernreg: error: one\n") == "unclear"
    assert of(1, "Traceback (most recent call last):\nkernreg: error: x\n") == "traceback"
    assert of(-9, "") == "crashed"
    assert of(-9, "", sent=(9,)) == ""
    assert of(-11, "", sent=(9,)) == "crashed"
    assert of(-9, "", hung=True) == "hung"
    assert of(1, "", out="NOT ok") == ""


def test_a_refusal_without_a_remedy_is_stuck(campaign: Campaign, tmp_path: Path) -> None:
    played = scene(campaign, tmp_path / "box")
    assert not remedy("something is wrong", played)
    name = played.work()[0]
    assert remedy(f"tile {name} cannot be used: it is short; delete this file and run …", played)
    assert not played.path(name).exists()
