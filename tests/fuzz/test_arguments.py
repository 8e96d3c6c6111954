"""Command lines of any kind: a result, one line of an error (status 1) or of a misuse (status 2); never a traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from watch import REPLAYED

from kernreg.architecture import Architecture
from kernreg.cli.main import main
from kernreg.data import load
from kernreg.errors import KernregError
from kernreg.gram import build

STUDY = '[study]\nname = "a"\n[data]\nname = "synthetic"\nn = 4\ntest = 2\nsettings = {dimension = 16}\n'
FILES = (
    "a.npz",
    "bad.npz",
    "net.json",
    "bad.json",
    "a.gram",
    "a.toml",
    "bad.toml",
    "absent",
    "folder",
    "a.gram/gram.h5",
    ".",
)
GARBAGE: tuple[str, ...] = (
    "",
    "-",
    "--",
    "nan",
    "inf",
    "-1",
    "0",
    "1e999",
    "9" * 400,
    "0x10",
    "½",
    "٣",
    "a=b",
    "=",
    ":",
    "x" * 5000,
    "/",
    "..",
)
GARBAGE += (
    "a\nb",
    "\x1b[31m",
    "\udcff",
    "=1",
    "1:",
    ":1",
    "3x",
    "1x2x3",
    "4GiB",
    "dimension=1000000000000",
    "a=[[[[",
    "b=NaN",
)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with files of every kind, good and bad, in which all commands run; what would take minutes says so."""
    folder, before = tmp_path_factory.mktemp("arguments"), Path.cwd()
    patch = pytest.MonkeyPatch()
    os.chdir(folder)
    np.savez("a.npz", X=np.arange(24.0).reshape(8, 3), y=np.arange(8) % 2)
    network = Architecture.fcn(depth=1)
    Path("net.json").write_text(json.dumps(network.to_dict()), encoding="utf-8")
    Path("a.toml").write_text(STUDY + '[[architecture]]\npreset = "fcn"\ndepth = 1\n', encoding="utf-8")
    for name in ("bad.npz", "bad.json", "bad.toml"):
        Path(name).write_bytes(b"\xff\x00[")
    Path("folder").mkdir()
    build(folder / "a.gram", load("a.npz", n=5, test=2), network, "both", "reference", "float64")
    for function in (
        "kernreg.kernels.backends.compute",
        "kernreg.plan.seconds_per_pair",
        "kernreg.bench.bench",
        "kernreg.demo.demo",
        "kernreg.symmetrymatrix.symmetry_matrix",
        "kernreg.data.fetch._fetch_file",
        "kernreg.results.save",
        "kernreg.theoryfigure.save",
        "kernreg.studyreport.report",
        "kernreg.studyplan.timed",
        "kernreg.doctor.examine",
    ):
        patch.setattr(function, _takes_minutes)
    yield folder
    patch.undo()
    os.chdir(before)


def _takes_minutes(*arguments: Any, **named: Any) -> Any:
    raise KernregError("this would be computed")


def refused_in_one_line(result: Result) -> None:
    """What a user may see of a command that did not do what it was told."""
    error = result.exception
    assert error is None or isinstance(error, SystemExit), f"{type(error).__name__}: {str(error)[:300]}"
    assert result.exit_code in (0, 1, 2), result.output
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    if result.exit_code == 1:
        told = [line for line in lines if line.startswith("kernreg: error: ")]
        assert len(told) <= 1
        assert told or result.stdout, "a failure that says nothing"
    if result.exit_code == 2:
        assert sum(line.startswith("Usage: ") for line in lines) == 1
        help_instead = "Options:" in lines  # of a group without a command
        assert help_instead or sum(line.startswith("Error: ") for line in lines) == 1


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from leaves(inner, (*path, name))
    else:
        yield path, command


# A command that is not here would be run for real: give what it takes long for a place in `place` first.
TRIED = (
    "gram",
    "fit",
    "theory",
    "solve",
    "predict",
    "study",
    "info",
    "verify",
    "symmetry",
    "data",
    "bench",
    "doctor",
    "demo",
)
LEAVES = {path: command for path, command in leaves(main, ()) if path[0] in TRIED}


