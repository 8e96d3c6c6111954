"""The files that kernreg writes itself, as somebody else would write them: a change, as JSON, to one that is right.

Where a checksum would stop the fuzzer at the door it is made right first: nobody who writes a hostile file would leave it wrong,
and none of them is a secret.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import xxhash

from kernreg import archive, cgstate, curvefile, gramfile, seal
from kernreg.architecture import Architecture
from kernreg.data import load, reload
from kernreg.errors import KernregError
from kernreg.provenance import text_checksum
from kernreg.scratch import Scratch
from kernreg.solutionfile import FORMAT, FORMAT_VERSION, SavedSolution
from kernreg.store import GramStore

COMMENT = len(archive.MARK) + 32
FACTOR = ("identity", "n", "tile", "panel", "dtype", "outputs")


def small_machine() -> AbstractContextManager[object]:
    """What is generated must fit the machine; on one of 32 MiB it is made within a second."""
    return patch("kernreg.data.source.machine_bytes", lambda: 32 << 20)


def from_json(content: bytes) -> Any:
    """What the bytes say in JSON."""
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError):
        raise KernregError("not JSON, which this entry begins with") from None


def _arrays(file: Any, arrays: Mapping[str, Any]) -> None:
    """Write arrays by path; a value is numbers, or a dictionary that says how strange it is."""
    for path, value in arrays.items():
        if path in file:
            del file[path]
        if not isinstance(value, dict):
            file[path] = np.array(value, np.int64 if _is_whole(value) else None)
        elif "link" in value:
            file[path] = (
                h5py.ExternalLink(str(value["link"]), "/X")
                if value.get("out")
                else h5py.SoftLink(str(value["link"]))
            )
        elif "shape" in value:
            chunks = tuple(value["chunks"]) if "chunks" in value else None
            file.create_dataset(path, tuple(value["shape"]), str(value.get("dtype", "f8")), chunks=chunks)


def _is_whole(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int) and not isinstance(value, bool)


def _changed(good: Mapping[str, Any], changes: Any) -> dict[str, Any]:
    """A dictionary with changes merged into it, dictionaries in it likewise."""
    if not isinstance(changes, dict):
        raise KernregError("changes are a table")
    merged = dict(good)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = (
            _changed(inner, value) if isinstance(inner, dict) and isinstance(value, dict) and inner else value
        )
    return merged


def _sealed(
    path: Path, attributes: Mapping[str, Any], arrays: Mapping[str, Any], facts: Mapping[str, Any]
) -> None:
    try:
        with h5py.File(path, "w", libver=("earliest", "v110"), userblock_size=seal.USER_BLOCK) as file:
            for key, value in attributes.items():
                file.attrs[key] = value if isinstance(value, str | int) else json.dumps(value)
            _arrays(file, arrays)
        seal.seal(path, facts)
    except Exception as error:  # not every table is a file
        raise KernregError(f"no file can be made of this: {type(error).__name__}") from None


SETTINGS: dict[str, Any] = {
    "architecture": Architecture.fcn(depth=1).to_dict(),
    "kernels": ["ntk"],
    "dtype": "float64",
    "backend": "reference",
    "backends": ["reference"],
    "input_shape": [3],
    "provenance": load("synthetic", n=3, test=2, dtype="float64", dimension=16).provenance,
}
HASHES = np.arange(48, dtype=np.uint8).reshape(3, 16)
MAIN: dict[str, Any] = {
    **SETTINGS,
    "format": "kernreg-gram",
    "format_version": 1,
    "tile": 3,
    "versions": {"kernreg": "0"},
    "created": "2020-01-01T00:00:00+00:00",
}
PARTS: dict[str, Any] = {
    "train/hashes": HASHES,
    "train/targets": np.eye(3),
    "train/rows": [0, 1, 2],
    "train/edges": [0, 3],
    "test/hashes": HASHES[:2],
    "test/targets": np.eye(3)[:2],
    "test/rows": [0, 1],
    "test/edges": [0, 2],
}


def store_file(content: bytes, folder: Path) -> None:
    """The main file of a Gram store: changes to its attributes, to its arrays and to what its seal says, as JSON."""
    changes = from_json(content)
    if not isinstance(changes, dict):
        raise KernregError("changes are a table")
    head, arrays = _changed(MAIN, changes.get("head", {})), _changed(PARTS, changes.get("arrays", {}))
    facts = _changed({"format": "kernreg-gram", "format_version": 1, "file": "main"}, changes.get("seal", {}))
    _sealed(folder / gramfile.MAIN, head, arrays, facts)
    store = GramStore.open(folder)
    repr(store), store.missing(), store.settings.to_json()
    if "name" in store.provenance:
        with small_machine():
            reload(store.provenance)


def tile_file(content: bytes, folder: Path) -> None:
    """The seal of a tile, as JSON; its digest is made right."""
    values = np.arange(9.0).reshape(3, 3)
    identity = {"part": "train", "rows": [0, 3], "columns": [0, 3], "kernels": ["ntk"], "dtype": "float64"}
    path = folder / "train-00000-00000.h5"
    gramfile.write_shard(path, {"ntk": values}, {**identity, "backend": "reference"})
    facts = json.dumps(_changed(seal.read_seal(path), from_json(content))).encode()
    image = path.read_bytes()
    digest = xxhash.xxh3_128_hexdigest(facts).encode()
    head = seal.MAGIC + facts + b"\n" + digest + b"\n"
    path.write_bytes(head[: seal.USER_BLOCK].ljust(seal.USER_BLOCK, b"\0") + image[seal.USER_BLOCK :])
    described = gramfile.describe_shard(path, identity, ("reference",))
    gramfile.read_entry(path, described, "ntk", (1, 2))
    gramfile.read_shard(path, described, "ntk")
    gramfile.check_shard(path, described)


def solution_file(content: bytes, folder: Path) -> None:
    """A solution: changes to its attributes, arrays and seal, as JSON."""
    changes = from_json(content)
    if not isinstance(changes, dict):
        raise KernregError("changes are a table")
    good = {
        "settings": SETTINGS,
        "kernel": "ntk",
        "gram": "a.gram",
        "facts": {"status": "converged"},
        "versions": {},
    }
    head = _changed(good, changes.get("head", {}))
    arrays = {
        "coefficients": np.ones((3, 2)),
        "hashes": HASHES,
        "rows": [0, 1, 2],
        "residuals": [0.5],
        "iterations": [1],
    }
    facts = _changed({"format": FORMAT, "format_version": FORMAT_VERSION}, changes.get("seal", {}))
    texts = {key: json.dumps(value) for key, value in head.items()}
    _sealed(folder / "file.h5", texts, _changed(arrays, changes.get("arrays", {})), facts)
    saved = SavedSolution.read(folder / "file.h5")
    repr((saved.n, saved.coefficients.shape[1], saved.settings.to_json()))


def _marked(content: bytes) -> bytes:
    """An archive whose checksum, the comment at its end, is right; whatever the bytes in front of it are."""
    if content[-22:-18] == b"PK\5\6" and content[-2:] == b"\0\0":
        content = content[:-2] + struct.pack("<H", COMMENT) + bytes(COMMENT)
    body = content[:-COMMENT]
    return body + archive.MARK + xxhash.xxh3_128_hexdigest(body).encode()


def curve_file(content: bytes, folder: Path) -> None:
    """The bytes of a curve file; after "n" its arrays and what it says of itself, as JSON, with the right checksum."""
    path = folder / "file.npz"
    path.write_bytes(_marked(_npz_of_curve(content[1:]) if content[:1] == b"n" else content))
    curvefile.load(path)


def _npz_of_curve(content: bytes) -> bytes:
    changes, n = from_json(content), 4
    good: dict[str, Any] = {name: np.ones(n) for name in ("loss", "mse", "error", "loo", "gcv")}
    good |= {"samples": np.arange(1, n + 1), "anchors": np.array([2, 4]), "squared_errors": np.ones((2, 3))}
    good |= {"squared_targets": np.ones(3), "ridge": np.ones(2), "blocks": np.array([[0, 4]])}
    good |= {f"{name}_0": good[name] for name in ("loss", "mse", "error", "anchors", "squared_errors")}
    try:
        arrays = {key: np.array(value) for key, value in _changed(good, changes).items() if key != "about"}
        about = json.dumps({**changes.get("about", {}), "checksum": curvefile.checksum_of(arrays)})
        buffer = io.BytesIO()
        np.savez(buffer, **{**arrays, "about": np.array(about)})  # type: ignore[arg-type]
    except Exception as error:
        raise KernregError(f"no file can be made of this: {type(error).__name__}") from None
    return buffer.getvalue()


def state_file(content: bytes, folder: Path) -> None:
    """The bytes of the state of a solve; after "n" changes to its arrays."""
    image = _npz_of_state(content[1:]) if content[:1] == b"n" else content
    (folder / "file.state").write_bytes(_marked(image))
    cgstate.load(folder / "file.state", "problem")


def _npz_of_state(content: bytes) -> bytes:
    n, c = 3, 2
    good: dict[str, Any] = {name: np.ones((n, c)) for name in ("X", "R", "P", "steps", "turns")}
    good |= {name: np.zeros(c, np.int64) for name in ("stuck", "outcome", "taken")}
    good |= {"residual": np.ones(c), "best": np.ones(c), "counts": np.array([1, 2])}
    good |= {"format": np.array(cgstate.FORMAT), "problem": np.array("problem")}
    try:
        arrays = {key: np.array(value) for key, value in _changed(good, from_json(content)).items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
    except Exception as error:
        raise KernregError(f"no file can be made of this: {type(error).__name__}") from None
    return buffer.getvalue()


def factor_file(content: bytes, folder: Path) -> None:
    """The head of a factor on disk, with the right checksum."""
    head = from_json(content)
    if isinstance(head, dict) and head.keys() >= set(FACTOR):
        told = json.dumps({key: head[key] for key in FACTOR}, sort_keys=True)
        content = json.dumps({**head, "checksum": text_checksum(told)}).encode()
    (folder / "factor.json").write_bytes(content)
    Scratch.open(folder, {"rows": [0, 61], "ridge": 0.5}).close()
