"""Archives: arrays in one .npz file, whole or absent, and checked to the last bit before anything parses it.

NumPy opens it without kernreg: the checksum of all bytes in front of it is the comment at the end of the ZIP file. Its
members carry no time, so equal arrays make equal files, and a clock outside of what ZIP can say does no harm.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from kernreg.durable import replace
from kernreg.npzfile import Damaged, read_npz

MARK = b"xxh3-128 "
_COMMENT = len(MARK) + 32
_CHUNK = 1 << 20
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def write_archive(path: Path, arrays: Mapping[str, npt.ArrayLike]) -> None:
    """Write or replace a file by these arrays, atomically.

    Raises:
        KernregError: the disk is full or read-only; the old file, if any, is untouched.
    """

    def write(partial: Path) -> None:
        with partial.open("w+b") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.comment = bytes(_COMMENT)
                for name, array in arrays.items():
                    member = zipfile.ZipInfo(f"{name}.npy", _NO_TIME)
                    with archive.open(member, "w", force_zip64=True) as stream:
                        np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
            end = file.seek(-_COMMENT, os.SEEK_END)
            digest = _digest(file, end)
            file.seek(end)
            file.write(MARK + digest)

    replace(path, write)


def read_archive(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file, every byte of it verified.

    Raises:
        Damaged: not written by `write_archive`, truncated, or changed.
        OSError: of the system: no such file, no permission, …
    """
    with path.open("rb") as file:
        end = os.fstat(file.fileno()).st_size - _COMMENT
        if end < 0:
            raise Damaged("it is too short")
        digest = _digest(file, end)
        if file.read() != MARK + digest:
            raise Damaged("its checksum does not fit")
    return read_npz(path)


def _digest(file: BinaryIO, end: int) -> bytes:
    """Of the first `end` bytes; the file then stands behind them."""
    digest, at = xxhash.xxh3_128(), file.seek(0)
    while at < end and (chunk := file.read(min(_CHUNK, end - at))):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest().encode()
