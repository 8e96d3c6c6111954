"""Files that survive kill −9 and power loss: atomic replacement, the writer's lock, and what errno means."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from kernreg.errors import KernregError

PARTIAL = ".partial"


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Make `path` appear whole or not at all: `write` a partial file, fsync, rename, fsync the folder.

    The partial file has a name of its own, so that two processes at one path do not mix; the last one wins.

    Raises:
        KernregError: the disk is full or read-only, or another OSError; the old `path`, if any, is untouched.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        write(partial)
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except (OSError, RuntimeError) as error:
        raise refusal(error, path) from error
    finally:
        partial.unlink(missing_ok=True)


def sweep(*folders: Path) -> None:
    """Remove what a killed writer left half-written in them; the caller holds the lock."""
    for folder in folders:
        for leftover in folder.glob(f"*{PARTIAL}"):
            leftover.unlink(missing_ok=True)


def sweep_file(path: Path) -> None:
    """Remove what a killed writer of this one file left half-written; no other process writes it now."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*{PARTIAL}"):
        leftover.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """fsync of a file or a folder; some network file systems know none of folders, and need none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def refusal(error: OSError | RuntimeError, path: Path) -> KernregError:
    """What a failed write means; HDF5 hides the errno in the text of its error."""
    number = getattr(error, "errno", None)
    if number is None and (hidden := re.search(r"errno = (\d+)", str(error))):
        number = int(hidden.group(1))
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        cause = os.strerror(number).lower()
        return KernregError(
            f"cannot write {path}: {cause}; finished tiles are kept: "
            "free some space and run the same command again"
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return KernregError(
            f"cannot write {path}: {os.strerror(number).lower()}; "
            f"make {path.parent} writable or choose another folder"
        )
    reason = os.strerror(number) if number else str(error).splitlines()[0]
    return KernregError(f"cannot write {path}: {reason}; finished tiles are kept: run the same command again")


class Lock:
    """The right to write in a folder: flock on `folder/lock`, which the kernel frees when its holder dies."""

    def __init__(self, folder: Path, option: str = "--out") -> None:
        """Take the lock; `option` is the one that chooses another folder.

        Raises:
            KernregError: another process holds it (named with pid and host), or the folder cannot be written.
        """
        path = folder / "lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise refusal(error, path) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 4096, 0)
            os.close(self._descriptor)
            raise KernregError(
                f"{folder} is being written by {_describe(holder)}; "
                f"wait for it to end, or choose another folder ({option})"
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise KernregError(
                f"the file system of {folder} has no file locks ({error.strerror}); "
                f"choose a folder on another one ({option})"
            ) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(
                self._descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0
            )
        except OSError as error:
            self.release()
            raise refusal(error, path) from error

    def release(self) -> None:
        """Give the lock back; twice does no harm."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _describe(holder: bytes) -> str:
    try:
        who = json.loads(holder)
        return f"process {who['pid']} on {who['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
