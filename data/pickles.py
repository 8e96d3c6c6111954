"""Reading the pickles of CIFAR without ever running code from the file.

A pickle names functions to call. The genuine batches (Python 2 or 3) need four names; each is answered here
by a stand-in that does only what those batches ask of it, and any other name is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError

# The names NumPy 1 and 2 write into a pickled array, and the one Python 3 writes for its bytes (protocol 2).
ALLOWED = (
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
)
_MEMO_LIMIT = 10_000_000  # a genuine batch memorises some 10,000 objects


class _ArrayType:
    """Stands for numpy.ndarray, which no genuine pickle calls."""


def _empty_array(kind: object, shape: object, code: object) -> NDArray[Any]:
    if kind is not _ArrayType or shape != (0,) or code not in (b"b", "b"):
        raise pickle.UnpicklingError("an array of an unusual kind")
    return np.empty(0, dtype=np.int8)


def _pixel_type(code: object, *flags: object) -> np.dtype[Any]:
    if code not in ("u1", b"u1", "i8", b"i8"):
        raise pickle.UnpicklingError(f"an array of type {code!r}, not of 8-bit pixels")
    return np.dtype(code.decode() if isinstance(code, bytes) else str(code))


def _latin1(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


_STAND_INS = {"_reconstruct": _empty_array, "ndarray": _ArrayType, "dtype": _pixel_type, "encode": _latin1}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no CIFAR batch needs")
        return _STAND_INS[name]

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
                raise pickle.UnpicklingError("a memo larger than any CIFAR batch has")
        batch = _Restricted(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a hostile stream may raise anything; none of it has run code of its own
        raise KernregError(
            f"{name} is not a CIFAR batch and was refused: {error or type(error).__name__}; download it again"
        ) from None
    if not isinstance(batch, dict):
        raise KernregError(f"{name} is not a CIFAR batch: it holds {type(batch).__name__}; download it again")
    return {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in batch.items()
    }
