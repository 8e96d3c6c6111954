"""kernreg submit: options checked before anything is queued, and one line where it cannot be; no Slurm is needed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import kernreg
from kernreg.cli.main import main

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
    program(folder / "sbatch", SBATCH)
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
