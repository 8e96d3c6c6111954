"""A solution on disk: coefficients, what they solve and how well, in one HDF5 file that is whole or absent.

    coefficients (n, c), residuals (c,), iterations (c,), rows (n,), hashes (n, 16); attributes: everything else as JSON

The file begins with a seal (`kernreg.seal`), as those of a Gram store do.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kernreg.cholesky import Matrix
from kernreg.data.hdf5 import own_array
from kernreg.durable import replace
from kernreg.errors import KernregError, reason, shown
from kernreg.provenance import KERNELS, Array, Settings, require_hashes, versions
from kernreg.seal import USER_BLOCK, open_image, seal
from kernreg.sink import writing
from kernreg.solution import Solution
from kernreg.store import GramStore

FORMAT, FORMAT_VERSION = "kernreg-solution", 1
_UNREADABLE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)


@dataclass(frozen=True, eq=False)
class SavedSolution:
    """What a solution file says.

    Attributes:
        coefficients: (n, c) float64 α, of the first n training rows.
        hashes: (n, 16) uint8 of these rows, see `kernreg.provenance.Rows`.
        rows: (n,) int64, their numbers in the source.
        settings: what determines the kernel: architecture, dtype, backend, shape, provenance of the rows.
        kernel: "nngp" or "ntk".
        gram: folder of the store it was solved from, absolute.
        facts: JSON-able: status, message and everything of `kernreg.solution.Stats`.
    """

    coefficients: Matrix
    hashes: Array
    rows: Array
    settings: Settings
    kernel: str
    gram: Path
    facts: dict[str, Any]

    @classmethod
    def of(cls, solution: Solution, store: GramStore, kernel: str) -> SavedSolution:
        """A solution of the first rows of a store."""
        n = len(solution.value)
        facts = {"status": str(solution.status), "message": solution.message, **solution.stats.to_dict()}
        rows = (store.hashes_train[:n], store.rows_train[:n])
        return cls(solution.value.reshape(n, -1), *rows, store.settings, kernel, store.path.resolve(), facts)

    @property
    def n(self) -> int:
        """Training rows."""
        return len(self.coefficients)

    def require_store(self, store: GramStore) -> None:
        """The store must hold the kernel of these rows.

        Raises:
            KernregError: names the field or the row that differs.
        """
        fields = ("architecture", "input_shape", "provenance")
        store.settings.require_equal({name: getattr(self.settings, name) for name in fields}, str(store.path))
        if store.n < self.n:
            raise KernregError(f"{store.path} holds {store.n} train rows, the solution is of {self.n}")
        require_hashes(store.hashes_train, self.hashes, "train", str(store.path))

    def leading(self, store: GramStore, kernel: str, n: int) -> Matrix:
        """(m, c) coefficients where an iteration for the first n rows of a store may start.

        Raises:
            KernregError: of another kernel or other rows, as `require_store`, or of more than n.
        """
        if self.kernel != kernel or self.n > n:
            raise KernregError(
                f"a start must be of the {kernel} and of at most {n} rows, not of the {self.kernel} and {self.n}"
            )
        self.require_store(store)
        return self.coefficients

    def write(self, path: Path) -> None:
        """Write or replace the file, atomically.

        Raises:
            KernregError: the disk is full or read-only.
        """
        head = {
            "settings": self.settings.to_json(),
            "kernel": self.kernel,
            "gram": str(self.gram),
            "facts": {k: v for k, v in self.facts.items() if k not in ("residuals", "iterations")},
            "versions": versions(),
        }

        def fill(partial: Path) -> None:
            with (
                writing(partial) as sink,
                h5py.File(sink, "w", libver=("earliest", "v110"), userblock_size=USER_BLOCK) as file,
            ):
                file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
                for key, value in head.items():
                    file.attrs[key] = json.dumps(value, sort_keys=True)
                file["coefficients"], file["hashes"], file["rows"] = self.coefficients, self.hashes, self.rows
                file["residuals"] = np.asarray(self.facts["residuals"], np.float64)
                file["iterations"] = np.asarray(self.facts["iterations"], np.int64)
            seal(partial, {"format": FORMAT, "format_version": FORMAT_VERSION})

        replace(path, fill)

    @classmethod
    def read(cls, path: Path) -> SavedSolution:
        """The solution in a file.

        Raises:
            KernregError: there is none, it is no solution, of a newer format, or damaged.
        """
        if not path.is_file():
            raise KernregError(f"{path} does not exist; make a solution with `kernreg solve`")
        try:
            image = path.read_bytes()
            sealed = open_image(image)
            if sealed.get("format") != FORMAT or sealed.get("format_version") != FORMAT_VERSION:
                raise ValueError(f"it is {shown(sealed.get('format'))} {shown(sealed.get('format_version'))}")
            with h5py.File(io.BytesIO(image), "r") as file:
                return _contents(file, len(image))
        except _UNREADABLE as error:
            raise KernregError(
                f"{path} is no solution that this kernreg reads ({reason(error)}); make it with `kernreg solve`"
            ) from error


def _contents(file: h5py.File, size: int) -> SavedSolution:
    head: Mapping[str, Any] = {
        key: json.loads(file.attrs[key]) for key in ("settings", "kernel", "gram", "facts")
    }
    measured = {key: own_array(file, key, size).tolist() for key in ("residuals", "iterations")}
    α, hashes, rows = (own_array(file, key, size) for key in ("coefficients", "hashes", "rows"))
    n, c = α.shape
    typed = α.dtype == np.float64 and hashes.dtype == np.uint8 and rows.dtype == np.int64
    if not (typed and n and c and hashes.shape == (n, 16) and rows.shape == (n,) and np.isfinite(α).all()):
        raise ValueError(f"its coefficients {α.dtype} {α.shape} are not those of its rows")
    if head["kernel"] not in KERNELS:
        raise ValueError(f"it is of the kernel {shown(head['kernel'])}")
    settings = Settings.from_json(head["settings"])
    facts = {**head["facts"], **measured}
    return SavedSolution(α, hashes, rows, settings, head["kernel"], Path(head["gram"]), facts)


def write_hdf5(path: Path, arrays: Mapping[str, Array], attributes: Mapping[str, Any]) -> None:
    """Arrays by name with attributes as JSON, one HDF5 file, whole or absent. Raises KernregError: the disk refuses."""

    def fill(partial: Path) -> None:
        with writing(partial) as sink, h5py.File(sink, "w", libver=("earliest", "v110")) as file:
            for key, value in attributes.items():
                file.attrs[key] = json.dumps(value)
            for name, array in arrays.items():
                file[name] = array

    replace(path, fill)
