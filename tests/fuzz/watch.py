"""A watch over a parse: nothing in the file runs, nothing is written elsewhere, time and memory are bounded.

Python tells audit hooks what it is about to do (PEP 578), whoever asked for it. What a C library does on its own it does not
tell: whether HDF5 follows a link is seen by what comes out, see `hdf5file.SECRET`. A hook cannot be removed; this one looks
away unless a watch is on.
"""

from __future__ import annotations

import codecs
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from kernreg.errors import KernregError

SECONDS = 2.0  # of this process's CPU time, for one input
ROOM = 512 << 20  # bytes of address space that a parse may add: an input has at most 64 KiB
LONGEST_ERROR = 2000  # characters of the one line that an error is
# Hypothesis draws the same cases in every run of the tests; with this in the environment it draws new ones.
REPLAYED = "KERNREG_FUZZ_RANDOM" not in os.environ

# Running code, loading it, starting or reaching something else. A name that ends in a dot stands for all that begin so.
FORBIDDEN: tuple[str, ...] = (
    *(
        "exec",
        "import",
        "marshal.",
        "pickle.",
        "code.",
        "cpython.",
        "ctypes.",
        "subprocess.",
        "pty.",
        "webbrowser.",
    ),
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill", "os.killpg"),
    *("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "poplib.", "imaplib.", "telnetlib.", "nntplib."),
    *("os.putenv", "os.unsetenv", "os.chdir", "os.fchdir", "sys.setprofile", "sys.settrace"),
)
# Writing, with the places of the paths among the arguments.
WRITES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("remove", "mkdir", "rmdir", "truncate", "chmod", "chown", "utime", "setxattr"), (0,)),
    **dict.fromkeys(("rename", "link", "symlink"), (0, 1)),
}
for _encoding in ("ascii", "latin-1", "utf-8", "utf-16", "utf-32", "raw-unicode-escape"):
    codecs.lookup(_encoding)  # imports a module when it is first asked for
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Caught(BaseException):
    """What a parse must not do; no `except Exception` of the parser hides it."""


@dataclass
class _Watch:
    """The one watch that may be on, and what it has seen."""

    folder: Path | None = None
    seen: list[str] = field(default_factory=list)


_WATCH = _Watch()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    folder = _WATCH.folder
    if folder is None:
        return
    what = None
    if any(event == name or (name.endswith(".") and event.startswith(name)) for name in FORBIDDEN):
        what = f"{event} {str(arguments)[:200]}"
    elif event == "open":
        path, mode, flags = arguments
        writes = any(letter in str(mode or "") for letter in "wax+") or (flags or 0) & _WRITING
        if writes and not _inside(path, folder):
            what = f"open to write {path!r}"
    elif event.startswith("os.") and event[3:] in WRITES:
        outside = [arguments[i] for i in WRITES[event[3:]] if not _inside(arguments[i], folder)]
        if outside:
            what = f"{event} {outside}"
    if what is not None:
        _WATCH.seen.append(what)
        raise Caught(what)


sys.addaudithook(_hook)


def _inside(path: Any, folder: Path) -> bool:
    if isinstance(path, int):
        return True  # a file that is open already
    return Path(os.path.realpath(os.fsdecode(path))).is_relative_to(folder)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise Caught(f"more than its share of CPU time, in {frame.f_code.co_qualname if frame else '?'}")


@contextmanager
def watching(folder: Path, seconds: float = SECONDS, room: int = ROOM) -> Iterator[None]:
    """Raise `Caught` if what is done inside runs code, writes outside of `folder`, or takes more than its share.

    A loop in C is not interrupted by a signal: after ten times as long the whole process ends, with a traceback.
    """
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, _too_long)
    faulthandler.dump_traceback_later(10 * seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    _WATCH.seen = []
    real = folder.resolve()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    _WATCH.folder = real
    try:
        yield
    finally:
        _WATCH.folder = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, before)
    if _WATCH.seen:
        raise Caught(_WATCH.seen[0])  # somebody's `except BaseException` swallowed it


def outcome(
    parse: Callable[[bytes, Path], object], content: bytes, folder: Path, seconds: float = SECONDS
) -> KernregError | None:
    """None where the content is accepted, or the one line that refuses it; everything else is raised.

    Raises:
        Caught: see `watching`; an error of several lines, or one after memory was asked for that is not there.
        Exception: whatever else comes out of the parser: a defect.
    """
    try:
        with watching(folder, seconds):
            parse(content, folder)
    except KernregError as error:
        text = str(error)
        if "\n" in text or not text or len(text) > LONGEST_ERROR:
            raise Caught(f"an error that is no line: {text[:300]!r}") from error
        for cause in _chain(error):
            if isinstance(cause, MemoryError) and not _of_the_compiler(cause):
                raise Caught(f"a size was believed: {cause}") from error
        return error
    return None


def _of_the_compiler(error: BaseException) -> bool:
    """Python's parser, too, calls an expression that is nested too deeply a MemoryError."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and Path(at.tb_frame.f_code.co_filename).name == "ast.py"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What the error was raised from or while handling, `from None` or not."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error.__cause__, error.__context__]
    while left:
        cause = left.pop()
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            left += [cause.__cause__, cause.__context__]


def emptied(folder: Path) -> Path:
    """The folder, without what the last input left in it."""
    for path in sorted(folder.rglob("*"), reverse=True):
        with suppress(FileNotFoundError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    return folder
