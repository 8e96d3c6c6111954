"""Progress of an iteration whose length nobody knows: its rate, and how long the rest takes at the present slope."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

# Iterations done, iterations in all by the present estimate, worst relative residual of the columns still running.
Report: TypeAlias = Callable[[int, int, float], object]


class Iterations:
    """A meter of iterations; the rate counts this run only, the slope counts the iterations of earlier ones too."""

    def __init__(self, what: str, rtol: float, most: int, progress: bool | Report = False) -> None:
        """A meter that expects the residual to fall geometrically to `rtol`, in `most` iterations at the utmost."""
        self._rtol, self._most, self._begun = rtol, most, False
        self._call = progress if callable(progress) else None
        self._bar: Any = None
        if progress is True:
            from tqdm import tqdm

            self._bar = tqdm(unit="it", smoothing=0.1, desc=what, dynamic_ncols=True)

    def show(self, done: int, residual: float, columns: int) -> None:
        """`done` iterations, and the worst of the `columns` columns still running is at this relative residual."""
        if self._bar is not None:
            if not self._begun:
                self._bar.initial = self._bar.n = done
            self._bar.total = self.expected(done, residual)
            self._bar.set_postfix_str(f"residual {residual:.1e}, {columns} columns", refresh=False)
            self._bar.update(done - self._bar.n)
        if self._call is not None:
            self._call(done, self.expected(done, residual), residual)
        self._begun = True

    def expected(self, done: int, residual: float) -> int:
        """Iterations in all if the logarithm of the residual goes on to fall as it did on average since the start."""
        if residual <= self._rtol:
            return done
        if done == 0 or residual >= 1 or self._rtol <= 0:
            return self._most
        left = done * math.log(residual / self._rtol) / -math.log(residual)
        return min(self._most, done + math.ceil(left))

    def note(self, text: str) -> None:
        """A line beside the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)

    def __enter__(self) -> Iterations:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
