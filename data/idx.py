"""mnist and fashion-mnist: 28×28×1 images from their original IDX files, plain or .gz.

Y. LeCun, C. Cortes, C. Burges, The MNIST database; H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST,
arXiv:1708.07747 (MIT licence). The format: two zero bytes, a type (8 is unsigned byte), the number of
dimensions, each dimension as a big-endian 32-bit integer, the bytes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data.places import LARGEST_FILE, folders, missing, read_gzip, read_plain, sha256
from kernreg.data.source import Source
from kernreg.errors import KernregError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
FOLDERS = {"mnist": ("MNIST/raw",), "fashion-mnist": ("FashionMNIST/raw",)}  # as torchvision lays them out
FASHION = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle_boot",
)


def mnist(data_dir: Path) -> Source:
    """60,000 train and 10,000 test digits."""
    return _idx("mnist", data_dir, tuple("0123456789"))


def fashion_mnist(data_dir: Path) -> Source:
    """60,000 train and 10,000 test pieces of clothing, 6,000 + 1,000 of each of 10 classes."""
    return _idx("fashion-mnist", data_dir, FASHION)


def locate(name: str, data_dir: Path) -> dict[str, Path]:
    """The files found, by canonical name, in the first folder that has all of them, else most."""
    most: dict[str, Path] = {}
    for folder in folders(name, data_dir, FOLDERS[name]):
        found = {}
        for file in FILES:
            for spelling in (file, file.replace("-idx", ".idx")):
                for path in (folder / f"{spelling}.gz", folder / spelling):
                    if path.is_file():
                        found[file] = path
        if len(found) > len(most):
            most = found
    return most


def _idx(name: str, data_dir: Path, classes: tuple[str, ...]) -> Source:
    paths = locate(name, data_dir)
    absent = [f"{file}.gz" for file in FILES if file not in paths]
    if absent:
        raise missing(name, next(iter(paths.values())).parent if paths else data_dir, absent)
    content = {
        file: read_gzip(path, LARGEST_FILE) if path.suffix == ".gz" else read_plain(path)
        for file, path in paths.items()
    }
    arrays = [
        parse_idx(content[file], str(paths[file]), dimensions=3 if "images" in file else 1) for file in FILES
    ]
    x, labels, x_test, labels_test = arrays
    for images, y, split in ((x, labels, "train"), (x_test, labels_test, "test")):
        if images.shape[1:] != (28, 28) or not len(images):
            raise KernregError(f"{name}: {split} images have shape {images.shape}, not (n, 28, 28), n ≥ 1")
        if len(y) != len(images):
            raise KernregError(f"{name}: {len(images)} {split} images but {len(y)} labels; download it again")
        if y.max() >= len(classes):
            raise KernregError(f"{name}: {split} label {y.max()} lies outside 0..{len(classes) - 1}")
    return Source(
        x=x[..., None],
        y=labels.astype(np.int64),
        x_test=x_test[..., None],
        y_test=labels_test.astype(np.int64),
        classes=classes,
        hashes={file: sha256(content[file]) for file in FILES},
        white=255.0,
        path=str(paths[FILES[0]].parent),
    )


def parse_idx(content: bytes, name: str, dimensions: int) -> NDArray[Any]:
    """The uint8 array in an IDX file's bytes; KernregError when magic, dimensions or size do not agree."""
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise KernregError(f"{name} is cut short: {len(content)} bytes, no IDX header; download it again")
    if content[:4] != bytes((0, 0, 8, dimensions)):
        raise KernregError(
            f"{name} begins with {content[:4].hex()}, not 000008{dimensions:02x}: it is not an IDX file of "
            f"bytes with {dimensions} dimension{'s' * (dimensions > 1)}; download it again"
        )
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    if math.prod(shape) != len(content) - header or max(shape) > max(len(content), 2**16):
        raise KernregError(
            f"{name} claims {' × '.join(map(str, shape))} bytes of data and has {len(content) - header}; "
            "download it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)
