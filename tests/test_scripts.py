"""Batch scripts: a shell runs them as they are meant, and queues again what a time limit has stopped; no Slurm is needed."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from kernreg.errors import KernregError
from kernreg.slurm import Resources, fit_script, gram_script, seconds

AWKWARD = 'it\'s a "folder" with $HOME, `date`, %A, #SBATCH & ünïcode\\'
TASK = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
# srun as a script sees it: it leaves its own options, and says what it was asked to start.
SRUN = """\
#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
pwd >"$RECORD.pwd"
printf '%s\\0' "$@" >"$RECORD.command"
exit "$STATUS"
"""
SCONTROL = """\
#!/bin/sh
echo "$@" >>"$RECORD.scontrol"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an awkward name; imitated programs of Slurm come before all others."""
    programs, here = tmp_path / "programs", tmp_path / AWKWARD
    programs.mkdir()
    here.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return here


def started(script: str, folder: Path, status: int, **variables: str) -> tuple[int, list[str], str]:
    """Run a script with the imitated programs; its status, the command it starts and what it asks of scontrol."""
    record = folder / "record"
    (folder / "script.sh").write_text(script)
    environment = {
        **os.environ,
        "STATUS": str(status),
        "RECORD": str(record),
        **TASK,
        **variables,
    }
    done = subprocess.run(
        ["bash", "script.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    command = Path(f"{record}.command").read_text().split("\0")[:-1]
    asked = Path(f"{record}.scontrol")
    return done.returncode, command, asked.read_text() if asked.exists() else ""


def test_scripts_are_short_and_nothing_of_a_path_stands_in_a_directive() -> None:
    text = gram_script(["--out", AWKWARD], 3, Resources(), Path("/") / AWKWARD)
    assert len(text.splitlines()) < 30
    assert max(map(len, text.splitlines())) < 300
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=[\w%.:@-]+)?", line) for line in directives)


def test_the_shell_starts_what_was_typed(tmp_path: Path, here: Path) -> None:
    options = ["--data", AWKWARD, "--out", "a b's.gram", "--setting", 'x="$(false)"', "", "--n", "5\n6"]
    text = gram_script(options, 2, Resources(cpus=3), here)
    status, command, asked = started(text, tmp_path, 0)
    assert status == 0
    assert asked == ""
    assert command[1:] == ["-m", "kernreg", "gram", *options, "--threads", "3", "--member", "slurm"]
    assert (tmp_path / "record.pwd").read_text().strip() == str(here)
    subprocess.run(["bash", "-n", "script.sh"], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("status", "restarts", "again"),
    [
        (0, "", False),
        (1, "", False),
        (2, "", False),
        (130, "", False),  # scancel: what a user ends stays ended
        (143, "", False),
        (75, "", True),
        (75, "40", True),
        (137, "", True),
        (137, "2", True),
        (137, "3", False),
        (138, "", True),
        (138, "3", False),
    ],
)
def test_what_is_queued_again(tmp_path: Path, here: Path, status: int, restarts: str, again: bool) -> None:
    text = gram_script([], 2, Resources(), tmp_path)
    variables = {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    assert started(text, tmp_path, status, **variables)[0] == status
    asked = tmp_path / "record.scontrol"
    assert asked.exists() == again
    if again:
        assert asked.read_text() == "requeue 7_3\n"


def test_fit_follows_in_the_same_folder(tmp_path: Path) -> None:
    text = fit_script(["a b.gram"], Resources(cpus=2), tmp_path / AWKWARD)
    assert re.search(r"^exec \S+ -m kernreg fit 'a b.gram' --threads 2$", text, flags=re.MULTILINE)
    assert "--array" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("0-0:0:7", 7),
    ],
)
def test_time_limits_as_slurm_reads_them(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "1h", "1:2:3:4", "-1", "1-", "1 2", "0:00", "90\n#SBATCH --x", "١"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(KernregError, match="--time"):
        seconds(text)


@pytest.mark.parametrize(("time", "notice"), [("1", 15), ("4", 60), ("8", 120), ("100", 120), ("0:02", 1)])
def test_the_notice_of_a_short_limit_is_shorter(time: str, notice: int) -> None:
    assert f"--signal=USR1@{notice}\n" in gram_script([], 1, Resources(time=time), Path())
