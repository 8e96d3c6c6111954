"""HDF5 into a sink: the same files, and a disk that refuses at any byte is one error, without a crash or a word of HDF5's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from kernreg.sink import writing

A = np.arange(5000.0).reshape(50, 100)


def fill(path: Path, of: type[Exception] | None = None) -> None:
    with writing(path) as sink, h5py.File(sink, "w", userblock_size=512) as file:
        file["a"], file["none"] = A, np.empty((0, 2))
        file.attrs["text"] = "λ" * 300
        if of is not None:
            raise of("not of the disk")


def test_a_file_is_read_without_the_sink(tmp_path: Path) -> None:
    fill(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["a"], A)
        assert file.attrs["text"] == "λ" * 300
        assert file["none"].shape == (0, 2)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="not of the disk"):
        fill(tmp_path / "a.h5", ZeroDivisionError)


LIMITED = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_sink
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        test_sink.fill(Path(sys.argv[2]))
    except OSError as error:
        print(limit, error.errno)
"""


def test_a_refusal_at_any_byte_is_one_error(tmp_path: Path) -> None:
    fill(tmp_path / "a.h5")
    size = (tmp_path / "a.h5").stat().st_size
    limits = [*range(0, 4096, 97), *range(4096, size, 2999), size - 1]
    command = [
        sys.executable,
        "-c",
        LIMITED,
        str(Path(__file__).parent),
        str(tmp_path / "b.h5"),
        *map(str, limits),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{limit} 27" for limit in limits]
