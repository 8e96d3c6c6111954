"""Files that survive kill −9 and power loss: atomic replacement, the writer's lock, and what errno means."""

from __future__ import annotations

import contextlib
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

from kernreg.errors import KernregError, one_line, shown

PARTIAL = ".partial"
_HOLDER_BYTES = 256  # of one size, so that members who write at once write the same


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
        with contextlib.suppress(OSError):
            partial.unlink()


def require_folder(folder: Path) -> None:
    """Make a folder for results, before anything is computed. Raises KernregError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise refusal(error, folder / "results") from error


def write_bytes(path: Path, content: bytes) -> None:
    """`replace` a file by these bytes."""

    def write(partial: Path) -> None:
        partial.write_bytes(content)

    replace(path, write)


def write_text(path: Path, text: str) -> None:
    """`replace` a file by this text in UTF-8, its line ends as they are."""
    write_bytes(path, text.encode())


def create(path: Path, write: Callable[[Path], None]) -> bool:
    """As `replace`, but of several processes on any hosts that create `path` at once one does; False for the others.

    Raises:
        KernregError: as `replace`, or the file system has no hard links, by which the first one is told.
    """
    mine = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new{PARTIAL}")
    replace(mine, write)
    try:
        os.link(mine, path)
        sync(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise KernregError(
                f"the file system of {path.parent} has no hard links, so members cannot tell who was first: start one "
                "`kernreg gram` without --member, end it (Ctrl-C) once it computes, and then the members"
            ) from error
        raise refusal(error, path) from error
    finally:
        mine.unlink(missing_ok=True)
    return True


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
    if number in (errno.EISDIR, errno.ENOTDIR):
        return KernregError(
            f"cannot write {path}: {os.strerror(number).lower()}; remove what is in its place and run the same "
            "command again"
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return KernregError(
            f"cannot write {path}: {os.strerror(number).lower()}; "
            f"make {path.parent} writable or choose another folder"
        )
    reason = os.strerror(number) if number else str(error).splitlines()[0]
    return KernregError(f"cannot write {path}: {reason}; finished tiles are kept: run the same command again")


class Busy(KernregError):
    """Another process writes there."""


class Lock:
    """The right to write in a folder: flock on `folder/lock`, which the kernel frees when its holder dies.

    A shared one keeps a single writer out, and a single writer keeps it out, as far as the file system tells: where it has no
    locks, or keeps them to each host, a shared one is granted and proves nothing.
    """

    def __init__(self, folder: Path, option: str = "--out", shared: bool = False) -> None:
        """Take the lock, alone or among members that share it; `option` is the one that chooses another folder.

        Raises:
            Busy: another process holds it (named with pid and host).
            KernregError: the folder cannot be written, or has no locks.
        """
        self.shared, path = shared, folder / "lock"
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise refusal(error, path) from error
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 4096, 0)
            os.close(self._descriptor)
            raise Busy(
                f"{folder} is being written by {_describe(holder)}; "
                f"wait for it to end, or choose another folder ({option})"
            ) from None
        except OSError as error:
            if shared:
                self.release()
                return
            os.close(self._descriptor)
            raise KernregError(
                f"the file system of {folder} has no file locks ({error.strerror}); "
                f"choose a folder on another one ({option})"
            ) from error
        who = {"members": True} if shared else {"pid": os.getpid(), "host": socket.gethostname()}
        try:
            os.pwrite(self._descriptor, json.dumps(who).encode().ljust(_HOLDER_BYTES), 0)
        except OSError as error:
            self.release()
            raise refusal(error, path) from error

    def alone(self) -> bool:
        """Make a shared lock one of its own; False, and it stays as it was, if others share it or that cannot be known."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (OSError, ValueError):
            if self._descriptor >= 0:
                with contextlib.suppress(OSError):  # a conversion that fails has given the old lock up
                    fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        return True

    def release(self) -> None:
        """Give the lock back; twice does no harm."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _describe(holder: bytes) -> str:
    try:
        who = json.loads(holder)
        if "members" in who:
            return "members that fill it together"
        return f"process {shown(who['pid'])} on {one_line(str(who['host']), 80)}"
    except (ValueError, LookupError, TypeError, RecursionError):
        return "another process"
