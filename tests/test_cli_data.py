"""kernreg data: list, show and fetch, the last from a server of its own."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kernreg.cli.main import main
from kernreg.data import fetch, names


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()[-1:]
    assert line.startswith("kernreg: error: ")
    return line


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that has the one file of a data set, registered as mnist."""
    (tmp_path / "served").mkdir()
    content = b"some images"
    (tmp_path / "served" / "images.gz").write_bytes(content)
    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        remote = fetch.Remote({"images.gz": hashlib.md5(content).hexdigest()}, (url,))
        monkeypatch.setitem(fetch.REMOTES, "mnist", remote)
        yield url
        server.shutdown()


def test_list_names_every_data_set_and_whether_it_is_here(tmp_path: Path) -> None:
    text = run("list", "--data-dir", tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in text[1:]] == list(names())
    entries = {
        entry["name"]: entry for entry in json.loads(run("list", "--data-dir", tmp_path, "--json").stdout)
    }
    assert entries["digits"]["present"]
    assert not entries["cifar10"]["present"]
    assert entries["cifar10"]["shape"] == [32, 32, 3]


def test_show_a_name_and_a_file(tmp_path: Path) -> None:
    assert "CC BY 4.0" in run("show", "digits").stdout
    assert json.loads(run("show", "digits", "--json").stdout)["classes"] == 10
    file = tmp_path / "mine.npz"
    np.savez(file, X=np.random.default_rng(0).random((30, 4)), y=np.arange(30) % 3)
    shown = json.loads(run("show", file, "--json").stdout)
    assert (shown["pool"], shown["shape"], shown["classes"]) == (30, [4], 3)
    assert "unknown data set 'mnst'" in refused("show", "mnst")
    assert "does not exist" in refused("show", tmp_path / "absent.npz")


def test_fetch_downloads_once_and_says_where(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    result = run("fetch", "mnist", "--data-dir", folder)
    assert result.exit_code == 0, result.output
    (path,) = result.stdout.splitlines()
    assert Path(path).read_bytes() == b"some images"
    assert Path(path).is_relative_to(folder)
    assert json.loads(run("fetch", "mnist", "--data-dir", folder, "--json").stdout)["files"] == [path]


def test_fetch_refuses_a_wrong_checksum_and_what_is_not_downloaded(address: str, tmp_path: Path) -> None:
    (tmp_path / "served" / "images.gz").write_bytes(b"other images")
    assert "wrong checksum" in refused("fetch", "mnist", "--data-dir", tmp_path / "data")
    assert not list((tmp_path / "data").rglob("images*"))
    assert "'digits' is not downloaded" in refused("fetch", "digits")
