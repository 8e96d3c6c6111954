"""Batch scripts for Slurm: an array whose members fill one store, and a job that waits for it. Nothing here computes.

What a user names is either checked against what Slurm's directives can hold, or quoted for the shell; no directive holds a path,
since jobs are submitted from the folder of their logs.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join, quote

from kernreg.errors import KernregError

NOTICE_SECONDS = 120  # SIGUSR1 ahead of the time limit: a few tiles of half a minute
KILLED_AT_MOST = 3  # times that a killed member is started again
MEMORY_MARGIN = (
    1.1  # of what kernreg is told to use: its plan is an estimate, and Slurm kills above the limit
)
MEMBERS = """\
# Members fill one Gram matrix together, each its part, then what others left. Started again, whole or in part
# (sbatch --array=2,5 on this file), they go on where they were."""
# The job number of an array's last task names the whole array, so a task is named by both its numbers.
AGAIN = f"""\
status=$?
task="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
# 75: stopped ahead of the time limit, with all that was computed committed. Otherwise it was killed, as for want of
# memory (137), or told of the limit before it had begun (138).
case $status in
  75) scontrol requeue "$task" ;;
  137 | 138) [ "${{SLURM_RESTART_COUNT:-0}}" -ge {KILLED_AT_MOST} ] || scontrol requeue "$task" ;;
esac
exit "$status"
"""
_SECONDS = (86400, 3600, 60, 1)


@dataclass(frozen=True)
class Resources:
    """What Slurm is asked for, for every member and for a job that follows.

    Attributes:
        nodes: of one member of the array, with one process on each.
        gpus: of a node, "2" or "a100:2".
        cpus: of a process.
        memory: bytes of a node that kernreg may use.
        time: limit as Slurm writes it, 90, 1:30:00 or 2-12.
        partition, account: names.
    """

    nodes: int = 1
    gpus: str | None = None
    cpus: int | None = None
    memory: int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None

    def __post_init__(self) -> None:
        if self.gpus is not None and not re.fullmatch(r"(?:[A-Za-z][\w.-]*:)?[1-9][0-9]*", self.gpus):
            raise KernregError(f"--gpus is a number of GPUs of a node, as 2 or a100:2, not {self.gpus!r}")
        if self.time is not None:
            seconds(self.time)
        for option in ("partition", "account"):
            value = getattr(self, option)
            if value is not None and not re.fullmatch(r"[\w][\w.,@+-]*", value, flags=re.ASCII):
                raise KernregError(f"--{option} {value!r} is no name that Slurm knows")

    def directives(self, job: str, nodes: int) -> list[str]:
        """Options of sbatch, those that every job has."""
        asked = {
            "job-name": job,
            "nodes": nodes,
            "ntasks-per-node": 1,
            "gres": None if self.gpus is None else f"gpu:{self.gpus}",
            "cpus-per-task": self.cpus,
            "mem": None if self.memory is None else f"{math.ceil(self.memory * MEMORY_MARGIN / 2**20)}M",
            "time": self.time,
            "partition": self.partition,
            "account": self.account,
        }
        given = [f"--{option}={value}" for option, value in asked.items() if value is not None]
        return [*given, "--requeue", "--open-mode=append"]


def seconds(time: str) -> int:
    """Of a time limit as Slurm writes it: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
        KernregError: not so, or nothing.
    """
    match = re.fullmatch(r"(?:(\d{1,5})-)?(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?", time, flags=re.ASCII)
    total = 0
    if match is not None:
        days, *parts = match.groups()
        clock = [int(part) for part in parts if part is not None]
        first = 1 if days is not None or len(clock) == 3 else 2
        total = int(days or 0) * _SECONDS[0] + sum(
            a * b for a, b in zip(clock, _SECONDS[first:], strict=False)
        )
    if total <= 0:
        raise KernregError(f"--time is minutes, or H:M:S, D-H or D-H:M:S, such as 90 or 1-12, not {time!r}")
    return total


def gram_script(options: Sequence[str], members: int, resources: Resources, folder: Path) -> str:
    """The script of the array.

    Args:
        options: of `kernreg gram`, as typed in `folder`.
        members: of the array.
        resources: of each.
        folder: that relative paths start from.
    """
    limit = NOTICE_SECONDS * 4 if resources.time is None else seconds(resources.time)
    directives = [
        *resources.directives("kernreg-gram", resources.nodes),
        f"--array=1-{members}",
        f"--signal=USR1@{min(NOTICE_SECONDS, max(1, limit // 4))}",
        "--output=gram-%A_%a.log",
    ]
    step = ["srun", "--kill-on-bad-exit=0"]
    if resources.cpus is not None:
        step.append(f"--cpus-per-task={resources.cpus}")
    command = [*step, *_kernreg("gram", *options, *_threads(options, resources)), "--member", "slurm"]
    return "\n".join([_script(directives), MEMBERS, _cd(folder), join(command), AGAIN])


def fit_script(options: Sequence[str], resources: Resources, folder: Path) -> str:
    """The script of the job that follows: `kernreg fit` with these options, as typed in `folder`."""
    directives = [*resources.directives("kernreg-fit", nodes=1), "--output=fit-%j.log"]
    command = _kernreg("fit", *options, *_threads(options, resources))
    return "\n".join([_script(directives), _cd(folder), f"exec {join(command)}", ""])


def sbatch(script: Path, after: str | None = None) -> str:
    """Submit a script from its folder; the number of the job. With `after`, a job, it starts when all of that succeeded.

    Raises:
        KernregError: no sbatch here, or it refuses, with what it says.
    """
    require_sbatch()
    follow = [] if after is None else [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"]
    command = ["sbatch", "--parsable", *follow, script.name]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise KernregError(f"sbatch refuses {script}: {said}")
    return done.stdout.strip().splitlines()[-1].split(";")[0]


def require_sbatch() -> None:
    """Raise KernregError, with the remedies, where there is no sbatch."""
    if shutil.which("sbatch") is None:
        raise KernregError(
            "sbatch is not on this machine: submit from a login node of the cluster, or print the scripts with --dry-run"
        )


def _script(directives: Sequence[str]) -> str:
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {directive}" for directive in directives)])


def _cd(folder: Path) -> str:
    return f"cd {quote(str(folder))} || exit 1"


def _kernreg(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kernreg", *arguments]


def _threads(options: Sequence[str], resources: Resources) -> list[str]:
    named = any(option == "--threads" or option.startswith("--threads=") for option in options)
    return [] if named or resources.cpus is None else ["--threads", str(resources.cpus)]
