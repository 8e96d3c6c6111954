"""Reading the pickles of CIFAR without ever running code from the file.

A pickle is a program: it names functions and calls them, hands objects a state, and shares objects, so that a few bytes can
unfold to more than any memory holds or take for ever to be hashed. Python's unpickler is not used. What the genuine batches
(Python 2 or 3) consist of is a few instructions, carried out here, and four names of NumPy and codecs, each answered by a
function of ours that does only what those batches ask of it. Everything else is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError, one_line, reason, shown

_MEMO_LIMIT = 10_000_000  # a genuine batch memorises some 10,000 objects
_LONGEST_TUPLE = 16  # the state of an array has 5 parts, that of a dtype 8 or 9
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
}
_LITERALS |= {
    "FLOAT",
    "BINFLOAT",
    "UNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINBYTES",
    "BINBYTES",
    "BINBYTES8",
}


class _Refused(Exception):
    """What the stream does that no batch does."""


class _Name:
    """Answers one name of the file. It has no state that the file could set."""

    def __init__(self, call: Callable[..., object]) -> None:
        self.call = call


class _Kind:
    """The dtype of an array: bytes, or 64-bit integers."""

    def __init__(self, code: object, *flags: object) -> None:
        if code not in ("u1", "i8"):
            raise _Refused(f"it holds an array of type {_show(code)}")
        self.dtype = np.dtype("u1") if code == "u1" else np.dtype("<i8")

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or state[1:2] not in (("|",), ("<",)):
            raise _Refused("it holds an array of an unusual type")


class _Array:
    """An array, made from its shape and bytes once they agree."""

    def __init__(self, kind: object, shape: object, code: object) -> None:
        if kind is not _NDARRAY or shape != (0,) or code not in (b"b", "b"):
            raise _Refused("it makes an array in an unusual way")
        self.values: NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        sizes = isinstance(shape, tuple) and all(type(size) is int and 0 <= size < 2**63 for size in shape)
        if not sizes or type(kind) is not _Kind or type(content) is not bytes or fortran:
            raise _Refused("it holds an array of an unusual layout")
        if math.prod(shape) * kind.dtype.itemsize != len(content):
            raise _Refused(f"it claims an array {shape} and has {len(content)} bytes for it")
        self.values = np.frombuffer(content, dtype=kind.dtype).reshape(shape)


def _refuse(*arguments: object) -> NoReturn:
    raise _Refused("it calls numpy.ndarray, which no CIFAR batch does")


def _latin1(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _Refused(f"it encodes to {_show(encoding)}")
    return text.encode("latin1")


def _show(value: object) -> str:
    # a list that holds itself twice, and so on, is never shown to its end
    return shown(value) if isinstance(value, str | bytes) else type(value).__name__


_NDARRAY = _Name(_refuse)
# The names NumPy 1 and 2 write into a pickled array, and the one Python 3 writes for its bytes (protocol 2).
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Name(_Array),
    ("numpy._core.multiarray", "_reconstruct"): _Name(_Array),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Name(_Kind),
    ("_codecs", "encode"): _Name(_latin1),
}


class _Machine:
    """A stack, the marks on it, and a memo; every instruction costs time and memory in proportion to its bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.bytes_left = most_bytes  # that arrays and texts may still be copied to

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
            return
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                at = len(self.memo) if argument is None else argument
                if at > _MEMO_LIMIT:
                    raise _Refused("it asks for a memo larger than any CIFAR batch has")
                self.memo[at] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                stack.append(self._since_mark())
            case "APPEND":
                item = stack.pop()
                _require(stack[-1], list).append(item)
            case "APPENDS":
                items = self._since_mark()
                _require(stack[-1], list).extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items, made = self._since_mark(), dict[str, Any]()
                self._set_items(made, items)
                stack.append(made)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items(_require(stack[-1], dict), [key, value])
            case "SETITEMS":
                items = self._since_mark()
                self._set_items(_require(stack[-1], dict), items)
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                self._push_tuple(self._since_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise _Refused("it takes from an empty stack")
                items = stack[-count:]
                del stack[-count:]
                self._push_tuple(items)
            case "GLOBAL":
                self._push_name(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                self._push_name(module, attribute)
            case "REDUCE":
                arguments, function = _require(stack.pop(), tuple), _require(stack.pop(), _Name)
                self._spend(*arguments)
                stack.append(function.call(*arguments))
            case "BUILD":
                state, target = stack.pop(), stack[-1]
                if isinstance(target, _Name):
                    raise _Refused("it changes a function")
                if isinstance(state, tuple):
                    self._spend(*state)
                _require(target, _Array | _Kind).build(state)
            case "PERSID" | "BINPERSID":
                raise _Refused("it refers to objects outside the file")
            case _:
                raise _Refused(f"it has the instruction {name}, which no CIFAR batch needs")

    def _since_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def _push_tuple(self, items: list[Any]) -> None:
        if len(items) > _LONGEST_TUPLE or any(
            isinstance(item, list | dict)
            or (isinstance(item, tuple) and any(isinstance(i, tuple) for i in item))
            for item in items
        ):
            raise _Refused("it nests tuples as no CIFAR batch does")
        self.stack.append(tuple(items))

    def _push_name(self, module: object, name: object) -> None:
        found = ALLOWED.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            raise _Refused(f"it names {one_line(f'{module}.{name}'[:80])}, which no CIFAR batch needs")
        self.stack.append(found)

    @staticmethod
    def _set_items(target: dict[str, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | bytes):
                raise _Refused(f"it has a key that is a {type(key).__name__}")
            target[key.decode("latin1") if isinstance(key, bytes) else key] = value

    def _spend(self, *values: Any) -> None:
        self.bytes_left -= sum(len(value) for value in values if isinstance(value, str))
        if self.bytes_left < 0:
            raise _Refused("it copies its bytes more often than a CIFAR batch does")


def _require(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"it takes a {type(value).__name__} for something else")
    return value


def load_pickle(content: bytes, name: str) -> dict[str, Any]:
    """The dictionary of a CIFAR batch, with str keys; KernregError when it is anything else.

    content is the file's bytes, name says which file in messages.
    """
    machine = _Machine(4 * len(content))  # Python 3 writes its bytes at twice their length at most
    try:
        for opcode, argument, _ in pickletools.genops(content):
            machine.step(opcode.name, argument)
        (batch,) = machine.stack
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # a hostile stream may make the steps raise anything; none of it has run code of its own
        raise KernregError(
            f"{name} is not a CIFAR batch and was refused: {reason(error)}; download it again"
        ) from None
    if not isinstance(batch, dict):
        raise KernregError(f"{name} is not a CIFAR batch: it holds {type(batch).__name__}; download it again")
    return {key: value.values if isinstance(value, _Array) else value for key, value in batch.items()}