def value_of(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """Values of its type, of other types, and of none."""
    kind = parameter.type
    texts: list[st.SearchStrategy[str]] = [
        st.sampled_from(GARBAGE),
        st.text(max_size=8).filter(lambda t: "\0" not in t),
    ]
    if isinstance(kind, click.Choice):
        texts.append(st.sampled_from([str(choice) for choice in kind.choices]))
    elif isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        texts.append((st.integers(-2, 9) | st.integers() | st.floats()).map(str))
    else:
        texts.append(
            st.sampled_from(
                (*FILES, "digits", "synthetic", "reference", "cpu", "3", "3x5", "2:4", "loo", "dimension=16")
            )
        )
    return st.one_of(texts)


def options_of(command: click.Command) -> st.SearchStrategy[list[str]]:
    """Some of its options and arguments, in any order, and now and then one that it does not have."""
    parts: list[st.SearchStrategy[list[str]]] = [
        st.sampled_from([["--no-such-option"], ["--help"], ["extra"], ["--"]])
    ]
    for parameter in command.params:
        names = st.sampled_from([*parameter.opts, *parameter.secondary_opts])
        if isinstance(parameter, click.Argument):
            parts += [value_of(parameter).map(lambda value: [value])] * 3
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            parts.append(names.map(lambda name: [name]))
        elif parameter.name != "threads":
            parts.append(st.tuples(names, value_of(parameter)).map(list))
    return st.lists(st.one_of(parts), max_size=6).map(
        lambda several: [text for part in several for text in part]
    )


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
@settings(max_examples=60, deadline=None, derandomize=REPLAYED, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_arguments(path: tuple[str, ...], data: st.DataObject) -> None:
    arguments = data.draw(options_of(LEAVES[path]))
    out = (
        [] if "--out" in arguments or all(p.name != "out" for p in LEAVES[path].params) else ["--out", "out"]
    )
    refused_in_one_line(CliRunner().invoke(main, [*path, *arguments, *out]))


@settings(max_examples=60, deadline=None, derandomize=REPLAYED)
@given(
    st.lists(
        st.sampled_from((*TRIED, *FILES, *GARBAGE, "--json", "--version", "-h")) | st.text(max_size=5),
        max_size=4,
    )
)
@example(["symmetry", "--radius", "0"])
@example(["data", "show", "\udcff.npz"])
def test_any_words(words: list[str]) -> None:
    refused_in_one_line(CliRunner().invoke(main, [word for word in words if "\0" not in word]))


KNOWN = {
    "memory beyond float": (["gram", "--arch", "fcn", "--data", "a.npz", "--memory", "9" * 400 + "T"], 2),
    "depth beyond memory": (["gram", "--arch", "fcn", "--data", "a.npz", "--depth", "1000000000"], 1),
    "a window beyond 64 bits": (["gram", "--arch", "gap", "--data", "a.npz", "--filter", "9" * 30], 1),
    "a setting of another type": (
        ["gram", "--arch", "fcn", "--data", "synthetic", "--setting", "a=x", "--n", "3"],
        1,
    ),
    "a setting beyond memory": (
        ["gram", "--arch", "fcn", "--data", "synthetic", "--setting", "dimension=2000000000"],
        1,
    ),
    "a name that is no text": (["info", "\udcff.gram"], 1),
    "brackets": (["gram", "--arch", "fcn", "--data", "synthetic", "--setting", "a=" + "[" * 5000], 1),
}


@pytest.mark.parametrize("case", KNOWN)
def test_what_once_was_a_traceback(case: str) -> None:
    arguments, status = KNOWN[case]
    result = CliRunner().invoke(main, arguments)
    refused_in_one_line(result)
    assert result.exit_code == status, result.output


def test_a_network_whose_name_is_a_path_stays_in_the_folder(place: Path) -> None:
    description = {**Architecture.fcn(depth=1).to_dict(), "name": "../../../outside"}
    Path("escape.json").write_text(json.dumps(description), encoding="utf-8")
    command = [
        "gram",
        "--architecture",
        "escape.json",
        "--data",
        "a.npz",
        "--n",
        "3",
        "--test",
        "1",
        "--out",
        "deep/er",
        "--json",
    ]
    result = CliRunner().invoke(main, [*command, "--dry-run"])
    refused_in_one_line(result)
    from kernreg.cli.gram import store_name

    name = store_name(load("a.npz", n=3, test=1), Architecture.from_dict(description), "ntk", "float32")
    assert Path(name).name == name
    assert ".._" in name


def test_a_file_name_that_is_no_text_is_printed(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.npz")
    np.savez(path, X=np.arange(24.0).reshape(8, 3), y=np.arange(8) % 2)
    result = CliRunner().invoke(main, ["data", "show", str(path)])
    refused_in_one_line(result)
    assert result.exit_code == 0
    assert r"\udcff" in result.output
