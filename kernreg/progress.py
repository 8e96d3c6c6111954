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


class TimeIsUp(KeyboardInterrupt):
    """SIGUSR1: the time of a batch job is nearly up; the same command goes on."""


class Interruption:
    """SIGINT, SIGTERM and SIGUSR1 as a flag, so that the tiles in hand are committed; the second one acts at once.

    SIGUSR1 is what a batch system is asked to send ahead of a time limit. With a grace, in seconds, SIGTERM waits no longer than
    that for the tiles in hand, since a scheduler kills soon after it, and a second SIGTERM changes nothing.
    """

    def __init__(self, note: Callable[[str], None], grace: float | None = None) -> None:
        self.requested, self._note, self._grace = False, note, grace
        self._first = 0
        self._before: dict[int, Any] = {}

    @property
    def error(self) -> KeyboardInterrupt:
        """What tells the caller of an interruption."""
        return TimeIsUp() if self._first == signal.SIGUSR1 else KeyboardInterrupt()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            alarm = () if self._grace is None else (signal.SIGALRM,)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, *alarm):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        if signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._first = True, number
            self._note("stopping after the tiles in hand; once more stops at once")
        elif self._grace is None or number in (signal.SIGINT, signal.SIGALRM):
            raise self.error
        if (
            number == signal.SIGTERM
            and self._grace is not None
            and not signal.getitimer(signal.ITIMER_REAL)[0]
        ):
            signal.setitimer(signal.ITIMER_REAL, self._grace)
