"""kernreg submit: scripts that a shell runs as meant, checked options, and one line where it cannot be; no Slurm is needed."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kernreg
from kernreg.cli.main import main
from kernreg.errors import KernregError
from kernreg.slurm import Resources, fit_script, gram_script, seconds

FCN = ("submit", "gram", "--arch", "fcn", "--data", "digits", "--n", 20, "--test", 9)
AWKWARD = 'it\'s a "folder" with $HOME, `date`, %A, #SBATCH & ünïcode\\'
SBATCH = """\
#!/bin/sh
printf '%s\\n' "$PWD" "$@" >>"$RECORD"
echo "$((100 + $(grep -c parsable "$RECORD")));cluster"
"""
REFUSING = """\
#!/bin/sh
echo 'sbatch: error: invalid partition specified: nowhere' >&2
exit 1
"""
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


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / AWKWARD).mkdir()
    monkeypatch.chdir(tmp_path / AWKWARD)
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs in front of all others, with an sbatch that takes everything."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
        program(folder / name, text)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def said(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def started(script: str, folder: Path, status: int, **variables: str) -> tuple[int, list[str], str]:
    """Run a script with the imitated programs; its status, the command it starts and what it asks of scontrol."""
    record = folder / "record"
    (folder / "script.sh").write_text(script)
    environment = {
        **os.environ,
        "STATUS": str(status),
        "RECORD": str(record),
        "SLURM_JOB_ID": "7",
        **variables,
    }
    done = subprocess.run(
        ["bash", "script.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    command = Path(f"{record}.command").read_text().split("\0")[:-1]
    asked = Path(f"{record}.scontrol")
    return done.returncode, command, asked.read_text() if asked.exists() else ""


def test_a_dry_run_prints_both_scripts_and_submits_nothing() -> None:
    options = (
        "--array",
        3,
        "--nodes",
        2,
        "--gpus",
        "a100:4",
        "--cpus",
        8,
        "--memory",
        "4GiB",
        "--time",
        "1-12",
    )
    text = said(*FCN, *options, "--partition", "debug", "--account", "group", "--after", "fit", "--dry-run")
    for directive in (
        "--array=1-3",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gres=gpu:a100:4",
        "--cpus-per-task=8",
        "--mem=4506M",
        "--time=1-12",
        "--partition=debug",
        "--account=group",
        "--requeue",
        "--signal=USR1@120",
        "--output=gram-%A_%a.log",
    ):
        assert f"#SBATCH {directive}\n" in text
    assert text.count("#!/bin/bash\n") == 2
    assert "--threads 8" in text
    assert "--memory 4GiB" in text
    assert not list(Path().iterdir())


def test_scripts_are_short_and_nothing_of_a_path_stands_in_a_directive() -> None:
    text = gram_script(["--out", AWKWARD], 3, Resources(), Path("/") / AWKWARD)
    assert len(text.splitlines()) < 30
    assert max(map(len, text.splitlines())) < 300
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=[\w%.:@-]+)?", line) for line in directives)


def test_the_shell_starts_what_was_typed(tmp_path: Path, programs: Path) -> None:
    folder = tmp_path / AWKWARD
    options = ["--data", AWKWARD, "--out", "a b's.gram", "--setting", 'x="$(false)"', "", "--n", "5\n6"]
    text = gram_script(options, 2, Resources(cpus=3), folder)
    status, command, asked = started(text, tmp_path, 0)
    assert status == 0
    assert asked == ""
    assert command[1:] == ["-m", "kernreg", "gram", *options, "--threads", "3", "--member", "slurm"]
    assert (tmp_path / "record.pwd").read_text().strip() == str(folder)
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
    ],
)
def test_what_is_queued_again(
    tmp_path: Path, programs: Path, status: int, restarts: str, again: bool
) -> None:
    text = gram_script([], 2, Resources(), tmp_path)
    variables = {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    assert started(text, tmp_path, status, **variables)[0] == status
    asked = tmp_path / "record.scontrol"
    assert asked.exists() == again
    if again:
        assert asked.read_text() == "requeue 7\n"


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


def test_submits_the_array_and_what_follows(programs: Path, tmp_path: Path) -> None:
    text = said(*FCN, "--array", 4, "--out", "runs", "--after", "fit --no-loo")
    (folder,) = Path("runs").glob("*.slurm")
    store = folder.with_suffix(".gram")
    for expected in (
        f"4 members of {store}: job 101; then fit: job 102",
        f"scripts and logs: {folder}",
        "squeue --jobs=101,102",
        f"kernreg info {store}",
        "scancel 101 102",
    ):
        assert expected in text
    here = Path.cwd() / folder
    assert (tmp_path / "record").read_text().splitlines() == [
        str(here),
        "--parsable",
        "gram.sh",
        str(here),
        "--parsable",
        "--dependency=afterok:101",
        "--kill-on-invalid-dep=yes",
        "fit.sh",
    ]
    assert (
        "--arch fcn --data digits --n 20 --test 9 --out runs --member slurm"
        in (folder / "gram.sh").read_text()
    )
    assert f"kernreg fit {store} --no-loo --out runs\n" in (folder / "fit.sh").read_text()
    assert not store.exists()  # the first member creates it, on the machine that computes


def test_tells_machines_too(programs: Path) -> None:
    facts = json.loads(said(*FCN, "--array", 2, "--nodes", 3, "--json"))
    assert facts["jobs"] == ["101"]
    assert facts["members"] == 6
    assert Path(facts["folder"], "gram.sh").exists()


def test_a_refusal_of_sbatch_is_shown(programs: Path) -> None:
    program(programs / "sbatch", REFUSING)
    result = run(*FCN, "--partition", "nowhere")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("kernreg: error: sbatch refuses")
    assert "invalid partition specified: nowhere" in result.stderr


def test_without_sbatch_the_remedy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    result = run(*FCN)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "kernreg: error: sbatch is not on this machine: submit from a login node of the cluster, or print the scripts "
        "with --dry-run"
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (("--n", 5000), 1, "1797"),
        (("--nn", 5), 2, "No such option"),
        (("--n", "many"), 2, "'many' is not a valid integer"),
        (("extra",), 2, "unexpected extra argument"),
        (("--arch", "resnet"), 2, "'resnet' is not one of"),
        (("--filter", 3), 1, "has no setting 'filter'"),
        (("--backend", "gpu"), 1, "unknown backend 'gpu'"),
        (("--memory", "1MB"), 1, "memory"),
        (("--memory", "much"), 2, "no amount of memory"),
        (("--member", "1/2"), 2, "--array"),
        (("--array", 0), 2, "0 is not in the range"),
        (("--time", "soon"), 1, "--time is"),
        (("--gpus", "all"), 1, "--gpus is"),
        (("--partition", "a\n#SBATCH --uid=0"), 1, "no name that Slurm knows"),
        (("--account", "a b"), 1, "no name that Slurm knows"),
        (("--after", "theory"), 2, "--after is fit"),
        (("--after", ""), 2, "--after is fit"),
        (("--after", "fit --ridge -1"), 2, "ridge"),
        (("--after", "fit 'a"), 2, "No closing quotation"),
        (("--after", "fit other.gram"), 2, "its store"),
    ],
)
def test_what_is_wrong_fails_before_anything_is_queued(
    programs: Path, tmp_path: Path, arguments: tuple[object, ...], status: int, expected: str
) -> None:
    result = run(*FCN, *arguments)
    assert result.exit_code == status, result.output
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "record").exists()
    assert not list(Path().iterdir())


def test_a_store_of_other_settings_is_refused_before_anything_is_queued(
    programs: Path, tmp_path: Path
) -> None:
    gram = ("gram", *FCN[2:], "--backend", "reference", "--out", "a.gram")
    said(*gram)
    result = run("submit", *gram, "--depth", 2)
    assert result.exit_code == 1
    assert "architecture" in result.stderr
    assert not (tmp_path / "record").exists()
    assert "job 101" in said("submit", *gram, "--n", 25)


def test_a_gpu_of_the_nodes_need_not_be_here(programs: Path) -> None:
    """But a network that its kernels do not cover is refused."""
    gap = ("submit", "gram", "--arch", "gap", "--data", "digits", "--n", 20, "--backend", "cuda")
    assert "job 101" in said(*gap)
    result = run(*gap[:2], "--arch", "fcn", *gap[4:])
    assert result.exit_code == 1
    assert "cuda" in result.stderr


def test_threads_of_the_jobs_are_not_of_this_process(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = said(*FCN, "--threads", 7, "--cpus", 9, "--dry-run")
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert "--threads 7" in text
    assert "--threads 9" not in text


def test_help_says_what_is_passed_on() -> None:
    assert "All options of `kernreg gram`" in said("submit", "gram", "--help")
    assert kernreg.__version__ in said("--version")
