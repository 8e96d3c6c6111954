"""A real Slurm: members that are killed, stopped, cancelled and queued again fill one store, with the bits of a run alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from members import bits, claimed, environment, tiles
from slurm_machine import Slurm

import kernreg
from kernreg.architecture import Architecture
from kernreg.plan import memory_bytes

N, T, TILE, DEPTH = 448, 64, 64, 3
NETWORK = ("--arch", "gap", "--depth", str(DEPTH), "--backend", "cpu")
GRAM = (*NETWORK, "--data", "digits", "--n", str(N), "--test", str(T))
TILES = 28 + 7
pytestmark = pytest.mark.slow
SECONDS = 240  # a busy machine takes long


@pytest.fixture(scope="module")
def memory() -> str:
    """What allows tiles of `TILE` rows and no larger ones."""
    digits = kernreg.load("digits", n=N, test=T)
    x_bytes = digits.x_train.nbytes + digits.x_test.nbytes
    return str(memory_bytes(TILE, x_bytes, (8, 8, 1), Architecture.gap(depth=DEPTH), "ntk", "float32"))


@pytest.fixture(scope="module")
def alone(slurm: Slurm, memory: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("alone") / "alone.gram"
    kernreg_does(slurm, path.parent, "gram", *GRAM, "--memory", memory, "--out", str(path))
    assert tiles(path) == TILES
    return bits(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a user's folder"
    folder.mkdir()
    return folder


def kernreg_does(slurm: Slurm, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kernreg", *arguments],
        cwd=folder,
        env={
            **environment(),
            **slurm.environment,
            "PYTHONPATH": environment()["PYTHONPATH"],
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def submitted(slurm: Slurm, folder: Path, *arguments: str) -> tuple[Path, list[str]]:
    """The store and the jobs."""
    options = (*GRAM, "--partition", slurm.partition, "--cpus", "1", "--time", "10", *arguments)
    facts = json.loads(kernreg_does(slurm, folder, "submit", "gram", *options, "--json"))
    return folder / facts["store"], facts["jobs"]


def at_work(slurm: Slurm, store: Path, member: str) -> dict[str, Any]:
    """A claim of a member, once it has one and some tiles are done."""

    def look() -> dict[str, Any] | None:
        found = claimed(store, member)
        return found[0] if found and tiles(store) > 2 else None

    claim: dict[str, Any] = slurm.wait(look, what=f"member {member}")
    assert tiles(store) < TILES
    return claim


def log(store: Path, job: str) -> str:
    return (store.with_suffix(".slurm") / f"gram-{job}.log").read_text(encoding="utf-8")


def all_completed(slurm: Slurm, *jobs: str) -> None:
    def completed() -> bool:
        slurm.hasten(*jobs)
        states = slurm.states(*jobs)
        assert not {"FAILED", "CANCELLED", "TIMEOUT"} & set(states.values()), states
        return set(states.values()) == {"COMPLETED"}

    slurm.wait(completed, SECONDS, what="the end of all jobs")


def test_killed_and_stopped_members_go_on_and_fit_follows(
    slurm: Slurm, folder: Path, alone: dict[str, Any], memory: str
) -> None:
    more = ("--array", "3", "--gpus", "1", "--memory", memory, "--after", "fit --no-exponent --no-loo")
    store, (gram, fit) = submitted(slurm, folder, *more)
    assert slurm.states(fit)[fit] == "PENDING"
    os.kill(at_work(slurm, store, "1/3")["pid"], signal.SIGKILL)
    at_work(slurm, store, "3/3")
    slurm.run("scancel", "--signal=USR1", f"{gram}_3")
    all_completed(slurm, gram, fit)
    assert bits(store) == alone
    assert sorted(path.name for path in store.iterdir()) == ["gram.h5", "lock", "tiles"]
    assert "stopped ahead of the time limit" in log(store, f"{gram}_3")
    for task, restarts in ((1, 1), (2, 0), (3, 1)):
        assert log(store, f"{gram}_{task}").count("complete: ") == 1
        assert f"Restarts={restarts}" in slurm.run("scontrol", "show", "job", f"{gram}_{task}")
    results = json.loads((store.parent / "fit.json").read_text(encoding="utf-8"))
    assert str(N) in json.dumps(results)


def test_members_that_are_cancelled_or_queued_again_cost_nothing(
    slurm: Slurm, folder: Path, alone: dict[str, Any], memory: str
) -> None:
    store, (gram,) = submitted(slurm, folder, "--array", "3", "--memory", memory, "--out", "x y.gram")
    at_work(slurm, store, "1/3")
    slurm.run("scancel", f"{gram}_1")
    at_work(slurm, store, "2/3")
    slurm.run("scontrol", "requeue", f"{gram}_2")

    def ended() -> bool:
        slurm.hasten(gram)
        states = slurm.states(gram)
        return [states[f"{gram}_{task}"] for task in (1, 2, 3)] == ["CANCELLED", "COMPLETED", "COMPLETED"]

    slurm.wait(ended, SECONDS, what="the end of the members")
    assert bits(store) == alone
    assert "finished tiles are kept" in log(store, f"{gram}_1")
    assert "complete: " not in log(store, f"{gram}_1")
    assert sorted(path.name for path in store.iterdir()) == ["gram.h5", "lock", "tiles"]


def test_every_node_of_a_job_is_a_member(slurm: Slurm, folder: Path) -> None:
    store, (gram,) = submitted(slurm, folder, "--n", "70", "--test", "9", "--array", "1", "--nodes", "2")
    all_completed(slurm, gram)
    assert log(store, f"{gram}_1").count("complete: ") == 2
    assert tiles(store) == 2


def test_members_that_cannot_compute_say_why_and_what_follows_is_dropped(slurm: Slurm, folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(N + T, 8, 8, 1))
    np.savez(folder / "mine.npz", X=x, y=np.arange(N + T) % 2)
    slurm.run("scontrol", "update", f"PartitionName={slurm.partition}", "State=DOWN")
    store, (gram, fit) = submitted(slurm, folder, "--data", "mine.npz", "--array", "2", "--after", "fit")
    (folder / "mine.npz").unlink()
    slurm.run("scontrol", "update", f"PartitionName={slurm.partition}", "State=UP")
    slurm.wait(lambda: set(slurm.states(gram).values()) == {"FAILED"}, what="the failure of the members")
    assert "kernreg: error: mine.npz does not exist" in log(store, f"{gram}_1")
    assert "Traceback" not in log(store, f"{gram}_1")
    slurm.wait(lambda: slurm.states(fit).get(fit, "CANCELLED") == "CANCELLED", what="the end of fit")
