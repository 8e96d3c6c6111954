"""kernreg symmetry: the table, its files, and what it says when measurement and theory differ."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from kernreg.cli.main import main
from kernreg.errors import KernregError
from kernreg.symmetryfigure import heat_map, save
from kernreg.symmetrymatrix import FUNCTIONAL, Cell

SMALL = ("--depth", "1", "--size", "4x4x2", "--backend", "reference")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["symmetry", *map(str, arguments)])


def test_the_table_and_its_files(tmp_path: Path) -> None:
    result = run(*SMALL, "--out", tmp_path / "new")
    assert result.exit_code == 0, result.output
    for said in (
        "nngp",
        "ntk",
        "gap-circular",
        "vec-patch",
        FUNCTIONAL,
        "162 of 162 cells as the theory has them",
    ):
        assert said in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("rotation")).split()
    assert row[1] == "inv"
    assert "inv" not in row[2:]
    with (tmp_path / "new/symmetry.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 162
    assert {row["agrees"] for row in rows} == {"1"}
    assert all(float(row["change"]) >= 0 for row in rows)
    assert (tmp_path / "new/symmetry.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = (tmp_path / "new/symmetry.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "pixel-rotations" in text


def test_one_architecture_one_kernel_as_json() -> None:
    options = (
        "--arch",
        "vec",
        "--filter",
        2,
        "--stride",
        2,
        "--padding",
        "VALID",
        "--patch",
        2,
        "--kernel",
        "ntk",
    )
    result = run(*options, *SMALL, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["ok"]
    cells = {cell["transform"]: cell for cell in facts["cells"]}
    assert len(cells) == len(facts["cells"]) == 9
    assert cells["patch-rotation"]["invariant"]
    assert not cells["shift"]["expected"]
    assert facts["architectures"]["vec"]["layers"][0]["strides"] == [2, 2]


def test_images_without_a_square_or_a_patch_leave_rows_out() -> None:
    facts = json.loads(
        run("--depth", 1, "--size", "3x5x1", "--backend", "reference", "--kernel", "nngp", "--json").stdout
    )
    assert facts["patch"] is None
    shown = {cell["transform"] for cell in facts["cells"]}
    assert not shown & {"transpose", "patch-rotation"}
    assert "vec-patch" not in facts["architectures"]


def test_a_difference_is_named_and_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kernreg.symmetrymatrix.invariant", lambda *arguments: True)
    options = ("--arch", "gap", *SMALL, "--kernel", "ntk", "--out", tmp_path)
    result = run(*options)
    assert result.exit_code == 1
    assert "differs: gap ntk under rotation: changes by" in result.stdout
    assert "expected invariant" in result.stdout
    assert not json.loads(run(*options, "--json").stdout)["ok"]


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (("--size", "6x6"), "is not the size of an image", 2),
        (("--size", "0x6x3"), "is not the size of an image", 2),
        (("--size", "1x1x3"), "more than one pixel", 1),
        (("--patch", "5"), "do not tile a grid of 6×6", 1),
        (("--padding", "VALID"), "--padding needs --arch", 2),
        (("--arch", "fcn", "--filter", "3"), "has no setting 'filter'", 1),
        (("--activation", "swish"), "unknown activation 'swish'", 1),
        (("--backend", "gpu"), "unknown backend 'gpu'", 1),
        (("--arch", "gap", "--padding", "VALID", "--filter", "5"), "VALID window", 1),
    ],
)
def test_refusals(arguments: tuple[str, ...], said: str, status: int) -> None:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert said in result.stderr.splitlines()[-1]


def test_a_figure_of_nothing_and_a_disk_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(KernregError, match="no cell"):
        heat_map([], tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(KernregError, match="cannot write"):
        save([Cell("fcn", "shift", "ntk", 0.0, True)], tmp_path / "file" / "folder")
