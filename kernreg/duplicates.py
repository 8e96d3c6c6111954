"""Training rows that are the same input twice: without a ridge they leave K singular, and no solver can tell them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kernreg.store import GramStore

NAMED = 3  # groups, and rows of a group, that a sentence names


def duplicate_rows(store: GramStore, n: int | None = None) -> list[list[int]]:
    """Groups of training rows whose inputs are equal bit for bit, by the hashes that the store keeps.

    Args:
        store: open.
        n: among the first n rows only; default all.

    Returns:
        Increasing row numbers of the Gram, one list for each input that occurs more than once, by its first row.
    """
    return equal_rows(store.hashes_train[:n])


def equal_rows(hashes: npt.NDArray[np.uint8]) -> list[list[int]]:
    """Groups of equal rows of (n, 16) hashes, increasing, by their first row."""
    found: dict[bytes, list[int]] = {}
    for row, value in enumerate(np.ascontiguousarray(hashes)):
        found.setdefault(value.tobytes(), []).append(row)
    return [rows for rows in found.values() if len(rows) > 1]


def duplicates_sentence(store: GramStore, n: int | None = None) -> str:
    """Which training rows are the same image, as one sentence for an error; "" where all are different.

    Rows count from 0 in the Gram; their numbers in the data set follow where these differ.
    """
    groups = duplicate_rows(store, n)
    if not groups:
        return ""
    named = ", ".join(_named(store, rows) for rows in groups[:NAMED])
    more = f" and {len(groups) - NAMED} groups more" if len(groups) > NAMED else ""
    return f"training rows {named}{more} are the same input: remove the repetitions, or use a ridge"


def twin(store: GramStore, row: int) -> str:
    """Which earlier training row is the same input as this one, as a sentence; "" if none is."""
    same = np.flatnonzero((store.hashes_train[:row] == store.hashes_train[row]).all(axis=1))
    if not same.size:
        return ""
    first = int(same[0])
    numbers = f"{store.rows_train[row]} and {store.rows_train[first]}"
    return f"row {row} is a duplicate of row {first} (rows {numbers} of the data set)"


def _named(store: GramStore, rows: list[int]) -> str:
    source = [int(store.rows_train[row]) for row in rows]
    return _equal(rows) if source == rows else f"{_equal(rows)} (of the data set: {_equal(source)})"


def _equal(rows: list[int]) -> str:
    return " = ".join([*map(str, rows[:NAMED]), *(["…"] if len(rows) > NAMED else [])])
