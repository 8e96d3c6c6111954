"""cifar10 and cifar100: 32×32×3 images from their original files, Python pickles or the binary version.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
https://www.cs.toronto.edu/~kriz/cifar.html. CIFAR-100 gives its 100 fine labels.
The folder as it unpacks or the .tar.gz itself may lie in data_dir/NAME or in data_dir.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data.cifar_classes import CLASSES_10, CLASSES_100
from kernreg.data.dataset import Integers
from kernreg.data.pickles import load_pickle
from kernreg.data.places import folders, missing, read_archive, read_plain, sha256
from kernreg.data.source import Source
from kernreg.errors import KernregError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Form:
    """One published form of the files: a folder or the archive that unpacks to it."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str | int  # key of the pickle, or which of a binary record's label bytes
    label_bytes: int = 1


_FIVE = tuple(f"data_batch_{i}" for i in range(1, 6))
FORMS = {
    "cifar10": (
        Form("cifar-10-batches-py", "cifar-10-python.tar.gz", _FIVE, ("test_batch",), "labels"),
        Form(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            tuple(f"{batch}.bin" for batch in _FIVE),
            ("test_batch.bin",),
            0,
        ),
    ),
    "cifar100": (
        Form("cifar-100-python", "cifar-100-python.tar.gz", ("train",), ("test",), "fine_labels"),
        Form("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",), 1, label_bytes=2),
    ),
}


def cifar10(data_dir: Path) -> Source:
    """50,000 train and 10,000 test images, 10 classes, 5,000 + 1,000 of each."""
    return _cifar("cifar10", data_dir, CLASSES_10)


def cifar100(data_dir: Path) -> Source:
    """50,000 train and 10,000 test images, 100 classes, 500 + 100 of each."""
    return _cifar("cifar100", data_dir, CLASSES_100)


def locate(name: str, data_dir: Path) -> tuple[Form, Path] | None:
    """The first whole form found and its folder or archive, or None. Python files come before binary ones."""
    for form in FORMS[name]:
        for folder in folders(name, data_dir, (form.folder,)):
            if not _absent(form, folder):
                return form, folder
        for folder in folders(name, data_dir):
            if (folder / form.archive).is_file():
                return form, folder / form.archive
    return None


def _absent(form: Form, folder: Path) -> list[str]:
    return [file for file in form.train + form.test if not (folder / file).is_file()]


def _missing(name: str, data_dir: Path) -> KernregError:
    for form in FORMS[name]:
        for folder in folders(name, data_dir, (form.folder,)):
            absent = _absent(form, folder)
            if len(absent) < len(form.train + form.test):
                return missing(name, folder, absent)
    form = FORMS[name][0]
    return missing(name, data_dir, (f"{form.archive} or the folder {form.folder}",))


def _cifar(name: str, data_dir: Path, classes: tuple[str, ...]) -> Source:
    found = locate(name, data_dir)
    if found is None:
        raise _missing(name, data_dir)
    form, path = found
    files = form.train + form.test
    if path.is_dir():
        content = {file: read_plain(path / file) for file in files}
    else:
        content = read_archive(path, files)
    read = _read_binary if isinstance(form.labels, int) else read_pickle
    splits = []
    for part in (form.train, form.test):
        batches = [read(content[file], f"{path}: {file}", form) for file in part]
        x, y = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        if y.min() < 0 or y.max() >= len(classes):
            raise KernregError(
                f"{path}: labels {y.min()}..{y.max()} lie outside 0..{len(classes) - 1}; download it again"
            )
        # Stored as three planes; images here are (n, H, W, C).
        images = np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        splits.append((images, y))
    return Source(
        x=splits[0][0],
        y=splits[0][1],
        x_test=splits[1][0],
        y_test=splits[1][1],
        classes=classes,
        hashes={file: sha256(content[file]) for file in files},
        white=255.0,
        path=str(path),
    )


def read_pickle(content: bytes, name: str, form: Form) -> tuple[NDArray[np.uint8], Integers]:
    """Pixels (n, 3072) and labels (n,) of one batch; KernregError when the bytes are none."""
    batch = load_pickle(content, name)
    x, labels = batch.get("data"), batch.get(str(form.labels))
    if (
        not isinstance(x, np.ndarray)
        or x.dtype != np.uint8
        or x.ndim != 2
        or x.shape[1] != PIXELS
        or not len(x)
    ):
        raise KernregError(f"{name} has no uint8 array 'data' of shape (n, {PIXELS}); download it again")
    return x, _labels(labels, len(x), name, str(form.labels))


def _labels(labels: Any, rows: int, name: str, key: str) -> Integers:
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise KernregError(f"{name} has no list of integers {key!r}; download it again")
    if len(labels) != rows:
        raise KernregError(f"{name} has {rows} images but {len(labels)} labels; download it again")
    if labels and max(abs(min(labels)), abs(max(labels))) >= 2**63:
        raise KernregError(f"{name} has labels beyond 64 bits; download it again")
    return np.array(labels, dtype=np.int64)


def _read_binary(content: bytes, name: str, form: Form) -> tuple[NDArray[np.uint8], Integers]:
    record = form.label_bytes + PIXELS
    if not content or len(content) % record:
        raise KernregError(
            f"{name} has {len(content)} bytes, not a multiple of a record's {record}; download it again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return records[:, form.label_bytes :], records[:, int(form.labels)].astype(np.int64)
