"""--cluster: its forms, the files of settings, what they become for dask-jobqueue, and every refusal."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kernreg import cluster, preload
from kernreg.clusterspec import ADAPTIVE, CORES, PATIENCE, Spec, parse
from kernreg.errors import KernregError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("local", Spec("local")),
        ("local:3", Spec("local", workers=(3, 3))),
        ("slurm", Spec("slurm", workers=ADAPTIVE, timeout=PATIENCE["slurm"])),
        ("tcp://node7:8786", Spec("address", "tcp://node7:8786")),
        ("tls://10.0.0.1:1", Spec("address", "tls://10.0.0.1:1")),
        ("head-node.cluster:8786", Spec("address", "tcp://head-node.cluster:8786")),
    ],
)
def test_forms(text: str, expected: Spec) -> None:
    assert parse(text) == expected


def test_a_scheduler_file_is_its_address(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    path.write_text(json.dumps({"type": "Scheduler", "address": "tcp://10.0.0.2:8786"}))
    assert parse(str(path)) == Spec("address", "tcp://10.0.0.2:8786")
    path.write_text("[]")
    with pytest.raises(KernregError, match="names no address"):
        parse(str(path))


def toml(folder: Path, text: str) -> str:
    path = folder / "cluster.toml"
    path.write_text(text)
    return str(path)


def test_a_file_of_settings(tmp_path: Path) -> None:
    text = 'kind = "slurm"\nadaptive = [2, 16]\ncores = 8\nmemory = "64GiB"\npartition = "gpu"\ntimeout = 10'
    spec = parse(toml(tmp_path, text))
    assert (spec.kind, spec.workers, spec.timeout) == ("slurm", (2, 16), 10.0)
    assert spec.settings == {"cores": 8, "memory": "64GiB", "queue": "gpu"}
    spec = parse(toml(tmp_path, 'kind = "local"\nworkers = 2\nthreads = 1'))
    assert (spec.workers, spec.settings) == ((2, 2), {"threads": 1})
    spec = parse(toml(tmp_path, 'kind = "address"\naddress = "tcp://a:1"'))
    assert (spec.address, str(spec)) == ("tcp://a:1", "the scheduler tcp://a:1")


@pytest.mark.parametrize(
    "text", ["", "address", "local:", "local:0", "local:two", "dask", "a b:8786", "absent.toml"]
)
def test_what_names_no_cluster_is_refused(text: str) -> None:
    with pytest.raises(KernregError, match="cluster"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind = 'slurm", "is not TOML"),
        ("workers = 2", "kind is one of local, address, slurm"),
        ("kind = 'kubernetes'", "not 'kubernetes'"),
        ("kind = 'slurm'\nnodes = 3", "no key 'nodes'; it has account, adaptive, cores"),
        ("kind = 'local'\ncores = 3", "kind local has no key 'cores'"),
        ("kind = 'slurm'\nresource_spec = 'x'", "no key 'resource_spec'"),
        ("kind = 'slurm'\ncores = 0", "cores must be a whole number ≥ 1, not 0"),
        ("kind = 'slurm'\ncores = true", "not True"),
        ("kind = 'slurm'\ncores = 2.5", "not 2.5"),
        ("kind = 'slurm'\nmemory = 'much'", "'much' is no amount of memory"),
        ("kind = 'slurm'\nprologue = 'module load x'", "prologue must be a list of texts"),
        ("kind = 'slurm'\nqueue = ''", "queue must be a text"),
        ("kind = 'slurm'\nqueue = 'a'\npartition = 'b'", "one of queue and its other name"),
        ("kind = 'slurm'\nworkers = 2\nadaptive = [1, 2]", "one of workers and adaptive"),
        ("kind = 'slurm'\nadaptive = [0, 2]", "1 ≤ least ≤ most"),
        ("kind = 'slurm'\nadaptive = [3, 2]", "1 ≤ least ≤ most"),
        ("kind = 'slurm'\nadaptive = 3", "adaptive must be"),
        ("kind = 'slurm'\ntimeout = -1", "timeout must be a number of seconds > 0"),
        ("kind = 'slurm'\ntimeout = inf", "timeout must be"),
        ("kind = 'address'", "needs an address"),
    ],
)
def test_a_wrong_file_of_settings_is_one_line_by_name(text: str, said: str, tmp_path: Path) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(KernregError) as refusal:
        parse(path)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def job(kind: str, defaults: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    return cluster.job_settings(Spec(kind, settings=settings), defaults or {})


def test_one_process_has_all_cores_by_threads_of_its_own() -> None:
    made = job("slurm", cores=8, memory="16GiB", prologue=["module load x"], queue="q", walltime="1:00:00")
    assert (made["cores"], made["memory"], made["processes"]) == (8, f"{16 << 30}B", 1)
    assert made["job_script_prologue"] == ["module load x", "export KERNREG_THREADS=8"]
    assert made["worker_extra_args"][:2] == ["--nthreads", "1"]
    assert (made["queue"], made["walltime"]) == ("q", "1:00:00")


@pytest.mark.parametrize(
    ("kind", "key", "said"),
    [
        ("slurm", "job_extra_directives", ["-x", "--gres=gpu:4"]),
        ("lsf", "job_extra_directives", ["-x", '-gpu "num=4"']),
        ("sge", "job_extra_directives", ["-x", "-l gpu=4"]),
        ("pbs", "resource_spec", f"select=1:ncpus=8:mem={4 << 30}b:ngpus=4"),
    ],
)
def test_each_gpu_has_a_process(kind: str, key: str, said: object) -> None:
    made = job(kind, cores=8, memory="4GiB", gpus=4, job_extra_directives=["-x"])
    assert made[key] == said
    assert made["processes"] == 4
    assert made["job_script_prologue"] == ["export KERNREG_THREADS=2"]
    assert int(made["worker_extra_args"][1]) > 1, "a tile is committed while others are computed"


def test_what_is_not_said_is_the_users_own_default_or_ours() -> None:
    assert job("pbs", {"cores": 6, "memory": "1 GiB"})["cores"] == 6
    assert job("pbs", {"cores": None, "memory": None})["cores"] == CORES
    assert job("lsf", account="a")["project"] == "a"
    assert job("slurm", account="a")["account"] == "a"


@pytest.mark.parametrize(
    ("visible", "name", "expected"),
    [("3,5", "0", "3"), ("3,5", "cluster-7-1", "5"), ("3,5", 2, "3"), ("", "1", ""), ("3", "named", "3")],
)
def test_a_worker_takes_the_gpu_of_its_number(
    visible: str, name: object, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    preload.dask_setup(SimpleNamespace(name=name))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_without_dask_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(KernregError, match=r"pip install 'kernreg\[cluster\]'"), cluster.connect("local:1"):
        pass


def test_a_batch_system_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="pip install 'kernreg[cluster]'")
    monkeypatch.setenv("PATH", "")
    with (
        pytest.raises(KernregError, match="needs bsub, which is not on this machine"),
        cluster.connect("lsf"),
    ):
        pass
