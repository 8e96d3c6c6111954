"""CIFAR files in all their forms, genuine and hostile."""

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernreg.data import describe, load, reload
from kernreg.data.pickles import load_pickle
from kernreg.errors import KernregError

TRAIN_10 = [f"data_batch_{i}" for i in range(1, 6)]
PER_BATCH = 20


def planes(seed: int, rows: int) -> NDArray[np.uint8]:
    return np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (rows, 3072)).astype(np.uint8)


def text(content: bytes) -> bytes:
    """A Python 2 str as its pickle protocol 2 writes it."""
    if len(content) < 256:
        return b"U" + bytes([len(content)]) + content
    return b"T" + struct.pack("<i", len(content)) + content


def python2_batch(x: NDArray[np.uint8], labels: list[int], key: bytes) -> bytes:
    """The bytes Python 2 and NumPy 1 write: all strings are byte strings, the array is one of them."""
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNN"
        + 2 * b"J\xff\xff\xff\xff"
    )
    shape = b"J" + struct.pack("<i", x.shape[0]) + b"M" + struct.pack("<H", x.shape[1]) + b"\x86"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array = empty + b"(K\x01" + shape + dtype + b"K\x00tb\x89" + text(x.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    fields = [(b"batch_label", text(b"training batch 1 of 5")), (key, numbers), (b"data", array)]
    return b"\x80\x02}q\x01(" + b"".join(text(name) + value for name, value in fields) + b"u."


def write_python10(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i, name in enumerate([*TRAIN_10, "test_batch"]):
        labels = [(7 * row + i) % 10 for row in range(PER_BATCH)]
        (folder / name).write_bytes(python2_batch(planes(i, PER_BATCH), labels, b"labels"))
    return folder


def write_binary10(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for i, name in enumerate([*TRAIN_10, "test_batch"]):
        labels = np.array([[(7 * row + i) % 10] for row in range(PER_BATCH)], dtype=np.uint8)
        (folder / f"{name}.bin").write_bytes(np.hstack([labels, planes(i, PER_BATCH)]).tobytes())
    return folder


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)


def test_a_python_2_batch_gives_its_pixels_and_labels(tmp_path: Path) -> None:
    write_python10(tmp_path / "cifar-10-batches-py")
    data = load("cifar10", data_dir=tmp_path, normalise="none", dtype="float64")
    assert data.x_train.shape == (100, 32, 32, 3)
    assert data.x_test.shape == (20, 32, 32, 3)
    pool = np.concatenate([planes(i, PER_BATCH) for i in range(5)])
    labels = np.array([(7 * row + i) % 10 for i in range(5) for row in range(PER_BATCH)])
    for row, number in zip(data.x_train, data.rows_train, strict=True):
        for c in range(3):
            np.testing.assert_array_equal(row[:, :, c].ravel(), pool[number, 1024 * c : 1024 * (c + 1)])
    np.testing.assert_array_equal(data.labels_train, labels[data.rows_train])
    assert data.provenance["class_names"][3] == "cat"
    assert sorted(data.provenance["hashes"]) == sorted([*TRAIN_10, "test_batch"])


def test_folder_archive_and_binary_version_give_the_same_rows(tmp_path: Path) -> None:
    folder = write_python10(tmp_path / "a" / "cifar-10-batches-py")
    (tmp_path / "b" / "cifar10").mkdir(parents=True)
    pack(folder, tmp_path / "b" / "cifar10" / "cifar-10-python.tar.gz")
    binary = write_binary10(tmp_path / "c" / "cifar-10-batches-bin")
    (tmp_path / "d").mkdir()
    pack(binary, tmp_path / "d" / "cifar-10-binary.tar.gz")
    first = load("cifar10", n=33, data_dir=tmp_path / "a", seed=5)
    for other in ("b", "c", "d"):
        data = load("cifar10", n=33, data_dir=tmp_path / other, seed=5)
        np.testing.assert_array_equal(data.x_train, first.x_train)
        np.testing.assert_array_equal(data.y_test, first.y_test)
    assert load("cifar10", n=5, data_dir=tmp_path / "b").provenance["hashes"] == first.provenance["hashes"]
    assert load("cifar10", n=5, data_dir=folder).provenance["path"] == str(folder)
    assert reload(first.provenance, tmp_path / "b").n == 33


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_batch_pickled_by_python_3_with_bytes_keys(tmp_path: Path, protocol: int) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for split, rows in (("train", 200), ("test", 100)):
        batch = {
            b"data": planes(rows, rows),
            b"fine_labels": [row % 100 for row in range(rows)],
            b"coarse_labels": [row % 20 for row in range(rows)],
        }
        (folder / split).write_bytes(pickle.dumps(batch, protocol=protocol))
    data = load("cifar100", data_dir=tmp_path, normalise="none")
    assert data.y_train.shape == (200, 100)
    assert data.labels_train is not None
    np.testing.assert_array_equal(data.labels_train, data.rows_train % 100)
    np.testing.assert_array_equal(np.bincount(data.labels_train[:100]), 1)
    binary = tmp_path / "binary" / "cifar-100-binary"
    binary.mkdir(parents=True)
    for split, rows in (("train", 200), ("test", 100)):
        row = np.arange(rows)
        both = np.stack([row % 20, row % 100], axis=1).astype(np.uint8)
        (binary / f"{split}.bin").write_bytes(np.hstack([both, planes(rows, rows)]).tobytes())
    again = load("cifar100", data_dir=tmp_path / "binary", normalise="none")
    np.testing.assert_array_equal(again.x_train, data.x_train)
    np.testing.assert_array_equal(again.labels_train, data.labels_train)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_code_in_a_batch_is_refused_and_does_not_run(tmp_path: Path) -> None:
    folder = write_python10(tmp_path / "cifar-10-batches-py")
    marker = tmp_path / "ran"
    hostile = pickle.dumps({"data": Malicious(marker), "labels": [0]})
    pickle.loads(hostile)
    assert marker.exists(), "the attack must work on an ordinary unpickler, or this test proves nothing"
    marker.unlink()
    (folder / "data_batch_3").write_bytes(hostile)
    with pytest.raises(KernregError, match=r"data_batch_3 .*refused: it names (posix|nt)\.system"):
        load("cifar10", data_dir=tmp_path)
    assert not marker.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
DTYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"\x80\x02cnumpy\nndarray\nJ\x00\x00\x00\x7f\x85R.", "calls numpy.ndarray"),
        (b"\x80\x02cnumpy\nload\nU\x01x\x85R.", "names numpy.load"),
        (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "names numpy.ndarray.__class__"),
        (b"\x80\x02cnumpy\ndtype\nU\x01O\x85R.", "array of type 'O'"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aU\x04zlib\x86R.", "encodes to 'zlib'"),
        (b"\x80\x02c_codecs\nencode\n}U\x04call}sb.", "changes a function"),
        (b"\x80\x02]r\xff\xff\xff\xff.", "memo"),
        (b"\x80\x02U\x01xQ.", "outside the file"),
        (
            b"\x80\x02" + ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE + b"\x89U\x03abctb.",
            "claims an array",
        ),
        (b"\x80\x02" + ARRAY + b"(K\x01K\x03\x85" + DTYPE + b"\x88U\x03abctb.", "unusual layout"),
        (b"\x80\x02" + ARRAY + b"(K\x01U\x01a\x85" + DTYPE + b"\x89U\x03abctb.", "unusual layout"),
        (b"\x80\x02" + ARRAY[:-8] + b"J\xff\xff\xff\x7f\x85U\x01b\x87R.", "unusual way"),
        (b"\x80\x02" + DTYPE + b"(K\x03U\x01>tb.", "unusual type"),
        (b"\x80\x02]q\x00.", "holds list"),
        (b"", "not a CIFAR batch"),
        (b"\x80\x02}q", "not a CIFAR batch"),
        (b"\x80\x02}.", "no uint8 array 'data'"),
    ],
)
def test_hostile_streams_are_refused(tmp_path: Path, stream: bytes, reason: str) -> None:
    folder = write_python10(tmp_path / "cifar-10-batches-py")
    (folder / "data_batch_1").write_bytes(stream)
    with pytest.raises(KernregError, match=reason):
        load("cifar10", data_dir=tmp_path)


