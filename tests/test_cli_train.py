"""`kernreg train` from the command line."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kernreg.cli.main import main
from kernreg.curvefile import load

SMALL = (
    "--data",
    "digits",
    "--n",
    "40",
    "--test",
    "20",
    "--width",
    "6",
    "--epochs",
    "20",
    "--sizes",
    "10,20",
)


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["train", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_a_curve_its_files_and_the_same_command_again(tmp_path: Path) -> None:
    arguments = ("--arch", "vec", "--depth", 1, *SMALL, "--replicates", 2, "--out", tmp_path)
    planned = run(*arguments, "--dry-run").stdout
    assert "14 networks on 10, 20, 40 rows" in planned  # (4 + 2 + 1) training sets
    assert "from the start" in planned
    assert not list(tmp_path.iterdir())
    ran = run(*arguments)
    assert "wrote" in ran.stdout
    (path,) = tmp_path.glob("*.npz")
    assert path.name.startswith("digits-vec-w6-")
    file = load(path)
    assert file.curve.samples.tolist() == [10, 20, 40]
    assert (file.curve.loss < 1.2).all()
    with (tmp_path / "train.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["loss"]) for row in rows] == file.curve.loss.tolist()
    facts = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))
    assert facts["loss"] == file.curve.loss.tolist()
    assert len(facts["networks"]) == 14
    for name in ("train.png", "train.svg"):
        assert (tmp_path / name).stat().st_size > 5_000
    assert not list(tmp_path.glob("*.training"))
    written = path.stat().st_mtime_ns
    again = json.loads(run(*arguments, "--json").stdout)
    assert again["loss"] == file.curve.loss.tolist()
    assert path.stat().st_mtime_ns == written


def test_settings_reach_the_training(tmp_path: Path) -> None:
    told = (
        "--optimizer",
        "adam",
        "--lr",
        "0.01",
        "--validation",
        "0.2",
        "--transform",
        "mirror",
        "--init-seed",
        3,
    )
    result = json.loads(run("--arch", "fcn", *SMALL, *told, "--flip", "--out", tmp_path, "--json").stdout)
    t = result["training"]
    assert (t["optimizer"], t["lr"], t["validation"], t["seed"], t["flip"]) == ("adam", 0.01, 0.2, 3, True)
    assert result["lr"] == 0.01
    assert result["data"]["transform"]["name"] == "mirror"
    assert "digits-mirror-fcn-w6" in result["path"]
    assert np.isfinite(result["loss"]).all()


def test_a_resnet(tmp_path: Path) -> None:
    small = ("--data", "digits", "--n", 16, "--test", 10, "--width", 2, "--epochs", 2, "--batch", 8)
    told = ("--resnet", "resnet10", "--readout", "flatten", *small, "--halvings", 0, "--out", tmp_path)
    result = json.loads(run(*told, "--json").stdout)
    assert result["architecture"] == {"name": "resnet10", "readout": "flatten", "stem": "cifar"}
    assert len(result["loss"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--arch", "fcn", "--sizes", "50"), "a size of 50 is beyond the 40 training rows"),
        (("--arch", "fcn", "--lr", "1e7"), "use a smaller lr"),
        (("--arch", "fcn", "--momentum", "1"), "momentum is 1.0"),
        (("--arch", "vec", "--filter", "9", "--padding", "VALID"), "does not fit"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    rest = [
        a for i, a in enumerate(SMALL) if "--sizes" not in (a, SMALL[i - 1]) or "--sizes" not in arguments
    ]
    result = run(*rest, *arguments, "--out", tmp_path, code=1)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("kernreg: error: ")
    assert said in last


def test_usage_errors(tmp_path: Path) -> None:
    assert "belong to --resnet" in run("--arch", "fcn", "--stem", "cifar", *SMALL, code=2).stderr
    assert "one of --arch" in run("--arch", "fcn", "--resnet", "resnet18", *SMALL, code=2).stderr
    assert "no list of sample counts" in run("--arch", "fcn", "--sizes", "10;20", code=2).stderr
    assert "neither a number nor auto" in run("--arch", "fcn", "--lr", "big", code=2).stderr


def test_a_machine_without_pytorch_is_told_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kernreg.finite")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("--arch", "fcn", *SMALL, "--out", tmp_path, code=1)
    assert "pip install 'kernreg[torch]'" in result.stderr.strip().splitlines()[-1]
