"""The detector detects: each thing that a parse must not do, done on purpose, is caught, also where the parser hides it."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from watch import Caught, emptied, outcome

from kernreg.errors import KernregError

assert mmap.PAGESIZE  # `numpy.memmap` imports it when it is first used


def _import_something() -> None:
    sys.modules.pop("this", None)
    __import__("this")


def _listen() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))


def _allocate() -> None:
    np.zeros(2**31).fill(1)


def _spin() -> None:
    while True:
        pass


FORBIDDEN: dict[str, tuple[Callable[[], object], str]] = {
    "exec": (lambda: exec("1 + 1"), "exec"),
    "eval": (lambda: eval("1 + 1"), "exec"),
    "import": (_import_something, "import|open"),
    "os.system": (lambda: os.system("true"), "os.system"),
    "subprocess": (lambda: subprocess.run(["true"], check=True), "subprocess.Popen"),
    "fork": (os.fork, "os.fork"),
    "spawn": (lambda: os.posix_spawn("/bin/true", ["true"], {}), "posix_spawn"),
    "socket": (_listen, "socket"),
    "kill": (lambda: os.kill(os.getpid(), 0), "os.kill"),
    "environment": (lambda: os.putenv("KERNREG_X", "1"), "putenv"),
    "chdir": (lambda: os.chdir("/"), "chdir"),
    "time": (_spin, "CPU time"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_is_forbidden_is_caught(what: str, tmp_path: Path) -> None:
    act, said = FORBIDDEN[what]
    with pytest.raises(Caught, match=said):
        outcome(lambda content, folder: act(), b"", tmp_path, seconds=0.2)


@pytest.mark.parametrize("what", ["exec", "os.system", "socket"])
def test_a_parser_cannot_hide_it(what: str, tmp_path: Path) -> None:
    act, said = FORBIDDEN[what]

    def hides(content: bytes, folder: Path) -> None:
        try:
            act()
        except BaseException:
            return

    with pytest.raises(Caught, match=said):
        outcome(hides, b"", tmp_path)


def test_code_in_a_pickle_is_caught(tmp_path: Path) -> None:
    import pickle

    hostile = b"cos\nsystem\n(S'true'\ntR."
    with pytest.raises(Caught, match=r"pickle\.find_class"):
        outcome(lambda content, folder: pickle.loads(content), hostile, tmp_path)


WRITES: dict[str, Callable[[Path, Path], object]] = {
    "open": lambda path, folder: path.write_text("x"),
    "append": lambda path, folder: path.open("a").close(),
    "os.open": lambda path, folder: os.open(path, os.O_RDWR | os.O_CREAT),
    "mkdir": lambda path, folder: path.mkdir(),
    "unlink": lambda path, folder: path.unlink(missing_ok=True),
    "symlink": lambda path, folder: path.symlink_to("/"),
    "rename": lambda path, folder: (folder / "x").rename(path),
    "touch": lambda path, folder: path.touch(),
    "memory map": lambda path, folder: np.memmap(path, mode="w+", shape=(1,)),
}


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("path", ["outside", "inside/../outside", "inside/link/outside"])
def test_writing_is_caught_outside_of_the_folder_alone(how: str, path: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "x").write_text("x")
    with pytest.raises(Caught):
        outcome(lambda content, folder: WRITES[how](tmp_path / path, folder), b"", folder)
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "outside").is_symlink()
    if how != "symlink":
        outcome(lambda content, folder: WRITES[how](folder / "mine", folder), b"", folder)
    assert emptied(folder).exists()
    assert list(folder.iterdir()) == []


def test_memory_that_is_asked_for_is_caught_also_where_it_is_called_damage(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        outcome(lambda content, folder: _allocate(), b"", tmp_path)

    def calls_it_damage(content: bytes, folder: Path) -> None:
        try:
            _allocate()
        except Exception:
            raise KernregError("the file is damaged") from None

    with pytest.raises(Caught, match="a size was believed"):
        outcome(calls_it_damage, b"", tmp_path)


def test_an_error_is_one_line_and_other_exceptions_come_out(tmp_path: Path) -> None:
    def raises(error: Exception) -> Callable[[bytes, Path], object]:
        def parse(content: bytes, folder: Path) -> object:
            raise error

        return parse

    assert str(outcome(raises(KernregError("no")), b"", tmp_path)) == "no"
    for text in ("two\nlines", "", "x" * 5000):
        with pytest.raises(Caught, match="no line"):
            outcome(raises(KernregError(text)), b"", tmp_path)
    with pytest.raises(ZeroDivisionError):
        outcome(raises(ZeroDivisionError()), b"", tmp_path)


def test_nothing_is_watched_afterwards(tmp_path: Path) -> None:
    outcome(lambda content, folder: None, b"", tmp_path, seconds=0.05)
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    exec("1 + 1")
    (tmp_path.parent / "anywhere").write_text("x")
    assert np.zeros(2**27).nbytes == 2**30