def test_every_truncation_and_random_damage_is_refused_or_still_a_dictionary() -> None:
    good = python2_batch(planes(0, 1), [3], b"labels")
    for stop in [*range(len(good) - 3072), len(good) - 1]:
        with pytest.raises(KernregError, match="batch is not a CIFAR batch"):
            load_pickle(good[:stop], "batch")
    random = np.random.Generator(np.random.PCG64(0))
    refused = 0
    for _ in range(500):
        damaged = bytearray(good)
        damaged[int(random.integers(0, 220))] = int(random.integers(0, 256))
        try:
            assert isinstance(load_pickle(bytes(damaged), "batch"), dict)
        except KernregError:
            refused += 1
    assert refused > 100


def batch(x: object, labels: object) -> bytes:
    return pickle.dumps({"data": x, "labels": labels}, protocol=4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (batch(planes(0, 4), [0, 1, 2]), "4 images but 3 labels"),
        (batch(planes(0, 4), [0, 1, 2, 10]), "lie outside 0..9"),
        (batch(planes(0, 4), [0, 1, 2, -1]), "lie outside 0..9"),
        (batch(planes(0, 4), [0, 1, 2, 2**80]), "beyond 64 bits"),
        (batch(planes(0, 4), [0, 1, 2, 2.0]), "no list of integers"),
        (batch(planes(0, 4), None), "no list of integers"),
        (batch(planes(0, 4)[:, :100].copy(), [0] * 4), "no uint8 array"),
        (batch(planes(0, 0), []), "no uint8 array"),
        (batch(np.zeros((4, 3072), dtype=np.int64), [0] * 4), "no uint8 array"),
    ],
)
def test_batches_that_make_no_sense_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    folder = write_python10(tmp_path / "cifar-10-batches-py")
    (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(KernregError, match=reason):
        load("cifar10", data_dir=tmp_path)


def test_missing_files_are_named_with_every_remedy(tmp_path: Path) -> None:
    with pytest.raises(KernregError) as caught:
        load("cifar10", data_dir=tmp_path)
    for part in (
        "cifar-10-python.tar.gz",
        str(tmp_path),
        "--data-dir",
        "kernreg data fetch cifar10",
        "--data digits",
    ):
        assert part in str(caught.value)
    assert describe("cifar10", tmp_path)["present"] is False
    folder = write_python10(tmp_path / "cifar-10-batches-py")
    assert describe("cifar10", tmp_path)["where"] == str(folder)
    (folder / "data_batch_4").unlink()
    (folder / "test_batch").unlink()
    with pytest.raises(KernregError, match="cifar10: data_batch_4, test_batch not found"):
        load("cifar10", data_dir=tmp_path)


def test_a_whole_archive_is_preferred_to_a_part_of_its_folder(tmp_path: Path) -> None:
    folder = write_python10(tmp_path / "cifar-10-batches-py")
    pack(folder, tmp_path / "cifar-10-python.tar.gz")
    (folder / "data_batch_4").unlink()
    assert describe("cifar10", tmp_path)["where"] == str(tmp_path / "cifar-10-python.tar.gz")
    assert load("cifar10", data_dir=tmp_path).n == 100
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    assert describe("cifar10", tmp_path)["present"] is False


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    folder = write_python10(tmp_path / "made" / "cifar-10-batches-py")
    archive = tmp_path / "cifar-10-python.tar.gz"
    pack(folder, archive)
    whole = archive.read_bytes()
    for content in (
        whole[: len(whole) // 2],
        whole[:10],
        b"not an archive",
        whole[:5000] + b"\0" * 64 + whole[5064:],
    ):
        archive.write_bytes(content)
        with pytest.raises(KernregError, match="download it again"):
            load("cifar10", data_dir=tmp_path)
    (folder / "data_batch_2").unlink()
    pack(folder, archive)
    with pytest.raises(KernregError, match="lacks data_batch_2"):
        load("cifar10", data_dir=tmp_path)


def test_a_member_that_claims_more_than_its_archive_can_hold_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = 2**33
        tar.addfile(member)
        tar.fileobj.write(b"\0" * 1024)
    with pytest.raises(KernregError, match="claims 8589934592 bytes"):
        load("cifar10", data_dir=tmp_path)
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link, io.BytesIO())
    with pytest.raises(KernregError, match="lacks data_batch_1"):
        load("cifar10", data_dir=tmp_path)


def test_a_binary_batch_of_a_wrong_size_is_refused(tmp_path: Path) -> None:
    folder = write_binary10(tmp_path / "cifar-10-batches-bin")
    content = (folder / "test_batch.bin").read_bytes()
    for part in (content[:-1], b""):
        (folder / "test_batch.bin").write_bytes(part)
        with pytest.raises(KernregError, match="not a multiple of a record's 3073"):
            load("cifar10", data_dir=tmp_path)


def test_a_changed_file_is_noticed_when_a_provenance_is_loaded_again(tmp_path: Path) -> None:
    folder = write_python10(tmp_path / "cifar-10-batches-py")
    data = load("cifar10", n=10, data_dir=tmp_path)
    (folder / "data_batch_5").write_bytes(
        python2_batch(planes(9, PER_BATCH), [0, 1] * (PER_BATCH // 2), b"labels")
    )
    with pytest.raises(KernregError, match="content of data_batch_5 is not what it was"):
        reload(data.provenance, tmp_path)
