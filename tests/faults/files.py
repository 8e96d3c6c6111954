"""Faults of files: damaged, deleted, foreign, in each other's place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from faults import damage
from faults.catalogue import EVERY, STORED, fault
from faults.scene import Scene


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


@fault("the state of another solve", jobs=("solve",))
def state_of_another(scene: Scene) -> None:
    scene.lay()
    arguments = list(scene.commands[-1])
    arguments[arguments.index("--ridge") + 1] = "3e-4"
    scene.ended.append(scene.run(arguments, step=scene.rng.randint(1, scene.whole.steps)))
    scene.damaged.add("x.solution.h5.state")
