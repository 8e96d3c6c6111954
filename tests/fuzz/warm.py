"""What a parser imports at its first use is imported before it is watched."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from parsers import PARSERS
from seeds import seeds
from watch import emptied

from kernreg.errors import KernregError


@cache
def warm(parent: Path) -> Path:
    """A folder for inputs, once every parser has read its seeds in it."""
    folder = parent / "input"
    folder.mkdir(exist_ok=True)
    for name, parser in PARSERS.items():
        for content in seeds()[name]:
            try:
                parser.parse(content, emptied(folder))
            except KernregError:
                continue
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warm(tmp_path_factory.getbasetemp())
