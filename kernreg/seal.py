"""A seal: what an HDF5 file is and the checksum of its bytes, in the user block that HDF5 leaves in front.

It is checked before HDF5 sees the file: a flipped bit in HDF5's own structures can crash the process that
opens it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

USER_BLOCK = 4096
MAGIC = b"kernreg\n"
_CHUNK = 1 << 20


class Unsealed(ValueError):
    """The file has no seal, or the seal does not fit; the text says which."""


def seal(path: Path, description: Mapping[str, Any]) -> None:
    """Write the user block of a finished file: a description, its size, xxh3-128 of all bytes behind."""
    with path.open("r+b") as file:
        file.seek(USER_BLOCK)
        facts = {**description, "checksum": _checksum(file), "size": os.fstat(file.fileno()).st_size}
        text = json.dumps(facts, sort_keys=True).encode()
        block = MAGIC + text + b"\n" + _digest(text) + b"\n"
        if len(block) > USER_BLOCK:
            raise ValueError(f"a seal of {len(block)} bytes does not fit into {USER_BLOCK}")
        file.seek(0)
        file.write(block)


def read_seal(path: Path) -> dict[str, Any]:
    """The description, with "checksum" and "size"; the bytes behind it are not read.

    Raises:
        Unsealed: no seal, a damaged one, or a file of another size.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return _parse(file.read(USER_BLOCK), os.fstat(file.fileno()).st_size)


def open_image(image: bytes) -> dict[str, Any]:
    """The description of a file read whole, once every byte of it is checked. Raises Unsealed."""
    facts = _parse(image[:USER_BLOCK], len(image))
    if xxhash.xxh3_128_hexdigest(memoryview(image)[USER_BLOCK:]) != facts["checksum"]:
        raise Unsealed("its checksum does not fit")
    return facts


def _parse(block: bytes, size: int) -> dict[str, Any]:
    if not block.startswith(MAGIC):
        raise Unsealed("it was not written by kernreg, or its head is damaged")
    text, digest, _ = (block[len(MAGIC) :] + b"\n\n").split(b"\n", 2)
    if digest != _digest(text):
        raise Unsealed("its head is damaged")
    facts: dict[str, Any] = json.loads(text)
    if size != facts["size"]:
        raise Unsealed(f"it has {size} bytes instead of {facts['size']}")
    return facts


def require_body(path: Path, checksum: str) -> None:
    """Raise Unsealed unless the bytes behind the seal have this checksum."""
    with path.open("rb") as file:
        file.seek(USER_BLOCK)
        if _checksum(file) != checksum:
            raise Unsealed("its checksum does not fit")


def _checksum(file: Any) -> str:
    digest = xxhash.xxh3_128()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _digest(text: bytes) -> bytes:
    return xxhash.xxh3_128_hexdigest(text).encode()
