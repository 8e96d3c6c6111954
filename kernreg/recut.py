"""The cut of a store whose main file is gone, read back from its tiles.

A store that was extended has other edges than the command would give it that completes it, and one that several backends
filled knows more of them; a new main file that did not know would have no use for the finished tiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kernreg import gramfile
from kernreg.provenance import Rows, Settings, checksum
from kernreg.seal import Unsealed, read_seal

Blocks: TypeAlias = dict[int, tuple[int, int]]  # block → its first row, and the row behind its last one

_NAME = re.compile(r"(train|test)-(\d{5,})-(\d{5,})\.h5")


@dataclass(frozen=True)
class Remains:
    """What the tiles in a folder say of the store that they belong to.

    Attributes:
        train, test: edges of the blocks of rows, from 0 on as far as they are known.
        backends: that computed them, by name.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]
    backends: tuple[str, ...]


def remains(folder: Path, settings: Settings, rows: Mapping[str, Rows]) -> Remains:
    """Of the tiles in a store's folder that are of these settings and rows; others and damaged ones say nothing."""
    train: Blocks = {}
    test: Blocks = {}
    backends = set()
    for part, i, j, facts in _tiles(folder / gramfile.TILES):
        if not _belongs(part, facts, settings, rows):
            continue
        (top, bottom), (left, right) = facts["rows"], facts["columns"]
        (test if part == "test" else train)[i] = (top, bottom)
        train[j] = (left, right)
        backends.add(facts["backend"])
    return Remains(_edges(train), _edges(test), tuple(sorted(backends)))


def _tiles(folder: Path) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    for path in sorted(folder.glob("*.h5")):
        name = _NAME.fullmatch(path.name)
        if name is None or not path.is_file():
            continue
        try:
            yield name[1], int(name[2]), int(name[3]), read_seal(path)
        except (Unsealed, OSError):
            continue


def _belongs(part: str, facts: Mapping[str, Any], settings: Settings, rows: Mapping[str, Rows]) -> bool:
    wanted = {
        "format": gramfile.FORMAT,
        "format_version": gramfile.FORMAT_VERSION,
        "file": "tile",
        "part": part,
        "kernels": list(settings.kernels),
        "dtype": settings.dtype,
        "architecture_digest": settings.architecture.digest,
    }
    if any(facts.get(field) != value for field, value in wanted.items()):
        return False
    sides = (("rows", rows[part]), ("columns", rows["train"]))
    return all(
        facts[side][1] <= len(known) and facts[f"{side}_hash"] == checksum(known.hashes[slice(*facts[side])])
        for side, known in sides
    )


def _edges(blocks: Blocks) -> tuple[int, ...]:
    edges = [0]
    while True:
        last = len(edges) - 1
        first, stop = blocks.get(last, (-1, 0))
        if first != edges[-1]:  # unknown, but for where the next one begins
            stop = blocks.get(last + 1, (0, 0))[0]
        if stop <= edges[-1]:
            return tuple(edges)
        edges.append(stop)
