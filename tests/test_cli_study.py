"""`kernreg study` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from studies import TINY

from kernreg.cli.main import main

SMALL = (
    TINY[: TINY.index('[[architecture]]\npreset = "gap"')]
    .replace(', "mirror"', "")
    .replace("n = 48", "n = 24")
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["study", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_plan_run_status_report(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = run("run", file, "--out", out, "--dry-run").stdout
    assert "left: 6 Gram matrices, 7,560 pairs" in planned
    assert "on this machine" in planned
    assert not out.exists()
    status = run("status", file, "--out", out).stdout
    assert status.count("absent") == 6
    assert status.count("0 of 1") == 6
    ran = run("run", file, "--out", out)
    assert "✓ one: fcn · rotation and fcn · none" in ran.stdout
    assert f"wrote {out / 'tiny' / 'report.html'}" in ran.stdout
    assert "everything is measured" in run("status", file, "--out", out).stdout
    (out / "tiny" / "report.html").unlink()
    assert run("report", file, "--out", out).stdout == ran.stdout
    assert (out / "tiny" / "report.html").is_file()
    assert (out / "tiny" / "study.toml").read_text(encoding="utf-8") == SMALL


def test_json_for_machines(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert json.loads(run("run", file, "--out", out, "--dry-run", "--json").stdout)["seconds"] > 0
    facts = json.loads(run("run", file, "--out", out, "--json").stdout)
    assert facts["ok"] is True
    assert len(facts["curves"]) == 6
    assert facts["files"][0].endswith("report.html")
    assert json.loads(run("status", file, "--out", out, "--json").stdout)["pairs"] == 0


def test_curves_that_must_be_one_and_are_not_fail(file: Path, tmp_path: Path) -> None:
    pair = '[[coincide]]\nfirst = {architecture = "fcn"}\nsecond = {architecture = "vec"}\n'
    file.write_text(SMALL + pair, encoding="utf-8")
    result = run("run", file, "--out", tmp_path / "out", code=1)
    assert "✗ NOT one: fcn · none and vec · none" in result.stdout
    assert "verdict red" in (tmp_path / "out" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert run("report", file, "--out", tmp_path / "out", code=1)


def test_a_wrong_file_is_one_line(file: Path, tmp_path: Path) -> None:
    file.write_text(SMALL.replace("preset", "prest", 1), encoding="utf-8")
    for name in ("run", "status", "report"):
        result = run(name, file, "--out", tmp_path / "out", code=1)
        assert result.stderr.startswith("kernreg: error: ")
        assert result.stderr.count("\n") == 1
        assert "[[architecture]] 1" in result.stderr
    result = run("run", tmp_path / "absent.toml", code=1)
    assert "absent.toml: No such file" in result.stderr


def test_a_report_of_nothing_says_so(file: Path, tmp_path: Path) -> None:
    assert "run it first" in run("report", file, "--out", tmp_path / "out", code=1).stderr


def test_help_of_every_subcommand() -> None:
    for name in ("run", "status", "report"):
        assert "--out" in run(name, "--help").stdout
