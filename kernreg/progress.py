"""Progress of a long run: a meter, and signals that wait for the tiles in hand."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias

Progress: TypeAlias = Callable[[int, int], object]  # units done, those of earlier runs included; units in all


class Meter:
    """Progress in pairs, or another unit; the rate counts this run only."""

    def __init__(
        self, done: int, total: int, progress: bool | Progress, unit: str = "pair", title: str = "gram"
    ) -> None:
        self._done, self._total, self._bar = done, total, None
        self._call = progress if callable(progress) else None
        if progress is True:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                unit=unit,
                unit_scale=True,
                smoothing=0,
                desc=title,
                dynamic_ncols=True,
            )
        self.advance(0)

    def advance(self, units: int) -> None:
        units = min(units, self._total - self._done)  # a total may be an estimate
        self._done += units
        if self._bar is not None:
            self._bar.update(units)
        if self._call is not None:
            self._call(self._done, self._total)

    def skip(self, units: int) -> None:
        """Units that an earlier run has done: they count as done, not as fast."""
        if self._bar is not None:
            self._bar.initial += units
        self.advance(units)

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None and self._done < self._total:
            self.advance(self._total - self._done)
        if self._bar is not None:
            self._bar.close()


class Interruption:
    """SIGINT and SIGTERM as a flag, so that the tiles in hand are committed; the second one acts at once."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.requested, self._note = False, note
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._note("stopping after the tiles in hand; once more stops at once")
