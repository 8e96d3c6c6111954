"""Every input that a campaign kept, every one that once was a defect, and the seeds: accepted or refused, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from parsers import PARSERS, Parser
from seeds import seeds
from warm import folder
from watch import emptied, outcome

__all__ = ["folder"]

HERE = Path(__file__).resolve().parent
REGRESSIONS = sorted((HERE / "regressions").glob("*/*"))


@pytest.fixture(autouse=True)
def quiet_warnings(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """NumPy warns of old headers, which is no defect."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def replayed(parser: Parser, contents: list[bytes], folder: Path) -> int:
    """How many of the inputs are accepted; a defect is raised, with the input."""
    accepted = 0
    for content in contents:
        try:
            accepted += outcome(parser.parse, content, emptied(folder)) is None
        except BaseException as error:
            raise AssertionError(f"{parser.name}: {type(error).__name__}: {error} on {content!r}") from error
    return accepted


@pytest.mark.parametrize("name", PARSERS)
def test_seeds_reach_what_they_are_for(name: str, folder: Path) -> None:
    assert replayed(PARSERS[name], seeds()[name], folder) > 0, (
        "no seed is accepted: the campaign begins at a closed door"
    )


@pytest.mark.parametrize("name", PARSERS)
def test_corpus(name: str, folder: Path) -> None:
    contents = [path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*"))]
    assert contents, f"the corpus of {name} is missing"
    replayed(PARSERS[name], contents, folder)


@pytest.mark.parametrize("path", REGRESSIONS, ids=[f"{path.parent.name}-{path.name}" for path in REGRESSIONS])
def test_what_once_was_a_defect(path: Path, folder: Path) -> None:
    replayed(PARSERS[path.parent.name], [path.read_bytes()], folder)


def test_the_corpus_is_small() -> None:
    files = [
        path for name in ("corpus", "regressions") for path in (HERE / name).rglob("*") if path.is_file()
    ]
    assert sum(path.stat().st_size for path in files) < 10**6
    assert {path.parent.name for path in files} <= set(PARSERS)
