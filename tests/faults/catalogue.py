"""The faults by name. A function of a scene plays one: it puts down what there is, disturbs it, and notes what it did.

Another branch of the project joins with `@fault(...)` in a module of its own, which its tests import before they draw: the
death of a worker or of a scheduler is a fault like any other.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from faults import damage
from faults.jobs import READER
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


# Processes


@fault("kill -9 at a random moment", weight=4)
def kill_at_a_moment(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGKILL)


@fault("kill -9 at a random step", weight=4)
def kill_at_a_step(scene: Scene) -> None:
    scene.lay()
    step = scene.rng.randint(1, scene.whole.steps)
    scene.note = f"step {step} of {scene.whole.steps}"
    scene.play(step=step)


@fault("kill -9, again and again")
def kill_often(scene: Scene) -> None:
    scene.lay()
    for _ in range(scene.rng.randint(2, 5)):
        scene.play(step=scene.rng.randint(1, max(2, scene.whole.steps // 3)))


@fault("kill -9 of a fresh interpreter", jobs=("fresh",))
def kill_fresh(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGKILL)


@fault("Ctrl-C", weight=2)
def interrupt(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGINT)


@fault("SIGTERM", weight=2)
def terminate(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGTERM)


@fault("SIGTERM or Ctrl-C of a fresh interpreter", jobs=("fresh",), weight=2)
def signal_fresh(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, scene.rng.choice((signal.SIGINT, signal.SIGTERM)))


@fault("Ctrl-C twice")
def interrupt_twice(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGINT, signal.SIGINT)


@fault("time limit: SIGTERM, then kill -9", weight=2)
def time_limit(scene: Scene) -> None:
    scene.lay()
    _signal_at_a_moment(scene, signal.SIGTERM, signal.SIGKILL)


def _signal_at_a_moment(scene: Scene, *signals: signal.Signals) -> None:
    running, moment = scene.start(), scene.moment()
    if scene.job.fresh and signal.SIGINT in signals:
        running.wait_for_kernreg()
    scene.note = f"after {moment:.3f} s of {scene.whole.seconds:.3f}"
    if not running.wait(moment):
        for number in signals:
            running.signal(number)
            scene.wait(scene.rng.uniform(0, 0.03))
    scene.ended.append(running.finish())


# The disk


@fault("full disk", weight=3)
def full_disk(scene: Scene) -> None:
    if not _mounted(scene, "64m"):
        return _no_space(scene)
    scene.lay()
    if scene.rng.random() < 0.5:
        return _filled_by_another(scene)
    used = _kilobytes(scene.folder)
    needed = max(_kilobytes(scene.whole.folder) - used, 64)
    size = used + round(needed * scene.rng.uniform(0.02, 1.0))
    scene.note = f"tmpfs of {size} KiB, {used} used"
    _mount("-o", f"remount,size={size}k", str(scene.folder))
    scene.undo.append(lambda: _mount("-o", "remount,size=64m", str(scene.folder)))
    scene.play()
    return None


def _filled_by_another(scene: Scene) -> None:
    """A check beforehand does not help against a disk that others fill meanwhile."""
    ballast, running, moment = scene.folder / "ballast", scene.start(), scene.moment()
    running.wait(moment)
    left = shutil.disk_usage(scene.folder).free - scene.rng.choice((0, 4096, 20000, 60000))
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        file.write(bytes(max(0, left)))
    scene.note = f"tmpfs filled by another after {moment:.3f} s"
    scene.undo.append(lambda: ballast.unlink())
    scene.ended.append(running.finish())


@fault("no space, from a random step on", weight=2)
def no_space(scene: Scene) -> None:
    _no_space(scene)


def _no_space(scene: Scene) -> None:
    scene.lay()
    step, number = scene.rng.randint(1, scene.whole.steps), scene.rng.choice((errno.ENOSPC, errno.EDQUOT))
    scene.note = f"{errno.errorcode[number]} injected from step {step} of {scene.whole.steps} on"
    scene.play(step=step, failure=number)


@fault("an I/O error at a random step")
def io_error(scene: Scene) -> None:
    scene.lay()
    step = scene.rng.randint(1, scene.whole.steps)
    scene.note = f"EIO injected at step {step} of {scene.whole.steps}"
    scene.play(step=step, failure=errno.EIO)


@fault("a limit on the size of files")
def file_limit(scene: Scene) -> None:
    scene.lay()
    largest = scene.rng.choice((1, 1000, 4096, 5000, 8000, 20000))
    scene.note = f"RLIMIT_FSIZE of {largest} bytes"
    scene.play(largest=largest)


@fault("read-only folder", weight=2)
def read_only_folder(scene: Scene) -> None:
    scene.lay()
    if scene.rng.random() < 0.5:
        shutil.rmtree(scene.folder)
        scene.lay_part()
    folders = [scene.folder, *(p for p in scene.folder.rglob("*") if p.is_dir())]

    def set_mode(mode: int) -> None:
        for folder in folders:
            folder.chmod(mode)

    set_mode(0o555)
    scene.undo.append(lambda: set_mode(0o755))
    scene.note = "mode 555"
    scene.play(unprivileged=True)


@fault("read-only file system")
def read_only_file_system(scene: Scene) -> None:
    if not _mounted(scene, "64m"):
        scene.lay()
        step = scene.rng.randint(1, scene.whole.steps)
        scene.note = f"EROFS injected from step {step} on"
        scene.play(step=step, failure=errno.EROFS)
        return
    scene.lay_part()
    _mount("-o", "remount,ro", str(scene.folder))
    scene.undo.append(lambda: _mount("-o", "remount,rw", str(scene.folder)))
    scene.note = "a tmpfs that is mounted read-only"
    scene.play()


def _mounted(scene: Scene, size: str) -> bool:
    """Whether the folder of the scene is a disk of its own now."""
    scene.folder.mkdir(exist_ok=True)
    if not _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(scene.folder)):
        return False
    scene.close.append(lambda: subprocess.run(["umount", str(scene.folder)], check=True))
    return True


def _mount(*arguments: str) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def _kilobytes(folder: Path) -> int:
    return sum(-(-p.stat().st_size // 4096) * 4 for p in folder.rglob("*") if p.is_file())


# Damage


def _damage(
    scene: Scene, harm: Callable[..., str], patterns: tuple[str, ...] = ("**/*",), most: int = 3
) -> None:
    scene.lay_part()
    notes = []
    for name in scene.chosen(scene.files(patterns), most):
        notes.append(f"{name}: {harm(scene.path(name), scene.rng)}")
        scene.damaged.add(name)
    scene.note = "; ".join(notes) or "nothing there to damage"


@fault("bits flipped anywhere", weight=6)
def flip(scene: Scene) -> None:
    _damage(scene, damage.flip)


@fault("a bit flipped in the head of a file", weight=2)
def flip_head(scene: Scene) -> None:
    _damage(scene, damage.flip_head)


@fault("truncated files", weight=2)
def truncate(scene: Scene) -> None:
    _damage(scene, damage.truncate)


@fault("empty files")
def empty(scene: Scene) -> None:
    _damage(scene, damage.empty)


@fault("pages of zeros")
def blank(scene: Scene) -> None:
    _damage(scene, damage.blank)


@fault("bytes behind the end")
def lengthen(scene: Scene) -> None:
    _damage(scene, damage.lengthen)


@fault("a foreign HDF5 file in the place of one", jobs=EVERY)
def foreign(scene: Scene) -> None:
    _damage(scene, damage.replace_by_hdf5, ("**/*.h5",), most=2)


@fault("noise in the place of a file")
def noise(scene: Scene) -> None:
    _damage(scene, damage.replace_by_noise)


@fault("deleted files", weight=2)
def deleted(scene: Scene) -> None:
    _damage(scene, damage.remove)


@fault("the main file damaged", jobs=STORED, weight=2)
def main_damaged(scene: Scene) -> None:
    harm = scene.rng.choice(
        (damage.flip, damage.flip_head, damage.truncate, damage.blank, damage.replace_by_hdf5)
    )
    _damage(scene, harm, ("*.gram/gram.h5",), most=1)


@fault("the main file deleted", jobs=STORED)
def main_deleted(scene: Scene) -> None:
    _damage(scene, damage.remove, ("*.gram/gram.h5",), most=1)


@fault("no file at all in the place of one")
def something_else(scene: Scene) -> None:
    _damage(scene, damage.something_else, ("**/*.h5", "**/panel-*", "**/*.npz"), most=2)


@fault("the folder of the tiles deleted", jobs=STORED)
def tiles_deleted(scene: Scene) -> None:
    scene.lay_part()
    scene.damaged.update(scene.files(("*.gram/tiles/*",)))
    shutil.rmtree(scene.folder / scene.store / "tiles")


@fault("a tile of another store", jobs=STORED, weight=2)
def tile_of_another(scene: Scene) -> None:
    scene.lay_part()
    other = scene.others[scene.rng.choice(sorted(scene.others))]
    for name in scene.chosen(scene.files(("*.gram/tiles/*.h5",))):
        shutil.copy(other / "tiles" / Path(name).name, scene.path(name))
        scene.damaged.add(name)
        scene.note += f"{name} is that of {other.name}; "


@fault("two files swapped", weight=2)
def swapped(scene: Scene) -> None:
    scene.lay_part()
    names = scene.work()
    folders = sorted({str(Path(name).parent) for name in names})
    folder = scene.rng.choice(folders) if folders else ""
    inside = [name for name in names if str(Path(name).parent) == folder]
    if len(inside) < 2:
        return
    one, two = scene.rng.sample(inside, 2)
    first, second = scene.path(one).read_bytes(), scene.path(two).read_bytes()
    scene.path(one).write_bytes(second)
    scene.path(two).write_bytes(first)
    scene.damaged |= {one, two}
    scene.note = f"{one} and {two}"


@fault("the main file of another store", jobs=STORED)
def main_of_another(scene: Scene) -> None:
    scene.lay_part()
    other = scene.others[scene.rng.choice(sorted(scene.others))]
    main = scene.folder / scene.store / "gram.h5"
    shutil.copy(other / "gram.h5", main)
    scene.damaged.add(main.relative_to(scene.folder).as_posix())
    scene.note = other.name
    for command in scene.commands[:1]:
        scene.ended.append(scene.run(command))
    scene.undo.append(lambda: main.unlink(missing_ok=True))


@fault("left-overs of killed writers, and strange files")
def leftovers(scene: Scene) -> None:
    scene.lay_part()
    folders = [scene.folder, *(p for p in scene.folder.rglob("*") if p.is_dir())]
    for folder in folders:
        for name in (
            "gram.h5.17-ab12.partial",
            "train-00000-00000.h5.1-aa.partial",
            "panel-00000.partial",
            ".nfs0001",
        ):
            (folder / name).write_bytes(scene.rng.randbytes(scene.rng.randrange(9000)))
    for lock in scene.folder.rglob("lock"):
        lock.write_bytes(scene.rng.choice((b"", b"{", b'{"pid": 1, "host": "elsewhere"}', b"\xff" * 30)))


# The clock


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


# More than one


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


# Places


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


# What is of another


@fault("the state of another solve", jobs=("solve",))
def state_of_another(scene: Scene) -> None:
    scene.lay()
    arguments = list(scene.commands[-1])
    arguments[arguments.index("--ridge") + 1] = "3e-4"
    scene.ended.append(scene.run(arguments, step=scene.rng.randint(1, scene.whole.steps)))
    scene.damaged.add("x.solution.h5.state")
