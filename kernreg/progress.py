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

    def describe(self, title: str) -> None:
        """Another title of the bar."""
        if self._bar is not None:
            self._bar.set_description(title)

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


class Work:
    """Progress of many steps, in the seconds that they were estimated to take; a bar on stderr, or none."""

    def __init__(self, seconds: float, progress: bool) -> None:
        self._bar, self._step, self._counted = None, 0.0, 0
        self._begun_at: int | None = None
        if progress:
            from tqdm import tqdm

            form = "{percentage:3.0f} %|{bar}| {elapsed} so far, {remaining} left  {desc}"
            self._bar = tqdm(total=max(seconds, 1e-9), smoothing=0, bar_format=form, dynamic_ncols=True)

    def begin(self, what: str, seconds: float) -> None:
        """A step whose pairs were estimated to take so many seconds."""
        self._step, self._begun_at = seconds, None
        if self._bar is not None:
            self._bar.set_description_str(what)

    def pairs(self, done: int, total: int) -> None:
        """Pairs of the step that are done, those of earlier runs included: a `Progress`."""
        if self._begun_at is None:
            self._begun_at = self._counted = done
        if total > self._begun_at:
            self.advance(self._step * (done - self._counted) / (total - self._begun_at))
        self._counted = done

    def advance(self, seconds: float) -> None:
        """So many of the estimated seconds are done."""
        if self._bar is not None:
            self._bar.update(min(seconds, self._bar.total - self._bar.n))

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *exception: object) -> None:
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
