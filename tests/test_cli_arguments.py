"""The types of arguments and the texts of the command line."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from kernreg.architecture import Architecture
from kernreg.cli.arguments import (
    architecture_from,
    architecture_options,
    byte_size,
    ridge,
    sample_window,
    threads,
    window_size,
)
from kernreg.cli.output import echo_json, seconds_text, table
from kernreg.kernels.threads import count


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 * 2**30),
        ("4 gib", 4 * 2**30),
        ("500MB", 500 * 10**6),
        ("1.5T", 3 * 2**39),
        ("1k", 1024),
        ("12", 12),
        ("12B", 12),
    ],
)
def test_byte_size(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["4GB?", "", "GiB", "-4GiB", "4 4GiB", "4XB", "1e9", "nan", "4ib"])
def test_malformed_byte_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        byte_size(text)


def test_window_size() -> None:
    assert window_size("3") == (3, 3)
    assert window_size("3x5") == (3, 5)
    for text in ("0", "3x", "x3", "3x0", "-3", "3.0", "three"):
        with pytest.raises(click.BadParameter):
            window_size(text)


def test_sample_window() -> None:
    assert sample_window("100:1000") == (100, 1000)
    assert sample_window("100:") == (100, math.inf)
    assert sample_window(":1000") == (1, 1000)
    for text in ("100", "1000:100", "5:5", "a:b", "-5:7", ""):
        with pytest.raises(click.BadParameter):
            sample_window(text)


def test_ridge() -> None:
    assert ridge("1e-6") == 1e-6
    assert ridge("0") == 0
    assert ridge("loo") == "loo"
    for text in ("-1", "nan", "inf", "LOO?", ""):
        with pytest.raises(click.BadParameter):
            ridge(text)


@click.command()
@architecture_options
def show(**given: Any) -> None:
    click.echo(json.dumps(architecture_from(given).to_dict()))


def shown(*arguments: str) -> Architecture:
    result = CliRunner().invoke(show, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return Architecture.from_dict(json.loads(result.output))


def test_presets_and_their_settings() -> None:
    assert shown("--arch", "CNN-GAP") == Architecture.gap()
    assert shown("--arch", "fcn", "--depth", "5", "--activation", "erf") == Architecture.fcn(
        5, activation="erf"
    )
    given = ("--filter", "3x5", "--stride", "2", "--padding", "circular", "--weight-variance", "1.5")
    readout = ("--bias-variance", "0", "--readout-weight-variance", "1", "--readout-bias-variance", "0.5")
    assert shown("--arch", "lcn", *given, *readout) == Architecture.lcn(
        filter=(3, 5),
        stride=(2, 2),
        padding="CIRCULAR",
        weight_variance=1.5,
        bias_variance=0.0,
        readout_weight_variance=1.0,
        readout_bias_variance=0.5,
    )


def test_architecture_file(tmp_path: Path) -> None:
    file = tmp_path / "net.json"
    file.write_text(json.dumps(Architecture.vec(depth=2).to_dict()))
    assert shown("--architecture", str(file)) == Architecture.vec(depth=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--arch {fcn,lcn"),
        (("--arch", "resnet"), "'resnet' is not one of"),
        (("--arch", "gap", "--filter", "big"), "is not a window"),
        (("--arch", "gap", "--architecture", "FILE"), "give one of"),
        (("--architecture", "FILE", "--bias-variance", "0"), "--bias-variance belongs to --arch"),
        (("--architecture", "missing.json"), "does not exist"),
    ],
)
def test_contradictions_are_usage_errors(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    file = tmp_path / "net.json"
    file.write_text(json.dumps(Architecture.vec(depth=2).to_dict()))
    result = CliRunner().invoke(show, [str(file) if a == "FILE" else a for a in arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_table_and_texts() -> None:
    assert (
        table(("arch", "n"), [("fcn", "5"), ("gap", "1437")], left=("arch",))
        == "arch     n\nfcn      5\ngap   1437"
    )
    assert [seconds_text(s) for s in (0.04, 9.5, 59.4, 59.6, 3599.7, 37000, 200000)] == [
        "0.0 s",
        "9.5 s",
        "59 s",
        "1 min 0 s",
        "1 h 0 min",
        "10 h 16 min",
        "2 d 7 h",
    ]


def test_json_has_no_nan_and_takes_numpy(capsys: pytest.CaptureFixture[str]) -> None:
    echo_json({"a": np.array([1.0, np.nan]), "b": (np.float32(0.5), math.inf), "c": Path("x"), 4: None})
    assert json.loads(capsys.readouterr().out) == {"a": [1.0, None], "b": [0.5, None], "c": "x", "4": None}


def test_threads_are_those_of_the_kernels_and_their_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("KERNREG_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    for name in names:
        monkeypatch.setenv(name, "7")  # and put back afterwards

    @click.command()
    @threads
    def command() -> None:
        click.echo(f"{count()} {[os.environ[name] for name in names]}")

    assert CliRunner().invoke(command, ["--threads", "3"]).output == "3 ['3', '3', '3', '3']\n"
