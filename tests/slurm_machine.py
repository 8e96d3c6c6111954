"""A real Slurm on this machine, for a session of tests: a controller and three nodes, with a munge of its own, as root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
NODES = 3
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
STAND_INS = ("/dev/null", "/dev/zero")  # for the two GPUs of a node: Slurm counts devices and opens none
SECONDS = 60
CONFIGURATION = """\
ClusterName=kernreg
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
GresTypes=gpu
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=50000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/none
ReturnToService=2
KillWait=5
MinJobAge=300
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=10
TCPTimeout=2
SlurmdParameters=config_overrides
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
NODE = "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN"


class Slurm:
    """The running cluster.

    Attributes:
        environment: for programs that talk to it.
        partition: its only one.
        nodes: names.
        folder: of its logs.
    """

    partition = "debug"

    def __init__(self, folder: Path) -> None:
        self._hastened: dict[str, float] = {}
        self.folder, self.nodes = folder, tuple(f"n{number}" for number in range(1, NODES + 1))
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))
        }
        self.environment = {**inherited, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str) -> str:
        """What a program of Slurm prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    def states(self, *jobs: str) -> dict[str, str]:
        """State of jobs that Slurm still knows, by number, ARRAY_TASK for those of an array: "123_1": "COMPLETED"."""
        lines = self.run(
            "squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={','.join(jobs)}"
        )
        return dict(line.split() for line in lines.splitlines())

    def wait(self, condition: Callable[[], Any], seconds: float = SECONDS, what: str = "it") -> Any:
        """The first true value of a condition; fails after so many seconds, with the end of the controller's log."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if value := condition():
                return value
            time.sleep(0.2)
        path = self.folder / "slurmctld.log"
        log = path.read_text(encoding="utf-8", errors="replace") if path.exists() else "it has no log"
        raise AssertionError(
            f"{what} did not happen in {seconds} s; {self.run('squeue', '--array')}\n{log[-3000:]}"
        )

    def hasten(self, *jobs: str) -> None:
        """Start what was queued again in a few seconds, once its last run is over: Slurm holds it back for two minutes."""
        for job, state in self.states(*jobs).items():
            if state == "PENDING" and time.monotonic() > self._hastened.get(job, 0.0) + 30:
                self._hastened[job] = time.monotonic()
                update = ["scontrol", "update", f"JobId={job}", "StartTime=now+5"]
                subprocess.run(update, env=self.environment, capture_output=True, check=False)


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A cluster that runs until the session ends; skips where it cannot be had."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]
    if missing:
        pytest.skip(
            f"no Slurm on this machine: {missing[0]} is missing (Debian: slurmctld slurmd slurm-client munge)"
        )
    if os.geteuid() != 0:
        pytest.skip("a Slurm for tests is started by root only")
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    _configure(cluster)
    with ExitStack() as running:
        for command in _daemons(cluster):
            running.callback(_end, _start(cluster, command))
            if command[0] == "munged":
                cluster.wait((cluster.folder / "munge" / "socket").exists, what="the start of munge")
        running.callback(_cancel, cluster)
        ready = "sinfo --noheader --Node --format=%T"
        cluster.wait(
            lambda: cluster.run(*ready.split()).split() == ["idle"] * NODES, what="the start of the nodes"
        )
        yield cluster


def _configure(cluster: Slurm) -> None:
    folder, host = cluster.folder, socket.gethostname().split(".")[0]
    for name in ("munge", "state", *(f"spool-{node}" for node in cluster.nodes)):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    port, *ports = _free_ports(NODES + 1)
    nodes = [NODE.format(number=number, host=host, port=port) for number, port in enumerate(ports, start=1)]
    text = CONFIGURATION.format(host=host, folder=folder, port=port, nodes="\n".join(nodes))
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    gpus = [f"NodeName=n[1-{NODES}] Name=gpu File={device}\n" for device in STAND_INS]
    (folder / "gres.conf").write_text("".join(gpus), encoding="utf-8")


def _daemons(cluster: Slurm) -> list[list[str]]:
    """Each in the foreground, so that its process is known."""
    munge = cluster.folder / "munge"
    files = ("key-file=key", "socket=socket", "pid-file=pid", "log-file=log", "seed-file=seed")
    options = [f"--{name}={munge / file}" for name, file in (file.split("=") for file in files)]
    return [
        ["munged", "--foreground", "--force", *options],
        ["slurmctld", "-D", "-i", "-f", str(cluster.folder / "slurm.conf")],
        *(["slurmd", "-D", "-f", str(cluster.folder / "slurm.conf"), "-N", node] for node in cluster.nodes),
    ]


def _start(cluster: Slurm, command: list[str]) -> subprocess.Popen[bytes]:
    log = (cluster.folder / f"{command[0]}.out").open("ab")
    with log:
        program = shutil.which(command[0], path=PATH)
        assert program is not None
        return subprocess.Popen(
            [program, *command[1:]],
            env=cluster.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cancel(cluster: Slurm) -> None:
    """No job outlives the cluster."""
    subprocess.run(["scancel", "--user=root"], env=cluster.environment, check=False, timeout=SECONDS)
    until = time.monotonic() + 20
    while time.monotonic() < until and cluster.run("squeue", "--noheader").strip():
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def claims(store: Path) -> list[dict[str, Any]]:
    """Of the members at work in a store, read without kernreg."""
    found = []
    for path in sorted((store / "claims").glob("*")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return found
