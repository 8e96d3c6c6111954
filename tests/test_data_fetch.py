"""Downloads, against a server of this test's own on 127.0.0.1."""

import gzip
import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernreg.data import default_data_dir, load
from kernreg.data.fetch import REMOTES, Remote, fetch
from kernreg.data.idx import FILES
from kernreg.data.registry import ENTRIES
from kernreg.errors import KernregError


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, format: str, *arguments: Any) -> None:
        self.asked.append(self.path)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder with small MNIST files, the address that serves it, and their checksums in the registry."""
    folder = tmp_path / "served"
    folder.mkdir()
    checksums = {}
    for file in FILES:
        rows = 30 if file.startswith("train") else 10
        shape = (rows, 28, 28) if "images" in file else (rows,)
        array = (np.arange(np.prod(shape)) % 10).astype(np.uint8)
        header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
        content = gzip.compress(header + array.tobytes())
        (folder / f"{file}.gz").write_bytes(content)
        checksums[f"{file}.gz"] = hashlib.md5(content).hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setitem(REMOTES, "mnist", Remote(checksums, (f"{address}/gone/", f"{address}/")))
    Quiet.asked.clear()
    yield folder, address
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_is_fetched_can_be_loaded_and_is_not_fetched_twice(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    folder, address = served
    paths = fetch("mnist", tmp_path / "data", base_url=address, progress=False)
    assert [path.name for path in paths] == [f"{file}.gz" for file in FILES]
    assert {path.parent for path in paths} == {tmp_path / "data" / "mnist"}
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in paths)
    assert (load("mnist", data_dir=tmp_path / "data").n, len(Quiet.asked)) == (30, 4)
    fetch("mnist", tmp_path / "data", base_url=address, progress=False)
    assert len(Quiet.asked) == 4


def test_the_next_mirror_is_tried(served: tuple[Path, str], tmp_path: Path) -> None:
    paths = fetch("mnist", tmp_path / "data", progress=False)
    assert len(paths) == 4
    assert {f"/gone/{path.name}" for path in paths} | {f"/{path.name}" for path in paths} == set(Quiet.asked)


def test_progress_is_shown_on_stderr(
    served: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch("mnist", tmp_path / "data", progress=True)
    shown = capfd.readouterr()
    assert "100%" in shown.err
    assert shown.out == ""


def test_a_wrong_checksum_is_an_error_and_leaves_no_file(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    path = folder / f"{FILES[1]}.gz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        KernregError, match=r"could not download train-labels.*wrong checksum, which was not kept"
    ):
        fetch("mnist", tmp_path / "data", base_url=address, progress=False)
    assert [p.name for p in (tmp_path / "data" / "mnist").iterdir()] == [f"{FILES[0]}.gz"]


def test_a_damaged_local_file_is_replaced(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    paths = fetch("mnist", tmp_path / "data", base_url=address, progress=False)
    paths[2].write_bytes(b"damaged")
    fetch("mnist", tmp_path / "data", base_url=address, progress=False)
    assert paths[2].read_bytes() == (folder / paths[2].name).read_bytes()


def test_no_network_is_one_line_with_every_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    monkeypatch.setitem(REMOTES, "cifar10", Remote(REMOTES["cifar10"].files, (address, address + "b/")))
    with pytest.raises(KernregError) as caught:
        fetch("cifar10", tmp_path, progress=False)
    message = str(caught.value)
    assert "\n" not in message
    assert message.count("cannot be reached") == 2
    for part in (
        "cifar-10-python.tar.gz",
        str(tmp_path / "cifar10"),
        "kernreg data fetch cifar10",
        "--data digits",
    ):
        assert part in message
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernreg.data.fetch.SILENCE_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(KernregError, match="did not answer in time"):
            fetch("mnist", tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", progress=False)


def test_a_folder_that_cannot_be_made_is_named(served: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KernregError, match=r"cannot write .*file/mnist.*name another --data-dir"):
        fetch("mnist", tmp_path / "file", base_url=served[1], progress=False)


def test_only_data_sets_with_original_files_are_fetched(tmp_path: Path) -> None:
    assert set(REMOTES) == {name for name, entry in ENTRIES.items() if entry.kind == "files"}
    with pytest.raises(KernregError, match="'digits' is not downloaded; these are: cifar10, cifar100"):
        fetch("digits", tmp_path)


def test_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNREG_DATA", str(tmp_path / "here"))
    assert default_data_dir() == tmp_path / "here"
    monkeypatch.delenv("KERNREG_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_data_dir() == tmp_path / "cache" / "kernreg"
