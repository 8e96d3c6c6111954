"""The arrays of an .npz file, read so that no size it claims is believed and damage has one exception.

`numpy.load` sets memory aside for the shape in a header before it looks for the numbers, and what it meets in a damaged file
comes out as any of zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, tokenize.TokenError and others.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import one_line, reason

# A deflate stream cannot expand more than this (zlib's documentation says 1032:1).
DEFLATE_LIMIT = 1040


class Damaged(ValueError):
    """The file is no .npz file of plain numbers and texts; the text says why, in one line."""


def read_npz(path: Path, key: Callable[[str], str | None] = str) -> dict[str, NDArray[Any]]:
    """The arrays by name.

    Args:
        path: of the file.
        key: what an array of this name is called in the result; None leaves it alone.

    Raises:
        Damaged: truncated, damaged, with Python objects, two arrays of a name, or a shape that its bytes do not fill.
        OSError: the file cannot be opened.
    """
    arrays: dict[str, NDArray[Any]] = {}
    with path.open("rb") as file:
        size = path.stat().st_size
        try:
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    name = key(member.filename.removesuffix(".npy"))
                    if name is None:
                        continue
                    if name in arrays:
                        raise Damaged(f"it has {one_line(name)} twice; keep one")
                    arrays[name] = _array(archive, member, one_line(name), size)
        except (Damaged, MemoryError):
            raise
        except Exception as error:
            raise Damaged(reason(error)) from None
    return arrays


def read_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype and size of the header of a stream in .npy format. Raises ValueError."""
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # later ones are for records, and may claim a header of gigabytes
        raise ValueError(f"it has the .npy version {version}, which plain numbers do not need")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except (MemoryError, RecursionError, SyntaxError) as error:  # of Python's parser, which reads the header
        raise ValueError(f"its header is none ({type(error).__name__})") from None
    return shape, dtype, int(stream.tell())


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, size: int) -> NDArray[Any]:
    if member.file_size > DEFLATE_LIMIT * min(member.compress_size, size):
        raise Damaged(f"{name} claims {member.file_size} bytes")
    with archive.open(member) as stream:
        shape, dtype, header = read_header(stream)
    if dtype.hasobject:
        raise Damaged(f"{name} holds Python objects")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize + header != member.file_size:
        raise Damaged(f"{name} claims the shape {one_line(str(shape))} and holds {member.file_size} bytes")
    with archive.open(member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
