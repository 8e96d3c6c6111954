"""Where data files lie, and how their bytes are read: whole, hashed, never more than they can hold."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from kernreg.errors import KernregError, reason

# Bytes of one file of a known data set, or of an archive unpacked; the largest genuine ones have 155 MB and 186 MB.
LARGEST_FILE = 2**28
_LONGEST_NAME = 2**16  # bytes of a header that gives another one its name
_NAMING = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def default_data_dir() -> Path:
    """$KERNREG_DATA, else the cache folder of the platform (on Linux ~/.cache/kernreg)."""
    named = os.environ.get("KERNREG_DATA")
    if named:
        return Path(named).expanduser()
    from kernreg.data.fetch import cache_folder

    return cache_folder()


def folders(name: str, data_dir: Path, inner: Sequence[str] = ()) -> list[Path]:
    """Where the files of a data set may lie: data_dir/NAME and data_dir, and the inner folders of each."""
    roots = [data_dir / name, data_dir]
    return [root / part for root in roots for part in inner] + roots


def missing(name: str, data_dir: Path, files: Iterable[str]) -> KernregError:
    """The error for absent files: which, where they were looked for, and the remedies."""
    return KernregError(
        f"{name}: {', '.join(files)} not found under {data_dir}; put it there, name another folder with "
        f"--data-dir, download it with `kernreg data fetch {name}`, or use the embedded set: --data digits"
    )


def sha256(content: bytes) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_plain(path: Path) -> bytes:
    """The bytes of a file of at most LARGEST_FILE bytes."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise KernregError(f"{path} has {size} bytes; no file of this data set is so large")
        return path.read_bytes()
    except OSError as error:
        raise KernregError(f"cannot read {path}: {error.strerror or error}; check its permissions") from None


def read_gzip(path: Path, limit: int) -> bytes:
    """The content of a .gz file; refused beyond `limit` bytes, when cut short, and when damaged."""
    engine = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = engine.decompress(read_plain(path), limit + 1)
    except zlib.error as error:
        raise KernregError(f"{path} is not a whole gzip file ({error}); download it again") from None
    if len(content) > limit:
        raise KernregError(f"{path} unpacks to more than {limit} bytes; no file of this data set is so large")
    if not engine.eof:
        raise KernregError(f"{path} is cut short; download it again")
    if engine.unused_data:
        raise KernregError(f"{path} goes on after its end; download it again")
    return content


def read_archive(path: Path, files: Sequence[str]) -> dict[str, bytes]:
    """The content of the named members of a .tar.gz, whatever folder they have in it; nothing is unpacked to disk."""
    found: dict[str, bytes] = {}
    try:
        with gzip.open(path) as unpacked:
            limited: Any = _Limited(unpacked, LARGEST_FILE)
            with tarfile.open(fileobj=limited, mode="r|", tarinfo=_Member) as archive:
                for member in archive:
                    _require_size(member, LARGEST_FILE)  # which a header before it may have set
                    name = member.name.rsplit("/", 1)[-1]
                    if name not in files or name in found or not member.isfile() or member.issparse():
                        continue
                    body = archive.extractfile(member)
                    content = b"" if body is None else body.read()
                    if len(content) != member.size:
                        raise KernregError(f"{path} is cut short in {name}; download it again")
                    found[name] = content
                    if len(found) == len(files):
                        break
    except (KernregError, MemoryError):
        raise
    except Exception as error:  # a damaged archive makes tarfile, gzip and zlib raise anything
        raise KernregError(
            f"{path} is not a whole .tar.gz file ({reason(error)}); download it again"
        ) from None
    absent = [name for name in files if name not in found]
    if absent:
        raise KernregError(f"{path} lacks {', '.join(absent)}; download it again")
    return found


class _Member(tarfile.TarInfo):
    """A header, refused where what belongs to it would fill memory, or is skipped block by block for ever."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        _require_size(member, _LONGEST_NAME if member.type in _NAMING else LARGEST_FILE)
        return member


def _require_size(member: tarfile.TarInfo, most: int) -> None:
    if not 0 <= member.size <= most:
        raise tarfile.ReadError(f"a member claims {member.size} bytes, more than a file of this data set has")


class _Limited:
    """A stream that ends in an error after `limit` bytes: a few bytes of gzip can unpack to as many as they like."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream, self._limit, self._read = stream, limit, 0

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._read += len(block)
        if self._read > self._limit:
            raise tarfile.ReadError(f"it unpacks to more than {self._limit} bytes")
        return block
