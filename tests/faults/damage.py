"""Damage to a file: what disks, copies and people do to one. Each function takes a path and draws the rest."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

PAGE = 4096


def flip(path: Path, rng: random.Random) -> str:
    """One to eight bits, anywhere."""
    content = bytearray(path.read_bytes())
    if not content:
        return "nothing to flip"
    bits = [rng.randrange(8 * len(content)) for _ in range(rng.choice((1, 1, 1, 2, 8)))]
    for bit in bits:
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"bits {bits}"


def flip_head(path: Path, rng: random.Random) -> str:
    """A bit in the first 600 bytes, where files say what they are."""
    content = bytearray(path.read_bytes())
    if not content:
        return "nothing to flip"
    bit = rng.randrange(8 * min(600, len(content)))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return f"bit {bit}"


def truncate(path: Path, rng: random.Random) -> str:
    """A shorter file."""
    size = rng.choice((rng.randrange(path.stat().st_size + 1), path.stat().st_size - 1, PAGE))
    os.truncate(path, max(0, min(size, path.stat().st_size)))
    return f"to {path.stat().st_size} bytes"


def empty(path: Path, rng: random.Random) -> str:
    """What a crash leaves of a file that was never synced."""
    os.truncate(path, 0)
    return "to nothing"


def blank(path: Path, rng: random.Random) -> str:
    """Pages of zeros, likewise."""
    size = path.stat().st_size
    start = rng.randrange(max(1, -(-size // PAGE))) * PAGE
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(min(PAGE, size - start)))
    return f"zeros from {start}"


def lengthen(path: Path, rng: random.Random) -> str:
    """Bytes behind the end."""
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 64)))
    return "bytes behind it"


def replace_by_hdf5(path: Path, rng: random.Random) -> str:
    """An HDF5 file of somebody else, with a dataset of the right name."""
    path.unlink()
    with h5py.File(path, "w") as file:
        file["ntk"] = np.random.default_rng(rng.randrange(2**32)).standard_normal((8, 8))
        file["train/targets"] = np.zeros((3, 1))
    return "a foreign HDF5 file"


def replace_by_noise(path: Path, rng: random.Random) -> str:
    """A file of the same size without sense."""
    path.write_bytes(rng.randbytes(path.stat().st_size))
    return "noise"


def remove(path: Path, rng: random.Random) -> str:
    """Gone."""
    path.unlink()
    return "removed"


def something_else(path: Path, rng: random.Random) -> str:
    """No file at all in its place."""
    path.unlink()
    what = rng.choice(("a folder", "a folder with a file", "a dangling link", "a link to itself", "a pipe"))
    if what.startswith("a folder"):
        path.mkdir()
        if what.endswith("file"):
            (path / "note.txt").write_text("mine")
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if what.endswith("itself") else "nowhere")
    return what


def replace_by(other: Path) -> Callable[[Path, random.Random], str]:
    """A file from elsewhere."""

    def put(path: Path, rng: random.Random) -> str:
        shutil.copy(other, path)
        return f"{other.parent.parent.name}/{other.name}"

    return put
