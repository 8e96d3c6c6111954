"""Everything that reads a file or a text of somebody else: one entry each, `parse(content, folder)`.

An entry accepts the content or raises KernregError; all else is a defect (`watch.outcome`).
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import hdf5file
import numpy as np
import ownfiles
from watch import Caught

from kernreg.architecture import Architecture
from kernreg.data import load, reload
from kernreg.data.cifar import FORMS, read_pickle
from kernreg.data.hdf5reader import read_hdf5_here
from kernreg.data.idx import parse_idx
from kernreg.data.places import read_archive, read_gzip
from kernreg.entries import entries_of
from kernreg.errors import KernregError
from kernreg.kernels import backends
from kernreg.plan import plan
from kernreg.studyfile import read as read_study

BATCHES = ("data_batch_1", "test_batch")


@dataclass(frozen=True)
class Parser:
    """One reader of other people's bytes.

    Attributes:
        name: of the folder of its corpus.
        parse: content and an empty folder → anything, or KernregError.
        longest: bytes of an input.
    """

    name: str
    parse: Callable[[bytes, Path], object]
    longest: int = 2048


def _pickle(content: bytes, folder: Path) -> None:
    read_pickle(content, "data_batch_1", FORMS["cifar10"][0])


def _idx(content: bytes, folder: Path) -> None:
    kind, rest = content[:1], content[1:]
    if kind in (b"z", b"Z"):
        path = folder / "file.gz"
        path.write_bytes(gzip.compress(rest, 1, mtime=0) if kind == b"Z" else rest)
        rest = read_gzip(path, 1 << 20)
    parse_idx(rest, "train-images-idx3-ubyte", dimensions=1 if kind == b"1" else 3)


def _archive(content: bytes, folder: Path) -> None:
    """A tar, that this compresses; after "z" what is compressed already; after "n" members by name, type and content."""
    kind, rest = content[:1], content[1:]
    if kind == b"n":
        rest = _tar(rest)
    (folder / "file.tar.gz").write_bytes(rest if kind == b"z" else gzip.compress(rest, 1, mtime=0))
    read_archive(folder / "file.tar.gz", BATCHES)


def _tar(content: bytes) -> bytes:
    """Headers with right checksums: each a type, a claimed size, a name and what follows, of the bytes' choice."""
    made, blocks = b"", content.split(b"\n", 40)
    for block in blocks:
        member = tarfile.TarInfo(block[8:40].decode("latin1") or BATCHES[0])
        member.type = block[:1] or b"0"
        body = block[40:]
        claimed = {b"+": 2**20, b"*": 2**33, b"-": 0}.get(block[1:2], len(body))
        member.size = min(claimed, 8**11 - 1)
        head = member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "replace")
        made += head + body + bytes(-len(body) % 512)
    return made + bytes(1024)


def _npz(content: bytes, folder: Path) -> None:
    """The bytes of a zip file; after "n" its members: a name, a method of compression, a size, the bytes."""
    path = folder / "file.npz"
    path.write_bytes(_zip(content[1:]) if content[:1] == b"n" else content)
    _load(path)


def _zip(content: bytes) -> bytes:
    buffer, at = io.BytesIO(), 0
    names = ("X.npy", "y.npy", "X_test.npy", "y_test.npy", "x", "Y.npy", "../X.npy", "other")
    with zipfile.ZipFile(buffer, "w") as archive:
        while at + 4 <= len(content):
            name, method = (
                names[content[at] % len(names)],
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[content[at + 1] % 2],
            )
            size = struct.unpack_from("<H", content, at + 2)[0]
            archive.writestr(zipfile.ZipInfo(name), content[at + 4 : at + 4 + size], method)
            at += 4 + size
    return buffer.getvalue()


def _npy(content: bytes, folder: Path) -> None:
    (folder / "X.npy").write_bytes(content)
    np.save(folder / "y.npy", np.arange(hdf5file.ROWS) % 2)
    _load(folder / "X.npy")


def _hdf5(content: bytes, folder: Path) -> None:
    hdf5file.secrets(folder.parent)
    hdf5file.build(content, folder / "file.h5", folder.parent)
    with patch(
        "kernreg.data.files.read_hdf5", read_hdf5_here
    ):  # without the process of its own, which hides what happens
        _load(folder / "file.h5")


def _load(path: Path) -> None:
    for normalise in (None, "per-image"):
        data = load(path, normalise=normalise, dtype="float64")
        for array in (data.x_train, data.x_test, data.y_train):
            if np.any(array == hdf5file.SECRET):
                raise Caught("numbers of another file came out")


def _study(content: bytes, folder: Path) -> None:
    path = folder / "study.toml"
    path.write_bytes(content)
    file = read_study(path)
    for architecture in file.architectures:
        _use(architecture)
    most = 200  # entries beyond this one are more of the same
    if (
        np.prod(
            [len(v) for v in (file.architectures, file.data.sizes, file.data.seeds, file.transform_seeds)]
        )
        <= most
    ):
        entries_of(file)


def _architecture(content: bytes, folder: Path) -> None:
    architecture = Architecture.from_json(content.decode("utf-8", "replace"))
    if Architecture.from_json(json.dumps(architecture.to_dict())) != architecture:
        raise Caught("an architecture that is not what its own JSON says")
    _use(architecture)


def _use(architecture: Architecture) -> None:
    """What is done with an architecture before anything is computed."""
    str(architecture), hash(architecture), architecture.digest
    for shape in ((4, 4, 1), (6,)):
        try:
            backends.covers("cpu", architecture, shape)
            plan(2**40, 3, shape, architecture, "both", "float32", "8TiB")
        except (KernregError, NotImplementedError):
            continue


def _provenance(content: bytes, folder: Path) -> None:
    given = ownfiles.from_json(content)
    with ownfiles.small_machine():
        reload(given, folder)


def _setting(content: bytes, folder: Path) -> None:
    """The settings of a generated data set, as those of a study file: TOML."""
    try:
        given = tomllib.loads(content.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise KernregError("not TOML, which this entry begins with") from None
    name = given.pop("name", "synthetic")
    if name == "eigenspaces" and given.get("p", 4) != 3:
        raise KernregError("takes seconds, rightly")
    if {"data_dir", "transform", "transform_seed", "patch"} & given.keys() or not isinstance(name, str):
        raise KernregError("have options of their own")
    with ownfiles.small_machine():
        load(name, **{"n": 2, "test": 2, "data_dir": folder, **given})


PARSERS = {
    parser.name: parser
    for parser in (
        Parser("pickle", _pickle, 4096),
        Parser("idx", _idx, 512),
        Parser("archive", _archive, 4096),
        Parser("npz", _npz, 4096),
        Parser("npy", _npy, 1024),
        Parser("hdf5", _hdf5, 256),
        Parser("study", _study, 4096),
        Parser("setting", _setting, 512),
        Parser("architecture", _architecture),
        Parser("store", ownfiles.store_file),
        Parser("tile", ownfiles.tile_file, 1024),
        Parser("solution", ownfiles.solution_file),
        Parser("curve", ownfiles.curve_file, 4096),
        Parser("state", ownfiles.state_file, 4096),
        Parser("factor", ownfiles.factor_file, 512),
        Parser("provenance", _provenance, 1024),
    )
}
