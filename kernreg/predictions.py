"""Predictions of a saved solution, for the test rows of its store or for new images, and the file they become."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kernreg.cholesky import Matrix
from kernreg.data import reload
from kernreg.data.newrows import new_rows
from kernreg.durable import replace as replace_file
from kernreg.errors import KernregError
from kernreg.matrixfree import without_tiles
from kernreg.predict import ComputedRows, Errors, StoredRows, errors
from kernreg.provenance import require_hashes, row_hashes
from kernreg.solutionfile import SavedSolution, write_hdf5
from kernreg.store import GramStore
from kernreg.targets import Counts

SUFFIXES = (".csv", ".h5", ".hdf5")


@dataclass(frozen=True, eq=False)
class Predictions:
    """f(x) of t rows.

    Attributes:
        values: (t, c) float64.
        rows: (t,) numbers of the rows: in the source of the test rows, or in the file of new ones.
        targets: (t, c) or None.
        labels: (t,) or None.
        classes: names of the outputs, or None where outputs are real numbers.
        source: where the rows come from.
    """

    values: Matrix
    rows: Counts
    targets: Matrix | None
    labels: Counts | None
    classes: tuple[str, ...] | None
    source: str

    @property
    def errors(self) -> Errors | None:
        """Loss, MSE and error rate; None without targets."""
        return None if self.targets is None else errors(self.values, self.targets, self.labels)

    def write(self, path: Path) -> None:
        """A .csv with a line for each row, or a .h5 with the arrays; whole or absent.

        Raises:
            KernregError: another suffix, or the disk refuses.
        """
        if path.suffix not in SUFFIXES:
            raise KernregError(
                f"{path} is none of {', '.join(SUFFIXES)}: predictions are written as one of them"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".csv":
            arrays = {
                "predictions": self.values,
                "targets": self.targets,
                "labels": self.labels,
                "rows": self.rows,
            }
            present = {name: array for name, array in arrays.items() if array is not None}
            write_hdf5(path, present, {"source": self.source, "classes": self.classes})
            return

        def fill(partial: Path) -> None:
            with partial.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(self._lines())

        replace_file(path, fill)

    def _lines(self) -> list[list[Any]]:
        t, c = self.values.shape
        names = self.classes or tuple(str(k) for k in range(c))
        head: list[Any] = ["row"]
        columns: list[list[Any]] = [self.rows.tolist()]
        if self.classes is not None:
            if self.labels is not None:
                head.append("label")
                columns.append([names[k] for k in self.labels])
            head.append("predicted")
            columns.append([names[k] for k in self.values.argmax(axis=1)])
        elif self.targets is not None:
            head += [f"target_{name}" for name in names]
            columns += self.targets.T.tolist()
        head += [f"output_{name}" for name in names]
        columns += self.values.T.tolist()
        return [head, *([column[i] for column in columns] for i in range(t))]


def of_store(
    saved: SavedSolution,
    store: GramStore,
    t: int | None = None,
    memory: int | str | None = None,
    *,
    matrix_free: bool = False,
    data_dir: str | Path | None = None,
) -> Predictions:
    """Predictions for the first t test rows of a store, K(test, train) streamed.

    Args:
        memory: most bytes of tiles in memory.
        matrix_free: compute K(test, train) anew instead, see `kernreg.matrixfree`.
        data_dir: of the original data files, for that.

    Raises:
        KernregError: the store is not of these rows, has no test rows, or lacks tiles.
    """
    saved.require_store(store)
    rows: StoredRows | ComputedRows
    if matrix_free:
        _, computed = without_tiles(store, saved.kernel, saved.n, data_dir)
        if computed is None:
            raise KernregError(
                f"{store.path} has no test rows; extend it by some (--test), or name new images"
            )
        if t is not None and t > computed.t:
            raise KernregError(f"{t} test rows are asked for, {store.path} has {computed.t}")
        rows = replace(computed, z=computed.z[:t])
    else:
        rows = StoredRows(store, saved.kernel, saved.n, t, memory)
    labels = None if store.labels_test is None else store.labels_test[: rows.t]
    targets = store.y_test[: rows.t]
    return Predictions(
        rows.matmul(saved.coefficients),
        store.rows_test[: rows.t],
        targets,
        labels if targets.shape[1] > 1 else None,
        _classes(saved, labels is not None),
        str(store.path),
    )


def of_images(
    saved: SavedSolution, path: Path, data_dir: str | Path | None = None, backend: str | None = None
) -> Predictions:
    """Predictions for new images: K(new, train) computed tile by tile with the architecture of the solution.

    Args:
        saved: the training rows are loaded again from its provenance, and must be the same.
        path: a file with X and, if known, y; scaled as the training rows were.
        data_dir: of the original data files.
        backend: default: the one that computed the Gram.

    Raises:
        KernregError: the training data cannot be loaded again or have changed, or the new rows do not fit.
    """
    settings = saved.settings
    new = new_rows(path, settings.provenance, settings.input_shape, data_dir)
    x = reload(settings.provenance, data_dir).x_train[: saved.n]
    if len(x) < saved.n:
        raise KernregError(f"the training data load with {len(x)} rows, the solution is of {saved.n}")
    require_hashes(saved.hashes, row_hashes(x), "train", "the solution")
    if new.y is not None and new.y.shape[1] != saved.coefficients.shape[1]:
        raise KernregError(
            f"{path}: y has {new.y.shape[1]} columns, the solution {saved.coefficients.shape[1]} outputs"
        )
    chosen = backend or settings.backend
    rows = ComputedRows(new.x, x, settings.architecture, saved.kernel, chosen, settings.dtype)
    values = rows.matmul(saved.coefficients)
    numbers = np.arange(len(values))
    targets = None if new.y is None else new.y.astype(np.float64)
    return Predictions(values, numbers, targets, new.labels, _classes(saved, True), str(path))


def _classes(saved: SavedSolution, labelled: bool) -> tuple[str, ...] | None:
    names = saved.settings.provenance.get("class_names")
    c = saved.coefficients.shape[1]
    if names is not None and len(names) == c:
        return tuple(map(str, names))
    counted = saved.settings.provenance.get("classes")
    return tuple(map(str, range(c))) if counted == c and labelled else None
