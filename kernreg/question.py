"""What a learning curve is asked: targets, labels, and the sample counts and blocks of rows to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernreg.cholesky import Matrix
from kernreg.errors import KernregError
from kernreg.targets import Counts, given_labels, inferred_labels

SMALLEST_REPLICATE = 8


@dataclass(frozen=True, eq=False)
class Question:
    """What a sweep is to measure.

    Attributes:
        y: (n, c) targets.
        y_test: (t, c) targets of the test rows.
        labels: (t,) the right column of y_test, or None.
        anchors: sample counts at which the errors of single test rows are kept.
        loo: whether leave-one-out and GCV are wanted: twice the operations and three times the reads.
    """

    y: Matrix
    y_test: Matrix
    labels: Counts | None
    anchors: Counts
    loo: bool


def question(
    y: Matrix, y_test: Matrix, labels_test: npt.ArrayLike | None, anchors: Sequence[int] | None, loo: bool
) -> Question:
    """A `Question` checked; anchors default to n/√2^j, labels are read from one-hot targets.

    Raises:
        KernregError: targets that are zero everywhere, labels or anchors that do not fit.
    """
    labels = inferred_labels(y, y_test) if labels_test is None else given_labels(labels_test, y_test)
    marks = _anchors(len(y), anchors)
    if not y_test.any():
        raise KernregError("y_test is zero everywhere, so the loss has nothing to be normalised by")
    if loo and not y.any():
        raise KernregError("y is zero everywhere, so loo has nothing to be normalised by; use loo=False")
    return Question(y, y_test, labels, marks, loo)


def halves(n: int, halvings: int) -> list[tuple[int, int]]:
    """(start, size) of every second half; a first half has the curve of the block it begins."""
    if not isinstance(halvings, int) or halvings < 0:
        raise KernregError(f"replicates must be a whole number of halvings ≥ 0, not {halvings!r}")
    starts, blocks = [0], []
    for halving in range(1, halvings + 1):
        size = n >> halving
        if size < SMALLEST_REPLICATE:
            break
        seconds = [start + size for start in starts]
        blocks += [(start, size) for start in seconds]
        starts = sorted(starts + seconds)
    return blocks


def _anchors(n: int, given: Sequence[int] | None) -> Counts:
    if given is None:
        return np.unique([max(1, int(n / 2 ** (j / 2))) for j in range(2 * n.bit_length())]).astype(np.int64)
    marks = np.unique(np.asarray(given))
    if marks.dtype.kind not in "iu" or not marks.size or marks[0] < 1 or marks[-1] > n:
        raise KernregError(f"anchors must be whole numbers in 1…{n}")
    return marks.astype(np.int64)
