"""Timing: contestants take turns, so that a drift of the machine meets all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kernreg.bench import summary


@dataclass(frozen=True)
class Contestant:
    """Something to time.

    Attributes:
        work: updates of one call.
        seconds: that many calls → seconds they took.
        calls: of one timing.
        turns: that it takes part in; None: all.
    """

    work: float
    seconds: Callable[[int], float]
    calls: int = 1
    turns: int | None = None

    def rate(self) -> float:
        """Updates/s, once."""
        return self.work * self.calls / self.seconds(self.calls)


def clock(run: Callable[[], Any]) -> Callable[[int], float]:
    """`run` as the `seconds` of a contestant."""

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start

    return seconds


def calls_for(seconds: float, once: float) -> int:
    """How many calls fill at least that time, if one takes `once`."""
    return max(1, math.ceil(seconds / max(once, 1e-9)))


def take_turns(contestants: Mapping[Any, Contestant], repeats: int) -> dict[Any, list[float]]:
    """Rates in updates/s, one for each turn; a turn times all that take part back to back."""
    rates: dict[Any, list[float]] = {key: [] for key in contestants}
    for turn in range(repeats):
        for key, contestant in contestants.items():
            if contestant.turns is None or turn < contestant.turns:
                rates[key].append(contestant.rate())
    return rates


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Of rates taken back to back: the summary of the quotients of the turns of both."""
    return summary([a / b for a, b in zip(ours, theirs, strict=False)])
