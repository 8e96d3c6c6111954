"""Claims: which tiles are in hand, and whose. Hints between processes on any hosts that fill one store; numbers depend on none.

A claim is a file that exactly one process creates (O_EXCL, which network file systems order at the server) and touches while it
lives. Clocks are never compared: a claim is abandoned when an onlooker has seen it unchanged for long by its own watch, or when
it comes from this machine and its process is gone. Two processes may yet claim one tile, after a pause or on a file system that
answers late: both then compute the same bits, and the later rename replaces a file by its equal.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from kernreg.durable import refusal, sweep
from kernreg.gramfile import TILES, now

FOLDER = "claims"
HEARTBEAT_SECONDS = 10.0
# Above the heartbeat by what NFS may keep a file's attributes (acregmax is 60 s, though an opened file is asked for at once).
PATIENCE_SECONDS = 75.0


class Claims:
    """The claims of one process on the tiles of a store, by name; in a `with` statement, which gives all back.

    Attributes:
        folder: where they are.
    """

    def __init__(self, store: Path, member: str, patience: float | None = None) -> None:
        self.folder = store / FOLDER
        self._patience = PATIENCE_SECONDS if patience is None else patience
        who = {"member": member, "host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
        self._text = json.dumps({**who, "time": now()})
        self._held: set[str] = set()
        self._seen: dict[str, tuple[object, float]] = {}
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def take(self, name: str) -> bool:
        """Claim a tile; False if another process has it in hand.

        Raises:
            KernregError: the folder cannot be written.
        """
        path = self.folder / name
        with self._lock:
            if self._ended.is_set():
                return False
            try:
                self.folder.mkdir(exist_ok=True)
            except OSError as error:
                raise refusal(error, path) from error
            try:
                if path.exists() and not self._remove_abandoned(path):
                    return False
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except (
                FileExistsError,
                FileNotFoundError,
            ):  # another one was first, or has just finished the store
                return False
            except OSError as error:
                raise refusal(error, path) from error
            self._held.add(name)
            with contextlib.suppress(OSError), os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._text)
            return True

    def release(self, name: str) -> None:
        """Give a claim back: its tile is committed, or left to others."""
        with self._lock:
            self._held.discard(name)
            with contextlib.suppress(OSError):  # a hint that stays is found abandoned
                (self.folder / name).unlink()

    def holds(self, name: str) -> bool:
        """Whether this process has the tile in hand."""
        return name in self._held

    def __enter__(self) -> Claims:
        self._heart.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._ended.set()
        for name in tuple(self._held):
            self.release(name)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with self._lock:
                for name in self._held:
                    with contextlib.suppress(OSError):
                        os.utime(self.folder / name)

    def _remove_abandoned(self, path: Path) -> bool:
        """Whether nobody holds the claim any more; of several onlookers the one that removes it is told so."""
        try:
            text, time_ns = _told(path)
            if not (_is_gone(text) or self._unchanged_too_long(path.name, (text, time_ns))):
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def _unchanged_too_long(self, name: str, state: object) -> bool:
        before, since = self._seen.get(name, (None, 0.0))
        if before != state:
            self._seen[name] = (state, time.monotonic())
            return False
        return time.monotonic() - since > self._patience


def clear(store: Path) -> None:
    """Remove the claims in a store that is complete or has no member: killed processes left them."""
    folder = store / FOLDER
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()


def tidy(store: Path) -> None:
    """Remove what killed processes left in a store; the caller is alone there."""
    clear(store)
    sweep(store, store / TILES)


def holders(store: Path) -> list[dict[str, Any]]:
    """Who has tiles in hand, as the claims say: "tile", "member", "host", "pid", "time" of each that can be read."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted((store / FOLDER).iterdir()):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append({"tile": path.name, **json.loads(_told(path)[0])})
    return found


def _told(path: Path) -> tuple[bytes, int]:
    """What a claim says, and when it was last touched; opened, so that a network file system asks its server."""
    with path.open("rb") as file:
        return file.read(4096), os.fstat(file.fileno()).st_mtime_ns


def _is_gone(text: bytes) -> bool:
    """Whether a claim comes from this machine and its process has ended."""
    try:
        who = json.loads(text)
        if who["machine"] != _machine():
            return False
        os.kill(int(who["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return False
    return False


def _machine() -> str:
    """Where a pid means what it means here: containers may share a host's name, and a host that starts anew its pids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"  # nobody else's: told by its silence alone
