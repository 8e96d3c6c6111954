"""A campaign: faults drawn from a seed, played, judged and counted.

Fault number i of a seed is always the same one: its kind comes from a deck in which every kind lies once on top, then as
often as its weight says; job, moment and place are drawn by a generator of its own. Moments of time are as random as the
machine is busy; everything else repeats.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from faults import circumstances, disks, files, kills
from faults.catalogue import CATALOGUE, Fault
from faults.child import READ, Order
from faults.jobs import JOBS, READER, STORE, STUDY, Job, fit_result, gram
from faults.oracle import FAILURES, judge
from faults.processes import Ended, Server, fresh
from faults.scene import Scene, Whole

MODULES = (circumstances, disks, files, kills)  # whose faults are in the catalogue
OTHERS = {  # stores that are not the one of the jobs, by how they differ
    "other-rows": ("--seed", "1"),
    "other-network": ("--weight-variance", "1.5"),
    "other-dtype": ("--dtype", "float32"),
    "other-kernels": ("--kernel", "ntk"),
}


@dataclass(frozen=True)
class Row:
    """One fault: what it was, and what became of it."""

    number: int
    kind: str
    job: str
    note: str
    outcome: str
    refusals: tuple[str, ...]
    problems: tuple[tuple[str, str], ...]
    seconds: float


def deck(seed: int) -> list[Fault]:
    """The order in which kinds are drawn, over and over."""
    rng, kinds = random.Random(f"deck {seed}"), sorted(CATALOGUE.values(), key=lambda kind: kind.name)
    rest = [kind for kind in kinds for _ in range(kind.weight - 1)]
    for cards in (kinds, rest):
        rng.shuffle(cards)
    return kinds + rest


class Campaign:
    """Faults of a seed, played in a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.deck = folder.resolve(), seed, deck(seed)
        self.server = Server()
        self._wholes: dict[str, Whole] = {}
        self._others: dict[str, Path] = {}

    def play(self, number: int) -> Row:
        """Fault number `number`, judged."""
        kind, rng = self.deck[number % len(self.deck)], random.Random(f"{self.seed}/{number}")
        job, began = JOBS[rng.choice(kind.jobs)], time.monotonic()
        box = self.folder / f"fault-{number}"
        box.mkdir()
        scene = Scene(job, self.whole(job), box, rng, self.server, self.others())
        try:
            kind.play(scene)
            verdict = judge(scene)
        finally:
            for give_back in reversed(scene.close):
                give_back()
        shutil.rmtree(box)
        told = (tuple(verdict.refusals), tuple(verdict.problems))
        seconds = round(time.monotonic() - began, 2)
        return Row(number, kind.name, job.name, scene.note[:300], verdict.outcome, *told, seconds)

    def whole(self, job: Job) -> Whole:
        """How the job ends undisturbed; done once."""
        if job.name not in self._wholes:
            self._wholes[job.name] = self._whole(job)
        return self._wholes[job.name]

    def others(self) -> dict[str, Path]:
        """Stores that are not the job's; made once."""
        if not self._others:
            folder = self.folder / "others"
            folder.mkdir()
            for name, settings in OTHERS.items():
                self._run(Order(gram(f"{name}.gram", *settings), folder, folder / name))
                self._others[name] = folder / f"{name}.gram"
        return self._others

    def _whole(self, job: Job) -> Whole:
        box = self.folder / f"whole-{job.name}"
        folder = box / "work"
        folder.mkdir(parents=True)
        (folder / "study.toml").write_text(STUDY) if "study.toml" in job.given else None
        for i, command in enumerate(job.commands(STORE)):
            order = Order(
                command,
                folder,
                box / f"said-{i}",
                job.small,
                count=box / f"steps-{i}",
                journal=box / f"journal-{i}",
            )
            ended = self._run(order)
        if job.fresh:
            plain = Order(ended.arguments, folder, box / "fresh")
            shutil.rmtree(folder / STORE)
            ended = _succeeded(fresh(plain).finish())
        arrays, reading = box / "arrays.npz", ""
        if job.has_store:
            self._run(Order((READ, STORE, str(arrays)), folder, box / "read"))
        if job.reader is not None:
            self._run(Order(job.reader(STORE), folder, box / "reader"))
            reading = fit_result(folder / READER)
            shutil.rmtree(folder / READER)
        states = (box / f"journal-{i}").read_text().count(".state\n")
        steps = (box / f"steps-{i}").stat().st_size
        return Whole(folder, dict(job.numbers(folder, STORE)), reading, arrays, ended.seconds, steps, states)

    def _run(self, order: Order) -> Ended:
        return _succeeded(self.server.start(order).finish())


def _succeeded(ended: Ended) -> Ended:
    if ended.status:
        raise RuntimeError(f"an undisturbed command failed, {ended.arguments}: {ended.err[-2000:]}")
    return ended


def tally(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    """By kind of fault, how often each outcome came."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row.kind, Counter())[row.outcome] += 1
    return counts


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each kind, and one for all."""
    outcomes = ("recovered", "refused", *FAILURES)
    counts = tally(rows)
    lines = ["| fault | injected | " + " | ".join(outcomes) + " |", "|---|" + "---:|" * (len(outcomes) + 1)]
    everything = sum(counts.values(), Counter[str]())
    for name, count in [*sorted(counts.items()), ("**all**", everything)]:
        cells = [str(sum(count.values())), *(str(count[outcome]) for outcome in outcomes)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_dict(row: Row) -> dict[str, object]:
    """JSON-able."""
    return asdict(row)
