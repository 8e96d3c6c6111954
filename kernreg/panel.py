"""A panel: some rows of a matrix in column blocks, each contiguous, and the thread that brings them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np
import numpy.typing as npt

# Rows of a source that stay in cache while it is transposed, though they lie a power of two apart.
STRIP = 16


class Panel:
    """(rows, n) as blocks `panel[k]` of shape (rows, w_k), one behind the other in a buffer.

    A block, and the lower rows of a block, are contiguous: BLAS and files take them without a copy.

    Args:
        buffer: (≥ rows·n,) what it was does not matter, and stays until it is overwritten.
        rows: of the panel.
        edges: of the column blocks, from 0 on.
    """

    def __init__(self, buffer: npt.NDArray[Any], rows: int, edges: tuple[int, ...]) -> None:
        self._buffer, self.rows, self.edges = buffer, rows, edges

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, k: int) -> npt.NDArray[Any]:
        start, stop = self.edges[k], self.edges[k + 1]
        return self._buffer[self.rows * start : self.rows * stop].reshape(self.rows, stop - start)

    def complete(self, stop: int) -> int:
        """How many column blocks end at or before column `stop`."""
        return int(np.searchsorted(self.edges, stop, side="right")) - 1

    def put(self, values: npt.NDArray[Any], row: int, column: int, *, transposed: bool = False) -> None:
        """Copy a rectangle, or its transpose, to where its first number is (row, column); the part outside
        the panel is left out."""
        source = values.T if transposed else values
        source, row = source[max(-row, 0) : max(self.rows - row, 0)], max(row, 0)
        source, column = source[:, max(-column, 0) : max(self.edges[-1] - column, 0)], max(column, 0)
        height, width = source.shape
        if not source.size:
            return
        first = int(np.searchsorted(self.edges, column, side="right")) - 1
        for k in range(first, len(self)):
            start, stop = max(self.edges[k], column), min(self.edges[k + 1], column + width)
            if start >= stop:
                break
            block = self[k][row : row + height]
            step = STRIP if transposed else stop - start
            for left in range(start, stop, step):
                right = min(left + step, stop)
                block[:, left - self.edges[k] : right - self.edges[k]] = source[
                    :, left - column : right - column
                ]


class Arrival:
    """Column blocks that a thread brings while the first ones are already in use.

    Args:
        thread: where `steps` runs.
        steps: fills the blocks in order and yields, each time, how many are there.
    """

    def __init__(self, thread: Executor, steps: Iterator[int]) -> None:
        self._changed = threading.Condition()
        self._there, self._stopped = 0, False
        self._failure: BaseException | None = None
        self._future = thread.submit(self._run, steps)

    def wait(self, k: int) -> None:
        """Return once block k is there. Raises what the thread raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._there > k or self._failure is not None or self._stopped)
            if self._failure is not None:
                raise self._failure
            if self._there <= k:
                raise RuntimeError(f"column block {k} never came")

    def stop(self) -> None:
        """End the thread after the step in hand, and wait for it: the buffer is free again."""
        self._stopped = True
        self._future.result()

    def _run(self, steps: Iterator[int]) -> None:
        try:
            for there in steps:
                with self._changed:
                    self._there = there
                    self._changed.notify_all()
                if self._stopped:
                    break
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()
