"""The faults by name. A function of a scene plays one: it puts down what there is, disturbs it, and notes what it did.

They stand in `kills`, `disks`, `files` and `circumstances`, which `campaign` imports. Others join with `@fault(...)` in a module
of their own, imported before a campaign begins: the death of a worker or of a scheduler is a fault like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faults.scene import Scene

Play = Callable[[Scene], None]
# By how often they are drawn: drawing figures takes long.
EVERY = ("gram", "gram", "gram", "fit", "fit", "solve", "solve", "solve", "study")
STORED = EVERY[:-1]


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        name: in words.
        jobs: that suffer it.
        weight: how often it is drawn beside the others.
        play: the function.
    """

    name: str
    jobs: tuple[str, ...]
    weight: int
    play: Play


CATALOGUE: dict[str, Fault] = {}


def fault(name: str, jobs: tuple[str, ...] = EVERY, weight: int = 1) -> Callable[[Play], Play]:
    """Put a function into the catalogue."""

    def put(play: Play) -> Play:
        CATALOGUE[name] = Fault(name, jobs, weight, play)
        return play

    return put
