"""MNIST and Fashion-MNIST from IDX files: whole, compressed, damaged."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from kernreg.data import describe, load, reload
from kernreg.data.idx import FILES
from kernreg.errors import KernregError

ROWS = {"train": 60, "t10k": 20}


def images(rows: int) -> NDArray[np.uint8]:
    return np.random.Generator(np.random.PCG64(rows)).integers(0, 256, (rows, 28, 28)).astype(np.uint8)


def labels(rows: int) -> NDArray[np.uint8]:
    return ((3 * np.arange(rows)) % 10).astype(np.uint8)


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, compress: bool = True) -> Path:
    folder.mkdir(parents=True)
    for file in FILES:
        rows = ROWS[file.partition("-")[0]]
        content = idx(images(rows) if "images" in file else labels(rows))
        if compress:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / file).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_images_and_labels_come_out_as_they_were_written(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / name)
    data = load(name, data_dir=tmp_path, normalise="none", dtype="float64")
    assert (data.n, data.t, data.shape) == (60, 20, (28, 28, 1))
    np.testing.assert_array_equal(data.x_train[..., 0], images(60)[data.rows_train])
    np.testing.assert_array_equal(data.x_test[..., 0], images(20)[data.rows_test])
    np.testing.assert_array_equal(data.labels_train, labels(60)[data.rows_train])
    np.testing.assert_array_equal(data.labels_test, labels(20)[data.rows_test])
    assert describe(name, tmp_path)["where"] == str(folder)


def test_plain_and_compressed_files_are_one_data_set(tmp_path: Path) -> None:
    write(tmp_path / "a" / "mnist")
    write(tmp_path / "b" / "MNIST" / "raw", compress=False)
    write(tmp_path / "c", compress=False)
    dotted = tmp_path / "c" / "train-images-idx3-ubyte"
    dotted.rename(dotted.with_name("train-images.idx3-ubyte"))
    first = load("mnist", n=20, data_dir=tmp_path / "a")
    for other in ("b", "c"):
        data = reload(first.provenance, tmp_path / other)
        np.testing.assert_array_equal(data.x_train, first.x_train)
        assert data.provenance["hashes"] == first.provenance["hashes"]


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (FILES[0], b"", "cut short: 0 bytes"),
        (FILES[0], idx(images(60))[:15], "cut short: 15 bytes"),
        (FILES[0], idx(images(60))[:-1], "claims 60 × 28 × 28 bytes of data and has 47039"),
        (FILES[0], idx(images(60)) + b"\0", "and has 47041"),
        (FILES[0], struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 28), "claims 4294967295"),
        (FILES[0], b"\0\0\x0d\x03" + idx(images(60))[4:], "begins with 00000d03, not 00000803"),
        (FILES[0], idx(labels(60)), "begins with 00000801"),
        (FILES[0], idx(images(60)[:, :27].copy()), r"shape \(60, 27, 28\)"),
        (FILES[0], idx(images(0)), r"shape \(0, 28, 28\)"),
        (FILES[1], idx(labels(59)), "60 train images but 59 labels"),
        (FILES[3], idx(labels(20) + np.uint8(1)), "test label 10 lies outside 0..9"),
    ],
)
def test_damaged_files_are_refused_by_what_is_wrong(
    tmp_path: Path, file: str, content: bytes, reason: str
) -> None:
    folder = write(tmp_path / "mnist", compress=False)
    (folder / file).write_bytes(content)
    with pytest.raises(KernregError, match=reason):
        load("mnist", data_dir=tmp_path)


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "mnist")
    path = folder / f"{FILES[0]}.gz"
    whole = path.read_bytes()
    for content, reason in (
        (whole[:-9], "cut short"),
        (b"plain", "not a whole gzip file"),
        (whole[:-8] + b"\0" * 8, "not a whole gzip file"),
        (whole + b"more", "goes on after its end"),
    ):
        path.write_bytes(content)
        with pytest.raises(KernregError, match=reason):
            load("mnist", data_dir=tmp_path)


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "mnist")
    monkeypatch.setattr("kernreg.data.idx.LARGEST_FILE", 10**6)
    (folder / f"{FILES[0]}.gz").write_bytes(gzip.compress(bytes(10**6 + 1)))
    with pytest.raises(KernregError, match="unpacks to more than 1000000 bytes"):
        load("mnist", data_dir=tmp_path)


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(KernregError) as caught:
        load("fashion-mnist", data_dir=tmp_path)
    for part in (*FILES, "kernreg data fetch fashion-mnist", "--data digits", "--data-dir"):
        assert part in str(caught.value)
    folder = write(tmp_path / "mnist")
    (tmp_path / f"{FILES[2]}.gz").write_bytes((folder / f"{FILES[2]}.gz").read_bytes())
    (folder / f"{FILES[2]}.gz").unlink()
    with pytest.raises(KernregError, match=r"mnist: t10k-images-idx3-ubyte\.gz not found under"):
        load("mnist", data_dir=tmp_path)
    assert describe("mnist", tmp_path)["present"] is False
