"""A real Slurm on one machine: jobs of dask-jobqueue fill a store, one of them is lost on the way, and the bits are the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from clusterruns import (
    GRAM,
    ROOT,
    SECONDS,
    SLOWLY,
    complaint,
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
pytest.importorskip("dask_jobqueue", reason="pip install 'kernreg[cluster]'")
pytest.importorskip("slurm_machine", reason="the fixture of a Slurm for tests is not here")
pytestmark = pytest.mark.slow


def settings(slurm: Any, folder: Path, *more: str) -> str:
    lines = [
        'kind = "slurm"',
        "cores = 1",
        'memory = "900MiB"',
        f'partition = "{slurm.partition}"',
        'walltime = "00:10:00"',
        f'prologue = ["export PYTHONPATH={ROOT}"]',
        f'python = "{sys.executable}"',
        f'log_directory = "{folder}/logs"',
        *more,
    ]
    (folder / "slurm.toml").write_text("\n".join(lines))
    return "slurm.toml"


def test_jobs_fill_the_store_and_one_that_is_killed_costs_nothing(
    slurm: Any, whole: GramStore, tmp_path: Path
) -> None:
    spec = settings(slurm, tmp_path, "workers = 2", "timeout = 100")
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", spec, variables=slurm.environment)
    until(lambda: tiles(tmp_path) >= 2, process)
    jobs = slurm.run("squeue", "--noheader", "--states=running", "--format=%i").split()
    assert jobs
    slurm.run("scancel", "--signal=KILL", "--full", jobs[0])
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert same(whole, tmp_path / "a.gram")
    until(lambda: not slurm.run("squeue", "--noheader").split())


def test_the_jobs_of_a_killed_command_end_by_themselves(slurm: Any, tmp_path: Path) -> None:
    spec = settings(slurm, tmp_path, "workers = 1", "timeout = 100")
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", spec, variables=slurm.environment)
    until(lambda: tiles(tmp_path) >= 2, process)
    process.kill()
    until(lambda: not slurm.run("squeue", "--noheader").split())
    assert verify(GramStore.open(tmp_path / "a.gram")).ok


def test_a_partition_that_does_not_exist_is_slurms_own_line(slurm: Any, tmp_path: Path) -> None:
    spec = settings(slurm, tmp_path, "timeout = 60")
    text = (tmp_path / spec).read_text().replace(f'"{slurm.partition}"', '"nowhere"')
    (tmp_path / spec).write_text(text)
    process = start(tmp_path, *GRAM, *SLOWLY, "--cluster", spec, variables=slurm.environment)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "invalid partition" in complaint(err)


def test_each_of_two_gpus_of_a_job_has_a_worker(
    slurm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPUs are stand-ins: Slurm hands them out, and the workers divide them."""
    import os

    from kernreg.cluster import connect

    for key, value in slurm.environment.items():
        monkeypatch.setenv(key, value)
    spec = settings(slurm, tmp_path, "gpus = 2", "workers = 2", "timeout = 100")
    with connect(str(tmp_path / spec)) as client:
        client.wait_for_workers(2, timeout=SECONDS)
        assert sorted(client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["0", "1"]
