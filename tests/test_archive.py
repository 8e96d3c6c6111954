"""Archives: what goes in comes out, every flipped bit is noticed before the file is parsed, and no clock matters."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernreg.archive import read_archive, write_archive
from kernreg.errors import KernregError
from kernreg.npzfile import Damaged

ARRAYS: dict[str, Any] = {
    "a": np.arange(12.0).reshape(3, 4),
    "none": np.empty((0, 3), np.int64),
    "text": np.array("ridge λ"),
    "flag": np.array(True),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_archive(tmp_path / "a.npz", ARRAYS)
    return tmp_path / "a.npz"


def test_what_goes_in_comes_out(file: Path) -> None:
    found = read_archive(file)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with np.load(file, allow_pickle=False) as plain:
        np.testing.assert_array_equal(plain["a"], ARRAYS["a"])
    assert [path.name for path in file.parent.iterdir()] == ["a.npz"]


def test_equal_arrays_are_equal_files(file: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "b.npz", ARRAYS)
    assert (tmp_path / "b.npz").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("year", [-20, 0, 9, 200])
def test_a_clock_that_zip_cannot_say(year: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: year * 365.25 * 86400)
    write_archive(tmp_path / "a.npz", ARRAYS)
    assert list(read_archive(tmp_path / "a.npz")) == list(ARRAYS)


def test_any_flipped_bit_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    for at in range(len(whole)):
        for bit in (1 << at % 8, 0x80 >> at % 8):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            with pytest.raises(Damaged):
                read_archive(file)


def test_any_other_length_is_noticed(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for size in (*range(0, len(whole), 37), len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            read_archive(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(Damaged):
        read_archive(file)
    np.savez(tmp_path / "plain.npz", **ARRAYS)
    with pytest.raises(Damaged):
        read_archive(tmp_path / "plain.npz")
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "absent.npz")


def test_a_disk_that_refuses_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(KernregError, match="no space left on device"):
        write_archive(file, {"a": np.zeros(3)})
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["a.npz"]
