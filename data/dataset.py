"""Dataset: rows of train and test data, their targets, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError
from kernreg.symmetry import Window, transform

Floats: TypeAlias = NDArray[np.floating[Any]]
Integers: TypeAlias = NDArray[np.int64]

# What may differ between two loads of the same rows: how many of them, and where the files lie.
SIZES_AND_PLACES = ("n", "test", "path", "data_dir")


@dataclass(frozen=True, eq=False)
class Dataset:
    """n train rows and t test rows with c targets each; checked when it is made.

    x_train         (n,H,W,C) images or (n,d) vectors, C-contiguous float32 or float64, finite, n ≥ 1
    y_train         (n,c) float64: one-hot minus 1/classes (`one_hot`), or real targets
    x_test, y_test  (t,…) and (t,c), t ≥ 0, of the same dtype and trailing shape
    labels_*        (n,), (t,) int64 in 0..classes-1, or None where the targets are real numbers
    rows_*          (n,), (t,) int64: row numbers in the source. `rows_test` counts in the official test set
                    where there is one, else in the same numbering as `rows_train`
    provenance      JSON-able: everything `kernreg.data.reload` needs to load the same rows again

    The rows of a smaller n are the first rows of a larger n with the same seed; so are the test rows.
    """

    name: str
    x_train: Floats
    y_train: Floats
    x_test: Floats
    y_test: Floats
    labels_train: Integers | None
    labels_test: Integers | None
    rows_train: Integers
    rows_test: Integers
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        n, t = len(self.x_train), len(self.x_test)
        if n == 0:
            raise KernregError(f"{self.name}: no train rows; ask for n of at least 1")
        if self.x_train.ndim not in (2, 4) or 0 in self.x_train.shape[1:]:
            raise KernregError(
                f"{self.name}: x_train has shape {self.x_train.shape}; it must be (n, H, W, C) or (n, d)"
            )
        if self.x_test.shape[1:] != self.x_train.shape[1:] or self.x_test.dtype != self.x_train.dtype:
            raise KernregError(
                f"{self.name}: test rows {self.x_test.shape[1:]} {self.x_test.dtype} differ from "
                f"train rows {self.x_train.shape[1:]} {self.x_train.dtype}; give both one shape and dtype"
            )
        if self.x_train.dtype not in (np.float32, np.float64):
            raise KernregError(f"{self.name}: x_train is {self.x_train.dtype}; use float32 or float64")
        if self.y_train.ndim != 2 or self.y_train.shape[1] == 0:
            raise KernregError(
                f"{self.name}: y_train has shape {self.y_train.shape}; it must be (n, c), c ≥ 1"
            )
        outputs = self.y_train.shape[1]
        for split, rows, x, y, labels, numbers in (
            ("train", n, self.x_train, self.y_train, self.labels_train, self.rows_train),
            ("test", t, self.x_test, self.y_test, self.labels_test, self.rows_test),
        ):
            if y.shape != (rows, outputs) or y.dtype != np.float64:
                raise KernregError(
                    f"{self.name}: y_{split} is {y.dtype} {y.shape}; it must be float64 ({rows}, {outputs})"
                )
            if numbers.shape != (rows,) or numbers.dtype != np.int64:
                raise KernregError(f"{self.name}: rows_{split} must be int64 of shape ({rows},)")
            if labels is not None and (labels.shape != (rows,) or labels.dtype != np.int64):
                raise KernregError(f"{self.name}: labels_{split} must be int64 of shape ({rows},) or None")
            if labels is not None and rows and not 0 <= labels.min() <= labels.max() < outputs:
                raise KernregError(f"{self.name}: labels_{split} must lie in 0..{outputs - 1}")
            if not (x.flags.c_contiguous and y.flags.c_contiguous):
                raise KernregError(f"{self.name}: the {split} arrays must be C-contiguous")
            require_finite(x, f"{self.name}: x_{split}")
            require_finite(y, f"{self.name}: y_{split}")
        if (self.labels_train is None) != (self.labels_test is None):
            raise KernregError(f"{self.name}: labels must be given for both splits or for neither")
        try:
            json.dumps(self.provenance, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise KernregError(f"{self.name}: the provenance is not JSON: {error}") from None

    @property
    def n(self) -> int:
        """Train rows."""
        return len(self.x_train)

    @property
    def t(self) -> int:
        """Test rows."""
        return len(self.x_test)

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C) of one image or (d,) of one vector."""
        return self.x_train.shape[1:]

    def first(self, n: int | None = None, test: int | None = None) -> Dataset:
        """The data set of the first n train and first `test` test rows (None: all of them)."""
        n, test = self.n if n is None else n, self.t if test is None else test
        if not (1 <= n <= self.n and 0 <= test <= self.t):
            raise KernregError(f"{self.name}: {n} + {test} rows asked, {self.n} + {self.t} are loaded")
        return replace(
            self,
            x_train=self.x_train[:n],
            y_train=self.y_train[:n],
            x_test=self.x_test[:test],
            y_test=self.y_test[:test],
            labels_train=None if self.labels_train is None else self.labels_train[:n],
            labels_test=None if self.labels_test is None else self.labels_test[:test],
            rows_train=self.rows_train[:n],
            rows_test=self.rows_test[:test],
            provenance={**self.provenance, "n": n, "test": test},
        )

    def transformed(self, name: str, seed: int = 0, patch: Window | None = None) -> Dataset:
        """The same rows in other coordinates, train and test alike, see `kernreg.symmetry.transform`.

        The provenance gets the name, seed, patch and hash of the transform as "transform".

        Raises:
            KernregError: as `transform`; or the rows are transformed already.
        """
        τ = transform(name, seed, self.shape, patch)
        if name == "none":
            return self
        if "transform" in self.provenance:
            done = self.provenance["transform"]["name"]
            raise KernregError(f"{self.name}: these rows have had a {done}; transform the original ones")
        return replace(
            self,
            x_train=τ.apply(self.x_train),
            x_test=τ.apply(self.x_test),
            provenance={**self.provenance, "transform": τ.to_dict()},
        )


def one_hot(labels: Integers, classes: int) -> Floats:
    """Targets (n, classes) float64: 1 − 1/classes at the label, −1/classes elsewhere; a row sums to 0."""
    y = np.full((len(labels), classes), -1.0 / classes)
    y[np.arange(len(labels)), labels] += 1.0
    return y


def require_finite(values: NDArray[Any], name: str) -> None:
    """Raise KernregError naming the first row of `values` (n,…) that holds NaN or infinity."""
    rows_at_once = max(1, 2**18 // max(1, values[:1].size))
    for start in range(0, len(values), rows_at_once):
        block = values[start : start + rows_at_once]
        if not np.isfinite(block).all():
            good = np.isfinite(block).reshape(len(block), -1).all(axis=1)
            raise KernregError(
                f"{name}: row {start + int(np.argmin(good))} holds NaN or infinity; remove or repair that row"
            )


def identity(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance without sizes and places: equal for two loads exactly when their rows are nested."""
    return {key: value for key, value in provenance.items() if key not in SIZES_AND_PLACES}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Sequence[str]:
    """Names of the provenance fields, sizes and places aside, in which two data sets differ."""
    a, b = identity(old), identity(new)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
