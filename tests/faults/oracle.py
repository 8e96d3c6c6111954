"""The judgement: after a fault the same commands must end in the same numbers, and nothing finished may be made twice.

1. Every process ends by itself, says no traceback, and fails with exactly one line; a signal kills only whom it was sent.
2. Readers, at once and again at the end, give the right numbers or refuse.
3. The commands are given again, and what their refusals name as the remedy is done, as a user would, until they are
   content and `kernreg verify` is. A refusal whose remedy does not help, or that names none, is a failure.
4. No file of finished work that the fault had left whole is put in place again, and the numbers are those of the
   undisturbed job to the bit.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from faults.child import READ
from faults.jobs import READER, fit_result
from faults.processes import Ended
from faults.scene import Scene
from kernreg.cgstate import load
from kernreg.errors import KernregError

ATTEMPTS = 40
FITS = 0.2  # how often the reader that takes long is among the readers
FAILURES = ("lost", "wrong", "hung", "traceback", "crashed", "unclear", "stuck")


@dataclass
class Verdict:
    """What became of a fault.

    Attributes:
        refusals: the lines that the job's commands and `kernreg verify` refused with, from the fault on.
        unread: those of the readers.
        problems: (one of `FAILURES`, what) for everything that must not happen.
    """

    refusals: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """ "recovered" without a word, "refused" in one line and then recovered, or the first problem."""
        if self.problems:
            return self.problems[0][0]
        return "refused" if self.refusals else "recovered"


def judge(scene: Scene) -> Verdict:
    """Go on where the fault has left the scene, to the end."""
    verdict = Verdict()
    for ended in scene.ended:
        manners(ended, verdict)
        verdict.refusals += ended.errors
    for put_right in scene.undo:
        put_right()
    kept, state = _kept(scene), _iterations(scene)
    _read(scene, verdict, must=False)
    journal = scene.box / "recovery"
    journal.touch()
    _recover(scene, journal, verdict)
    again = _put(scene, journal)
    before = again[: again.index(scene.job.result)] if scene.job.result in again else again
    twice = {name for name in kept if name in (again if name.endswith(".h5") else before)}
    verdict.problems += [("lost", f"{name} was finished, and was made again") for name in sorted(twice)]
    saved = sum(name.endswith(".state") for name in before)
    if state and saved > scene.whole.states - state:
        verdict.problems.append(("lost", f"iteration {state} was saved, and {saved} more after it"))
    _compare(scene, verdict)
    if not verdict.problems:
        _read(scene, verdict, must=True)
    return verdict


def manners(ended: Ended, verdict: Verdict) -> None:
    """How a process must end."""
    what = f"{' '.join(ended.arguments[:2])}: status {ended.status}"
    told = "; ".join(ended.lines[-3:])[-300:]
    if ended.hung:
        verdict.problems.append(("hung", what))
    elif any(
        mark in ended.err for mark in ("Traceback", "Exception ignored", "Fatal Python error", "Warning:")
    ):
        verdict.problems.append(("traceback", f"{what}: {told}"))
    elif ended.status < 0:
        # Of a KeyboardInterrupt that came inside of an exec, Python dies by SIGINT, however well it was handled.
        told_twice = (
            ended.status == -signal.SIGINT and signal.SIGTERM in ended.sent and len(ended.errors) == 1
        )
        if -ended.status not in ended.sent and not told_twice:
            verdict.problems.append(("crashed", what))
    elif ended.status and "NOT ok" in ended.out:
        pass  # `kernreg verify` has found damage, and says so in its table
    elif (len(ended.errors) != 1) if ended.status else ended.errors:
        verdict.problems.append(("unclear", f"{what}: {told}"))


def _kept(scene: Scene) -> set[str]:
    """Finished work that nothing may make twice."""
    lasting: set[str] = set()
    if scene.journal.exists() and not (scene.folder / scene.job.result).is_file():
        # The journal is written before a file is in place; a kill may have come between.
        names = _put(scene, scene.journal)[:-1]
        lasting = {name for name in names if any(Path(name).match(pattern) for pattern in scene.job.lasting)}
    return (set(scene.work()) | lasting) - scene.damaged


def _put(scene: Scene, journal: Path) -> list[str]:
    """The files that a journal says were put in place, in their order."""
    lines = (Path(line) for line in journal.read_text().splitlines())
    return [path.relative_to(scene.folder).as_posix() for path in lines if path.is_relative_to(scene.folder)]


def _iterations(scene: Scene) -> int:
    """Those that a whole state holds; 0 without one."""
    path = scene.folder / "x.solution.h5.state"
    if path.name in scene.damaged or not path.is_file():
        return 0
    try:
        with np.load(path, allow_pickle=False) as file:
            state = load(path, str(file["problem"]))
    except KernregError:
        return 0
    return 0 if state is None else state.iteration


def _read(scene: Scene, verdict: Verdict, must: bool) -> None:
    """The readers; those that only refuse what is incomplete or damaged do well, unless they must read."""
    if not scene.job.has_store:
        return
    out = scene.box / "arrays.npz"
    out.unlink(missing_ok=True)
    commands: list[tuple[str, ...]] = [(READ, scene.store, str(out)), ("info", scene.store)]
    if scene.job.reader is not None and scene.rng.random() < FITS:
        commands.append(scene.job.reader(scene.store))
    for command in commands:
        ended = scene.run(command)
        manners(ended, verdict)
        if ended.status:
            verdict.unread += ended.errors
            if must:
                verdict.problems.append(("stuck", f"{command[0]} refuses after all: {ended.errors}"))
    if out.exists():
        with np.load(out) as read, np.load(scene.whole.arrays) as right:
            same = read.files == right.files and all(
                read[k].tobytes() == right[k].tobytes() for k in right.files
            )
        if not same:
            verdict.problems.append(("wrong", f"{READ} gave other numbers"))
    made = scene.folder / READER
    if (made / "fit.json").exists() and fit_result(made) != scene.whole.reading:
        verdict.problems.append(("wrong", "kernreg fit gave other numbers"))
    shutil.rmtree(made, ignore_errors=True)


def _recover(scene: Scene, journal: Path, verdict: Verdict) -> None:
    for _ in range(ATTEMPTS):
        refusal = _attempt(scene, journal, verdict)
        if refusal is None:
            return
        verdict.refusals.append(refusal)
        if not remedy(refusal, scene):
            verdict.problems.append(("stuck", refusal))
            return
    verdict.problems.append(("stuck", f"still after {ATTEMPTS} attempts: {verdict.refusals[-1]}"))


def _attempt(scene: Scene, journal: Path, verdict: Verdict) -> str | None:
    """All commands, then verify; what the first that is not content says."""
    for command in scene.commands:
        ended = scene.run(command, journal=journal)
        manners(ended, verdict)
        if ended.status:
            return " ".join(ended.errors) or f"status {ended.status}"
    for path in sorted(scene.folder.glob("**/gram.h5")):
        store = str(path.parent.relative_to(scene.folder))
        ended = scene.run(("verify", store, "--samples", "0"))
        manners(ended, verdict)
        if ended.status and "NOT ok" in ended.out:
            dropping = scene.run(("verify", store, "--samples", "0", "--drop"))
            manners(dropping, verdict)
            return "verify: " + next(line for line in ended.out.splitlines() if line.startswith("corrupt"))
        if ended.status:
            return " ".join(ended.errors) or f"status {ended.status}"
    return None


def remedy(refusal: str, scene: Scene) -> bool:
    """Do what a refusal says; whether it says anything to do."""

    def place(match: re.Match[str]) -> Path:
        return scene.folder / match[1]

    def away(match: re.Match[str]) -> None:
        place(match).rename(scene.box / "away.h5")

    def forget(match: re.Match[str]) -> None:
        path = place(match)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    remedies: tuple[tuple[str, Callable[[re.Match[str]], object]], ...] = (
        (r"^verify: ", lambda match: None),
        (r"(\S+) (?:is damaged|cannot be used|belongs to|was made by).*delete this file", forget),
        (r"(\S+) cannot be used: .*move gram\.h5 away", away),
        (r"(\S+) (?:is|was) .*remove it to begin anew", forget),
        (r"cannot write (\S+): .*remove what is in its place", forget),
        (r"delete (\S+), it is computed again", forget),
        (r"run the (?:study|same command) again", lambda match: None),
        (r"run the same `kernreg gram`", lambda match: None),
        (r"the same command goes on", lambda match: None),
    )
    for pattern, act in remedies:
        if match := re.search(pattern, refusal):
            act(match)
            return True
    return False


def _compare(scene: Scene, verdict: Verdict) -> None:
    try:
        numbers = dict(scene.job.numbers(scene.folder, scene.store))
    except (KernregError, OSError) as error:
        if not verdict.problems:
            verdict.problems.append(("lost", str(error)))
        return
    for name, value in scene.whole.numbers.items():
        if numbers.get(name) != value:
            verdict.problems.append(("wrong", f"{name} is another one"))
