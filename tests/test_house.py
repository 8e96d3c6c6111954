"""The house keeps its own rules: links, light imports, public names, help, short files, live links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import kernreg
from kernreg.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"numba", "h5py", "sklearn", "matplotlib", "scipy", "pooch", "tqdm", "click"}
GPU = {"torch", "triton", "cupy", "jax", "dask", "distributed"}


def python(code: str) -> str:
    """What a fresh interpreter prints; in this one pytest and other tests have imported everything."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    return done.stdout


@pytest.mark.parametrize("name", ["cli", "data", "kernels"])
def test_link_is_relative_and_leads_to_the_real_folder(name: str) -> None:
    link = ROOT / "kernreg" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert (ROOT / name / "__init__.py").is_file()
    assert not (ROOT / name).is_symlink()


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import kernreg", HEAVY | GPU),
        ("import kernreg.architecture", HEAVY | GPU),
        ("from kernreg.cli.main import main", (HEAVY | GPU) - {"click"}),
    ],
)
def test_import_is_light(statement: str, forbidden: set[str]) -> None:
    loaded = python(f"{statement}\nimport sys\nprint(*sys.modules)").split()
    assert forbidden.isdisjoint(loaded)


def test_help_of_the_group_is_light() -> None:
    show = "main(['--help'], standalone_mode=False)"
    loaded = python(f"import sys\nfrom kernreg.cli.main import main\n{show}\nprint(*sys.modules)")
    assert ((HEAVY | GPU) - {"click"}).isdisjoint(loaded.splitlines()[-1].split())


def test_no_public_name_imports_a_gpu_library() -> None:
    loaded = python(
        "import sys, kernreg\n[getattr(kernreg, n) for n in kernreg.__all__]\nprint(*sys.modules)"
    )
    assert GPU.isdisjoint(loaded.split())


def test_public_names_resolve_and_an_unknown_one_does_not() -> None:
    for name in kernreg.__all__:
        assert getattr(kernreg, name) is not None
    assert set(kernreg.__all__) == set(dir(kernreg))
    with pytest.raises(AttributeError, match="grams"):
        kernreg.__getattr__("grams")


@pytest.mark.parametrize(
    "first", ["kernreg.gram", "kernreg.curve", "kernreg.store", "kernreg.data", "kernreg.cli.gram"]
)
def test_gram_is_the_function_whatever_was_imported_before(first: str) -> None:
    """The module kernreg.gram has the name of the function that users call."""
    assert python(f"import {first}, kernreg\nprint(type(kernreg.gram).__name__)").strip() == "function"


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_command_has_help(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 3


@pytest.mark.parametrize("command", COMMANDS)
def test_command_stands_in_the_readme(command: str) -> None:
    assert f"`kernreg {command}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def sources() -> list[Path]:
    folders = ("kernreg", "kernels", "cli", "data", "tests", "benchmarks", "examples")
    return sorted(path for folder in folders for path in (ROOT / folder).glob("*.py"))


def test_no_file_is_a_giant_and_none_is_called_utils() -> None:
    assert len(sources()) > 20
    for path in sources():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 330, path
        assert path.stem not in {"utils", "util", "core", "base", "helpers", "common", "misc"}, path


@pytest.mark.parametrize(
    "page", [path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]]
)
def test_relative_links_of_a_page_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_everything_in_the_version_agrees() -> None:
    assert f"\nversion: {kernreg.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {kernreg.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
