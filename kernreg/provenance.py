"""What determines the numbers of a Gram: settings, rows, versions; and how two of them are told apart."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, NotRequired, TypeAlias, TypedDict

import numpy as np
import xxhash
from numpy.typing import NDArray

from kernreg import __version__
from kernreg.architecture import Architecture
from kernreg.errors import KernregError, shown
from kernreg.reloadable import require_provenance

Array: TypeAlias = NDArray[Any]

KERNELS = ("nngp", "ntk")
DTYPES = ("float32", "float64")
# Fields of a data set's provenance that may differ between two loads of the same rows.
SIZES_AND_PLACES = ("n", "test", "path", "data_dir")
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Settings:
    """Everything but the rows that determines the numbers.

    Attributes:
        architecture: the network.
        kernels: ("nngp",), ("ntk",) or both.
        dtype: "float32" or "float64", of the arithmetic and of the stored numbers.
        backend: the one that computes what is missing; resolved, never "auto".
        input_shape: (H, W, C) or (d,).
        provenance: how to load the rows again, as `as_json` gives it.
        backends: all that may have computed tiles, `backend` among them, in the order of their first use.
    """

    architecture: Architecture
    kernels: tuple[str, ...]
    dtype: str
    backend: str
    input_shape: tuple[int, ...]
    provenance: dict[str, Any]
    backends: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.backend not in self.backends:
            object.__setattr__(self, "backends", (*self.backends, self.backend))
        if not self.kernels or any(kernel not in KERNELS for kernel in self.kernels):
            raise KernregError(f"kernels are nngp, ntk or both of them, not {self.kernels!r}")
        if self.dtype not in DTYPES:
            raise KernregError(f"dtype is float32 or float64, not {self.dtype!r}")
        if "auto" in self.backends:
            raise KernregError("a store names the backend that computes it, not 'auto': resolve it first")

    def to_json(self) -> dict[str, Any]:
        """Ready for `json.dumps`."""
        return {
            "architecture": self.architecture.to_dict(),
            "architecture_digest": self.architecture.digest,
            "kernels": list(self.kernels),
            "dtype": self.dtype,
            "backend": self.backend,
            "backends": list(self.backends),
            "input_shape": list(self.input_shape),
            "provenance": self.provenance,
        }

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Settings:
        """The inverse of `to_json`."""
        architecture = Architecture.from_dict(d["architecture"])
        kernels, shape = tuple(d["kernels"]), tuple(int(s) for s in d["input_shape"])
        used = tuple(d.get("backends", ()))
        if (
            not all(isinstance(name, str) for name in (*kernels, *used, d["backend"]))
            or min(shape, default=0) < 0
        ):
            raise KernregError(
                f"kernels {shown(kernels)} by {shown(used)} of rows {shown(shape)} are none that there are"
            )
        require_provenance(d["provenance"])
        return cls(architecture, kernels, d["dtype"], d["backend"], shape, dict(d["provenance"]), used)

    def require_equal(self, given: Mapping[str, Any], where: str) -> None:
        """Compare with settings asked for, by field; sizes and places in a provenance may differ.

        Raises:
            KernregError: names the first field that differs, both values and the remedy.
        """
        for field, value in given.items():
            stored = getattr(self, field)
            if field == "provenance":
                self._require_provenance(as_json(value), where)
            elif stored != value:
                raise difference(field, _show(stored), _show(value), where)

    def _require_provenance(self, given: Mapping[str, Any], where: str) -> None:
        for key in sorted(self.provenance.keys() | given.keys()):
            stored, value = self.provenance.get(key), given.get(key)
            if key not in SIZES_AND_PLACES and stored != value:
                raise difference(f"provenance.{key}", _show(stored), _show(value), where)


def as_json(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance as a file gives it back: tuples become lists. Raises KernregError unless JSON-able."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise KernregError(f"the provenance must be JSON-able: {error}") from None
    return plain


@dataclass(frozen=True)
class Rows:
    """What a store keeps of n train or t test rows.

    Attributes:
        hashes: (n, 16) uint8, xxh3-128 of each row as little-endian float64, so that prefixes compare equal.
        y: (n, c) float64 targets.
        labels: (n,) int64 or None.
        numbers: (n,) int64, row numbers in the source.
    """

    hashes: NDArray[np.uint8]
    y: NDArray[np.float64]
    labels: NDArray[np.int64] | None
    numbers: NDArray[np.int64]

    @classmethod
    def of(cls, x: Array, y: Array, labels: Array | None, numbers: Array | None, part: str) -> Rows:
        """Rows of `part` ("train" or "test"); y (n,) counts as (n, 1), numbers default to 0 … n-1.

        Raises:
            KernregError: lengths differ, or targets are not finite.
        """
        n = len(x)
        y = np.asarray(y, np.float64)
        y = y.reshape(n, -1) if y.ndim == 1 and len(y) == n and n else y
        labels = None if labels is None else np.asarray(labels, np.int64)
        numbers = np.arange(n, dtype=np.int64) if numbers is None else np.asarray(numbers, np.int64)
        for name, array in (("y", y), ("labels", labels), ("rows", numbers)):
            if array is not None and len(array) != n:
                raise KernregError(
                    f"x_{part} has {n} rows and {name}_{part} {len(array)}: give one for each row"
                )
        if y.ndim != 2 or not np.isfinite(y).all():
            raise KernregError(f"y_{part} must be finite and of shape ({n}, c), not {y.shape}")
        return cls(row_hashes(x), y, labels, numbers)

    def __len__(self) -> int:
        return len(self.hashes)

    def first(self, n: int) -> Rows:
        """The leading n rows."""
        labels = None if self.labels is None else self.labels[:n]
        return replace(self, hashes=self.hashes[:n], y=self.y[:n], labels=labels, numbers=self.numbers[:n])

    def require_prefix(self, given: Rows, part: str, where: str) -> None:
        """The rows that both have, from the first on, must be equal.

        Raises:
            KernregError: names the array and the first row that differ.
        """
        require_hashes(self.hashes, given.hashes, part, where)
        for name, stored, other in (
            ("y", self.y, given.y),
            ("labels", self.labels, given.labels),
            ("rows", self.numbers, given.numbers),
        ):
            if stored is None or other is None:
                if stored is not other:
                    raise difference(f"{name}_{part}", _presence(stored), _presence(other), where)
                continue
            if stored.shape[1:] != other.shape[1:]:
                raise difference(f"shape of {name}_{part}", str(stored.shape), str(other.shape), where)
            shared = min(len(stored), len(other))
            differs = (
                (stored[:shared] != other[:shared]).reshape(shared, -1).any(axis=1) if shared else np.zeros(0)
            )
            if differs.any():
                i = int(np.argmax(differs))
                raise difference(f"{name}_{part}, row {i}", _show(stored[i]), _show(other[i]), where)


class Arrays(TypedDict):
    """The rows of a Gram as arrays: n train rows and, if any, t test rows.

    x (n, H, W, C) or (n, d); y (n, c) finite targets; labels (n,) integers or None; rows (n,) integers, row
    numbers in the source, or None for 0 … n-1.
    """

    x_train: Array
    y_train: Array
    x_test: NotRequired[Array | None]
    y_test: NotRequired[Array | None]
    labels_train: NotRequired[Array | None]
    labels_test: NotRequired[Array | None]
    rows_train: NotRequired[Array | None]
    rows_test: NotRequired[Array | None]


def all_rows(arrays: Arrays) -> tuple[tuple[int, ...], dict[str, Rows]]:
    """The shape of one row of x, and what a store keeps of the train and the test rows.

    Raises:
        KernregError: no train rows, or arrays that do not fit each other.
    """
    x, y = arrays["x_train"], arrays["y_train"]
    train = Rows.of(x, y, arrays.get("labels_train"), arrays.get("rows_train"), "train")
    x_test, y_test = arrays.get("x_test"), arrays.get("y_test")
    x_test = x[:0] if x_test is None else x_test
    y_test = train.y[:0] if y_test is None else y_test
    labels = arrays.get("labels_test")
    if labels is None and train.labels is not None and not len(x_test):
        labels = train.labels[:0]
    test = Rows.of(x_test, y_test, labels, arrays.get("rows_test"), "test")
    if not len(train) or x_test.shape[1:] != x.shape[1:]:
        raise KernregError(
            f"x_train {x.shape} and x_test {x_test.shape} must be (n, …) and (t, …) with n ≥ 1"
        )
    if test.y.shape[1:] != train.y.shape[1:]:
        raise KernregError(f"y_train {train.y.shape} and y_test {test.y.shape} must have as many columns")
    return tuple(int(s) for s in x.shape[1:]), {"train": train, "test": test}


def row_hashes(x: Array) -> NDArray[np.uint8]:
    """(n, 16) uint8: xxh3-128 of each row of x (n, …) as little-endian float64, whatever its own dtype."""
    hashes = np.empty((len(x), 16), np.uint8)
    for start in range(0, len(x), _ROWS_AT_ONCE):
        block = np.ascontiguousarray(x[start : start + _ROWS_AT_ONCE], dtype="<f8")
        for i, row in enumerate(block, start):
            hashes[i] = np.frombuffer(xxhash.xxh3_128_digest(row.data), np.uint8)
    return hashes


def require_hashes(stored: Array, given: Array, part: str, where: str) -> None:
    """Raise KernregError naming the first of the rows both have whose hashes differ."""
    shared = min(len(stored), len(given))
    differs = (stored[:shared] != given[:shared]).any(axis=1)
    if differs.any():
        i = int(np.argmax(differs))
        raise difference(
            f"x_{part}, row {i} (hash)", stored[i].tobytes().hex(), given[i].tobytes().hex(), where
        )


def difference(field: str, stored: str, given: str, where: str) -> KernregError:
    """The error for settings that differ from those of a store."""
    return KernregError(
        f"{where} was made with another {field}: stored {stored}, given {given}; "
        "use the stored value, or another folder (--out) for the new one"
    )


def checksum(values: Array) -> str:
    """xxh3-128 of the bytes of an array in C order, hexadecimal."""
    return str(xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).data))


def text_checksum(text: str) -> str:
    """xxh3-128 of a text, hexadecimal."""
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def store_digest(data: Mapping[str, Any], architecture: Architecture, kernel: str, dtype: str) -> str:
    """8 hexadecimal digits for the name of a store, the same whatever n, test and backend are.

    Args:
        data: provenance of the rows without sizes and places, `kernreg.data.identity`.
        architecture, kernel, dtype: as in `kernreg.gram.build`.
    """
    text = json.dumps([dict(data), architecture.digest, kernel, dtype], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def versions() -> dict[str, str]:
    """Versions of what computes and stores the numbers; of GPU libraries those that are in use."""
    known = {"kernreg": __version__, **{name: version(name) for name in ("numpy", "numba", "h5py")}}
    in_use = {name: sys.modules[name] for name in ("cupy", "torch", "triton") if name in sys.modules}
    return known | {name: str(getattr(module, "__version__", "?")) for name, module in in_use.items()}


def _show(value: object) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    text = f"{value} [{value.digest}]" if isinstance(value, Architecture) else repr(value)
    return text if len(text) <= 200 else f"{text[:160]}… (digest {text_checksum(text)[:8]})"


def _presence(value: object) -> str:
    return "absent" if value is None else "present"
