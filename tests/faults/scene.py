"""The scene of one fault: a job in a folder of its own, and everything that happened there."""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.child import Order
from faults.jobs import STORE, Job
from faults.processes import Ended, Running, Server, fresh


@dataclass(frozen=True)
class Whole:
    """A job that nothing disturbed.

    Attributes:
        folder: its files.
        numbers: what must be equal, by name.
        reading: what the job's reader found; "" without one.
        arrays: what Python reads of the store, a file.
        seconds: that the disturbed command takes.
        steps: that it takes, see `faults.child.Order`.
        states: how often it saves the state of an iteration.
    """

    folder: Path
    numbers: dict[str, str]
    reading: str
    arrays: Path
    seconds: float
    steps: int
    states: int


@dataclass
class Scene:
    """Where a fault is played.

    Attributes:
        job, whole: which job, and how it ends undisturbed.
        box: folder of everything; `folder`, in it, is where commands run.
        rng: draws what is left to chance.
        server: starts processes.
        others: stores that are not the job's, by name.
        store: what the job's store is called.
        note: what was done, in words.
        damaged: files that the fault changed or took away, relative to the folder: they may be made again.
        ended: processes of the fault, in order.
        undo: puts right what a user would put right before going on.
        close: gives back what the scene took from the machine.
    """

    job: Job
    whole: Whole
    box: Path
    rng: random.Random
    server: Server
    others: dict[str, Path]
    store: str = STORE
    note: str = ""
    damaged: set[str] = field(default_factory=set)
    ended: list[Ended] = field(default_factory=list)
    undo: list[Callable[[], object]] = field(default_factory=list)
    close: list[Callable[[], object]] = field(default_factory=list)
    _number: Any = field(default_factory=itertools.count)

    @property
    def folder(self) -> Path:
        return self.box / "work"

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        return self.job.commands(self.store)

    @property
    def journal(self) -> Path:
        """Of what was put in place while the fault was played."""
        return self.box / "journal"

    def lay(self) -> None:
        """Put down what the job is given."""
        self.folder.mkdir(exist_ok=True)
        for name in self.job.given:
            self._copy(name)

    def lay_whole(self) -> None:
        """Put down the whole job."""
        self.folder.mkdir(exist_ok=True)
        for path in self.whole.folder.iterdir():
            self._copy(path.name)

    def lay_part(self) -> None:
        """Put down a job that has come some way: some finished work, and for an iteration or a factor a killed run."""
        if self.job.name in ("fit", "solve"):
            self.lay()
            self.ended.append(self.run_planted(step=self.rng.randint(1, self.whole.steps)))
            return
        self.lay_whole()
        share = self.rng.choice((0.0, self.rng.random()))
        for name in self.work():
            if self.rng.random() < share:
                (self.folder / name).unlink()
        if share:
            shutil.rmtree(self.folder / "out" / "small", ignore_errors=True)

    def start(self, **planted: Any) -> Running:
        """The command that is disturbed."""
        order = self._order(self.commands[-1], journal=self.journal, **planted)
        return fresh(order) if self.job.fresh and not planted else self.server.start(order)

    def run_planted(self, **planted: Any) -> Ended:
        """`start`, and wait for its end."""
        return self.start(**planted).finish()

    def play(self, **planted: Any) -> None:
        """`run_planted`, as the fault."""
        self.ended.append(self.run_planted(**planted))

    def run(self, arguments: Sequence[str], **settings: Any) -> Ended:
        """Another command, in a fork."""
        return self.server.start(self._order(arguments, **settings)).finish()

    def moment(self) -> float:
        """Seconds: some time of the disturbed command, perhaps when it has just ended."""
        return self.rng.uniform(0, 1.05 * self.whole.seconds)

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def files(self, patterns: Iterable[str] = ("**/*",)) -> list[str]:
        """Files in the folder, relative to it, input of the job aside."""
        found = {
            p.relative_to(self.folder).as_posix()
            for q in patterns
            for p in self.folder.glob(q)
            if p.is_file()
        }
        return sorted(found - {"study.toml"})

    def work(self) -> list[str]:
        """Files that hold finished work."""
        return [
            name for name in self.files((*self.job.work, *self.job.lasting)) if not name.endswith(".partial")
        ]

    def digests(self, names: Iterable[str]) -> dict[str, str]:
        """Of the bytes of files."""
        return {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in names}

    def chosen(self, names: Sequence[str], most: int = 3) -> list[str]:
        """One to `most` of them."""
        return self.rng.sample(names, min(len(names), self.rng.randint(1, most)))

    def path(self, name: str) -> Path:
        return self.folder / name

    def _order(self, arguments: Sequence[str], **settings: Any) -> Order:
        said = self.box / f"said-{next(self._number):02d}"
        return Order(tuple(arguments), self.folder, said, small=self.job.small, **settings)

    def _copy(self, name: str) -> None:
        source, target = self.whole.folder / name, self.folder / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
