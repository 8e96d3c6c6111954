"""Exit statuses and error lines of the real process: what scripts and shells see."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from kernreg.cli.main import COMMANDS, Commands
from kernreg.errors import KernregError

KERNREG = [sys.executable, "-m", "kernreg"]


def process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*KERNREG, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def test_an_error_of_the_library_is_one_line_and_status_1(tmp_path: Path) -> None:
    done = process("info", "absent.gram", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("kernreg: error: ")
    assert done.stderr.count("\n") == 1


def test_json_on_stdout_progress_on_stderr(tmp_path: Path) -> None:
    command = (
        "gram",
        "--arch",
        "fcn",
        "--data",
        "digits",
        "--n",
        "9",
        "--test",
        "3",
        "--backend",
        "reference",
    )
    done = process(*command, "--threads", "1", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("{")
    assert "pair" in done.stderr


def test_a_wrong_command_line_is_status_2(tmp_path: Path) -> None:
    for arguments in (
        ("grams",),
        ("gram", "--memory", "4GB?"),
        ("gram", "--arch"),
        ("gram", "--data", "digits"),
    ):
        done = process(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "Error: " in done.stderr
        assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_finished_tiles_and_is_status_130(tmp_path: Path) -> None:
    """vec on the reference: a tile of 2 rows, then one of 698 that takes minutes and is interrupted."""
    command = [
        "gram",
        "--arch",
        "vec",
        "--depth",
        "1",
        "--data",
        "digits",
        "--test",
        "0",
        "--backend",
        "reference",
    ]
    small = [*KERNREG, *command, "--out", "a.gram", "--n", "2"]
    subprocess.run(small, check=True, cwd=tmp_path, capture_output=True)
    large = [*KERNREG, *command, "--out", "a.gram", "--n", "700"]
    with subprocess.Popen(
        large, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        while running.poll() is None and len(list(tmp_path.glob("a.gram/tiles/*.h5"))) < 2:
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()
    assert running.returncode == 130
    assert said.splitlines()[-1].startswith("kernreg: error: interrupted; finished tiles are kept")
    assert "Traceback" not in said
    done = process("verify", "a.gram", "--samples", "0", cwd=tmp_path)
    assert "1 are not computed yet" in done.stdout


class Failing(Commands):
    """A group whose one command fails in a given way."""

    failure: BaseException

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["fail"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        def fail() -> None:
            raise self.failure

        return click.Command("fail", callback=fail)


@pytest.mark.parametrize(
    ("failure", "said", "status"),
    [
        (KernregError("row 3\n is bad"), "row 3 is bad", 1),
        (NotImplementedError("backend 'cpu' lacks abs"), "backend 'cpu' lacks abs", 1),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full; finished tiles are kept", 1),
        (OSError(errno.EACCES, "Permission denied", "a.gram"), "Permission denied: a.gram", 1),
        (MemoryError(), "not enough memory", 1),
        (KeyboardInterrupt(), "interrupted; finished tiles are kept", 130),
    ],
)
def test_failures_become_one_line(failure: BaseException, said: str, status: int) -> None:
    group = Failing("kernreg")
    group.failure = failure
    result = CliRunner().invoke(group, ["fail"])
    assert result.exit_code == status
    assert result.stderr.startswith(f"kernreg: error: {said}")
    assert result.stderr.count("\n") == 1


def test_sigterm_is_one_line_too_and_handlers_are_given_back() -> None:
    class Ended(Failing):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            def end() -> None:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)

            return click.Command("fail", callback=end)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    result = CliRunner().invoke(Ended("kernreg"), ["fail"])
    assert result.exit_code == 130
    assert result.stderr.startswith("kernreg: error: interrupted; finished tiles are kept")
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_signal_inside_of_a_callback_is_not_lost() -> None:
    class Lost(Failing):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            def lose() -> None:
                thing = Failing("thing")
                kept = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
                del thing
                time.sleep(60)
                assert kept() is None

            return click.Command("fail", callback=lose)

    result = CliRunner().invoke(Lost("kernreg"), ["fail"])
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


def test_a_signal_on_the_way_in_is_no_traceback() -> None:
    code = "import os, signal, kernreg.__main__ as m\nimport importlib\n"
    code += "class Stop:\n def find_spec(self, name, path=None, target=None):\n"
    code += "  if name == 'kernreg.cli.main': os.kill(os.getpid(), signal.SIGINT)\n"
    code += "import sys; sys.meta_path.insert(0, Stop()); m.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_a_bug_is_not_dressed_up_as_a_users_error() -> None:
    group = Failing("kernreg")
    group.failure = ZeroDivisionError("a bug")
    assert isinstance(CliRunner().invoke(group, ["fail"]).exception, ZeroDivisionError)


def test_commands_are_the_files_of_the_folder() -> None:
    folder = Path(__file__).resolve().parent.parent / "cli"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__", "main", "arguments", "output"} == set(
        COMMANDS
    )
