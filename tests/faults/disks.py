"""Faults of disks: full, read-only, refusing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from faults.catalogue import fault
from faults.scene import Scene


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
    scene.close.append(lambda: subprocess.run(["umount", "-l", str(scene.folder)], check=True))
    return True


def _mount(*arguments: str) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


def _kilobytes(folder: Path) -> int:
    return sum(-(-p.stat().st_size // 4096) * 4 for p in folder.rglob("*") if p.is_file())
