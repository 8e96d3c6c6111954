"""New rows from a user's file, scaled and transformed as the training rows of a Gram were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.data.dataset import Floats, Integers, one_hot
from kernreg.data.files import inputs, outputs, read_arrays
from kernreg.data.normalise import scale
from kernreg.data.registry import find, folder_of, function
from kernreg.errors import KernregError
from kernreg.symmetry import transform


@dataclass(frozen=True, eq=False)
class NewRows:
    """t rows that no training took part in.

    x        (t, …) of the dtype and the scale of the training rows
    y        (t, c) float64 targets as the training rows have them, or None
    labels   (t,) int64 in 0..classes-1, or None
    """

    x: Floats
    y: Floats | None
    labels: Integers | None


def new_rows(
    path: Path, provenance: Mapping[str, Any], shape: tuple[int, ...], data_dir: str | Path | None = None
) -> NewRows:
    """X and, if there, y of a .npz, .npy, .h5 or .hdf5 file, for kernels with the rows that `provenance` describes.

    path         X as `kernreg.data.load` takes it; y may be missing
    provenance   of the training rows: their normalisation with its mean and std, dtype and classes
    shape        (H, W, C) or (d,) of a training row

    Raises KernregError: rows of another shape, labels that the training rows do not have, a damaged file, or a
    transform that this machine draws differently.
    """
    arrays, _ = read_arrays(path, targets=False)
    x = inputs(arrays, "X", path)
    if x.shape[1:] != shape:
        raise KernregError(
            f"{path}: a row of X has shape {x.shape[1:]}, the training rows have {tuple(shape)}"
        )
    normalise, rows = str(provenance.get("normalise", "none")), np.arange(len(x))
    mean, std = (None if provenance.get(k) is None else np.array(provenance[k]) for k in ("mean", "std"))
    white = _white(x, provenance, data_dir) if normalise == "unit" else None
    scaled = scale(x, rows, normalise, str(provenance.get("dtype", "float64")), mean, std, white)
    made = provenance.get("transform")
    if made is not None:
        τ = transform(made["name"], made["seed"] or 0, tuple(shape), made["patch"])
        if τ.hash != made["hash"]:
            raise KernregError(
                f"the {made['name']} of seed {made['seed']} is another one here than when the Gram was made"
            )
        scaled = τ.apply(scaled)
    if "y" not in arrays:
        return NewRows(scaled, None, None)
    y, kind = outputs(arrays, "y", path, len(x))
    classes = provenance.get("classes")
    if classes is None:
        return NewRows(scaled, np.ascontiguousarray(y, dtype=np.float64).reshape(len(x), -1), None)
    if kind != "labels":
        raise KernregError(
            f"{path}: y holds real numbers, the training rows have labels of {classes} classes"
        )
    labels = _labels(y, int(classes), provenance.get("class_names"), path)
    return NewRows(scaled, one_hot(labels, int(classes)), labels)


def _labels(y: NDArray[Any], classes: int, names: list[str] | None, path: Path) -> Integers:
    """Numbers of the classes; a file numbers them as the training file did, or 0..classes-1."""
    values = np.unique(y)
    numbers = {name: k for k, name in enumerate(names or ())}
    if not all(str(value) in numbers for value in values):
        numbers = {str(k): k for k in range(classes)}
    strange = [value for value in values if str(value) not in numbers]
    if strange:
        raise KernregError(
            f"{path}: y has the label {strange[0]}, which the {classes} classes of training lack"
        )
    return np.array([numbers[str(value)] for value in y], dtype=np.int64)


def _white(x: NDArray[Any], provenance: Mapping[str, Any], data_dir: str | Path | None) -> float | None:
    """What a white pixel is: that of the registry's data set, or of 8 bits."""
    entry = find(str(provenance.get("name")))
    if entry is not None and entry.kind != "generated":
        white: float | None = function(entry)(folder_of(data_dir)).white
        return white
    return 255.0 if x.dtype == np.uint8 else None
