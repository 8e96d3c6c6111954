"""Faults of circumstances: the clock, other processes, and stores that move."""

from __future__ import annotations

import os
import shutil
import signal

from faults.catalogue import STORED, fault
from faults.jobs import READER
from faults.scene import Scene


@fault("the clock jumps", weight=3)
def clock(scene: Scene) -> None:
    scene.lay()
    year = 365.25 * 86400
    jump = scene.rng.choice(
        (-60 * year, -50 * year, -45 * year, -3600.0, -1.0, 3600.0, year, 60 * year, 100 * year, 300 * year)
    )
    after = scene.rng.choice((0.0, scene.moment()))
    scene.note = f"by {jump:.0f} s after {after:.2f} s"
    scene.play(jump=(jump, after))


@fault("files from the past and the future")
def dated(scene: Scene) -> None:
    scene.lay_part()
    for name in scene.files():
        when = scene.rng.choice((0, 1, 315532799, 2**32, 7_000_000_000))
        os.utime(scene.path(name), (when, when))
    scene.play()


@fault("two writers at once", weight=3)
def two_writers(scene: Scene) -> None:
    scene.lay()
    one = scene.start()
    offset = scene.rng.choice((0.0, scene.rng.uniform(0, 0.05), scene.moment()))
    scene.note = f"the second after {offset:.3f} s"
    scene.wait(offset)
    two = scene.start()
    scene.ended += [one.finish(), two.finish()]


@fault("two writers, one is killed")
def two_writers_one_killed(scene: Scene) -> None:
    scene.lay()
    one, moment = scene.start(), scene.moment()
    one.wait(moment)
    one.signal(signal.SIGKILL)
    scene.ended += [scene.run(scene.commands[-1], journal=scene.journal), one.finish()]


@fault("a writer that is stopped, and a second one")
def stopped_writer(scene: Scene) -> None:
    scene.lay()
    one, moment = scene.start(), scene.moment()
    scene.note = f"stopped after {moment:.3f} s"
    one.wait(moment)
    one.signal(signal.SIGSTOP)
    scene.ended.append(scene.run(scene.commands[-1], journal=scene.journal))
    one.signal(signal.SIGCONT)
    scene.ended.append(one.finish())


@fault("the lock deleted, and a second writer", jobs=("gram", "fit"))
def lock_deleted(scene: Scene) -> None:
    scene.lay()
    one = scene.start()
    one.wait(scene.moment())
    for lock in scene.folder.rglob("lock"):
        lock.unlink(missing_ok=True)
    two = scene.start()
    scene.ended += [one.finish(), two.finish()]


@fault("readers beside a writer", jobs=("gram",))
def readers_beside(scene: Scene) -> None:
    scene.lay()
    one = scene.start()
    while not one.wait(scene.rng.uniform(0, 0.05)):
        command = scene.rng.choice((("info",), ("verify",), ("fit", "--out", READER)))
        arguments = (
            command[0],
            scene.store,
            *command[1:],
            *(("--samples", "0") if command[0] == "verify" else ()),
        )
        scene.ended.append(scene.run(arguments))
    scene.ended.append(one.finish())
    shutil.rmtree(scene.folder / READER, ignore_errors=True)


@fault("the store renamed between two runs", jobs=STORED)
def renamed_between(scene: Scene) -> None:
    scene.lay()
    scene.play(step=scene.rng.randint(1, scene.whole.steps))
    _rename(scene)


@fault("the store renamed while it is in use", jobs=STORED, weight=2)
def renamed_midway(scene: Scene) -> None:
    scene.lay()
    running, moment = scene.start(), scene.moment()
    running.wait(moment)
    _rename(scene)
    scene.note += f", after {moment:.3f} s"
    scene.ended.append(running.finish())


def _rename(scene: Scene) -> None:
    new = scene.rng.choice(("b.gram", "elsewhere/a.gram"))
    if (scene.folder / scene.store).is_dir():
        (scene.folder / new).parent.mkdir(exist_ok=True)
        (scene.folder / scene.store).rename(scene.folder / new)
        scene.note, scene.store = f"{scene.store} is now {new}", new


@fault("the whole folder moved between two runs")
def moved(scene: Scene) -> None:
    scene.lay()
    scene.play(step=scene.rng.randint(1, scene.whole.steps))
    scene.folder.rename(scene.box / "moved")
    (scene.box / "moved").rename(scene.folder)
    shutil.copytree(scene.folder, scene.box / "copy", symlinks=True)
    shutil.rmtree(scene.folder)
    (scene.box / "copy").rename(scene.folder)
    scene.note = "copied elsewhere and back"


@fault("the store behind a symbolic link", jobs=STORED)
def linked(scene: Scene) -> None:
    scene.lay()
    real = scene.box / "real.gram"
    if (scene.folder / scene.store).is_dir():
        (scene.folder / scene.store).rename(real)
    real.mkdir(exist_ok=True)
    (scene.folder / scene.store).symlink_to(real)
    scene.play(step=scene.rng.randint(1, scene.whole.steps))
