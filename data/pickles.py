"""Reading the pickles of CIFAR without ever running code from the file.

A pickle names functions, calls them, and hands objects a state. The genuine batches (Python 2 or 3) need four
names, of NumPy and codecs. Each is answered here by a stand-in that does only what those batches ask of it:
neither NumPy's own unpickling, which trusts the state it is given, nor anything else is reachable.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError

_MEMO_LIMIT = 10_000_000  # a genuine batch memorises some 10,000 objects


class _Name:
    """Answers one name of the file. It has no state that the file could set."""

    def __init__(self, call: Callable[..., object]) -> None:
        self.call = call

    def __call__(self, *arguments: object) -> object:
        return self.call(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("it changes a function")


class _Kind:
    """The dtype of an array: bytes, or 64-bit integers."""

    def __init__(self, code: object, *flags: object) -> None:
        if code not in ("u1", "i8"):
            raise pickle.UnpicklingError(f"it holds an array of type {code!r}")
        self.dtype = np.dtype("u1") if code == "u1" else np.dtype("<i8")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[1:2] not in (("|",), ("<",)):
            raise pickle.UnpicklingError("it holds an array of an unusual type")


class _Array:
    """An array, made from its shape and bytes once they agree."""

    def __init__(self, kind: object, shape: object, code: object) -> None:
        if kind is not _NDARRAY or shape != (0,) or code not in (b"b", "b"):
            raise pickle.UnpicklingError("it makes an array in an unusual way")
        self.values: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        sizes = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
        if not sizes or type(kind) is not _Kind or type(content) is not bytes or fortran:
            raise pickle.UnpicklingError("it holds an array of an unusual layout")
        if math.prod(shape) * kind.dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"it claims an array {shape} and has {len(content)} bytes for it")
        self.values = np.frombuffer(content, dtype=kind.dtype).reshape(shape)


def _refuse(*arguments: object) -> NoReturn:
    raise pickle.UnpicklingError("it calls numpy.ndarray, which no CIFAR batch does")


def _latin1(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes to {encoding!r}")
    return text.encode("latin1")


_NDARRAY = _Name(_refuse)
# The names NumPy 1 and 2 write into a pickled array, and the one Python 3 writes for its bytes (protocol 2).
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Name(_Array),
    ("numpy._core.multiarray", "_reconstruct"): _Name(_Array),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Name(_Kind),
    ("_codecs", "encode"): _Name(_latin1),
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no CIFAR batch needs")
        return ALLOWED[module, name]

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def load_pickle(content: bytes, name: str) -> dict[str, Any]:
    """The dictionary of a CIFAR batch, with str keys; KernregError when it is anything else.

    content is the file's bytes, name says which file in messages.
    """
    try:
        # A few bytes can make the unpickler reserve a memo of 32 GB: read the numbers of the memo first.
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > _MEMO_LIMIT:
                raise pickle.UnpicklingError("it asks for a memo larger than any CIFAR batch has")
        batch = _Restricted(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a hostile stream may raise anything; none of it has run code of its own
        raise KernregError(
            f"{name} is not a CIFAR batch and was refused: {error or type(error).__name__}; download it again"
        ) from None
    if not isinstance(batch, dict):
        raise KernregError(f"{name} is not a CIFAR batch: it holds {type(batch).__name__}; download it again")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): (
            value.values if isinstance(value, _Array) else value
        )
        for key, value in batch.items()
    }
