"""Progress of a long run: a meter in pairs, and signals that wait for the tile in hand."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias

Progress: TypeAlias = Callable[[int, int], object]  # pairs done, those of earlier runs included; pairs in all


class Meter:
    """Progress in pairs; the rate counts this run only."""

    def __init__(self, done: int, total: int, progress: bool | Progress) -> None:
        self._done, self._total, self._bar = done, total, None
        self._call = progress if callable(progress) else None
        if progress is True:
            from tqdm import tqdm

            self._bar = tqdm(
                total=total,
                initial=done,
                unit="pair",
                unit_scale=True,
                smoothing=0,
                desc="gram",
                dynamic_ncols=True,
            )
        self.advance(0)

    def advance(self, pairs: int) -> None:
        self._done += pairs
        if self._bar is not None:
            self._bar.update(pairs)
        if self._call is not None:
            self._call(self._done, self._total)

    def note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


class Interruption:
    """SIGINT and SIGTERM as a flag, so that the tile in hand is committed; the second one acts at once."""

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
        self._note("stopping after this tile; once more stops at once")
