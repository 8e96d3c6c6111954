"""Learning curves as files: whole or absent, named by the digest of everything that determines them.

A curve file NAME.npz is what NumPy opens without kernreg: one array for each attribute of a `LearningCurve`,
those of its replicates numbered, the spectrum of the Gram matrix, and `about`, a JSON text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.archive import read_archive, write_archive
from kernreg.curve import LearningCurve, Replicate
from kernreg.errors import KernregError, reason
from kernreg.provenance import checksum, text_checksum
from kernreg.spectra import Spectrum

Array = NDArray[Any]

FORMAT_VERSION = 3
_CURVE = ("samples", "loss", "mse", "error", "loo", "gcv", "anchors", "squared_errors", "squared_targets")
_REPLICATE = ("loss", "mse", "error", "anchors", "squared_errors")
_UNREADABLE = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)


class DamagedCurve(KernregError):
    """A curve file that is not as it was written."""


@dataclass(frozen=True, eq=False)
class CurveFile:
    """A learning curve and where it came from.

    Attributes:
        curve: see `LearningCurve`.
        spectrum: of the first N rows of its Gram matrix; None if not asked for or not positive definite.
        held_out: (N,) what these rows predict for the MSE on rows left out, `kernreg.leftout`; None likewise.
        about: JSON-able: entry, data, digests of what was read, versions, time.
    """

    curve: LearningCurve
    spectrum: Spectrum | None
    held_out: Array | None
    about: dict[str, Any]


def digest_of(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits, equal for equal JSON."""
    text = json.dumps({**settings, "format": FORMAT_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_in(path: Path) -> str:
    """The digest that the name of a curve file ends with."""
    return path.stem.rpartition("-")[2]


def save(file: CurveFile, path: Path) -> None:
    """Write a curve file, atomically.

    Raises:
        KernregError: the disk refuses.
    """
    curve = file.curve
    arrays: dict[str, Array] = {
        name: getattr(curve, name) for name in _CURVE if getattr(curve, name) is not None
    }
    arrays["ridge"] = np.array([curve.ridge, curve.relative_ridge])
    arrays["blocks"] = np.array([(r.start, r.size) for r in curve.replicates], dtype=np.int64).reshape(-1, 2)
    for i, replicate in enumerate(curve.replicates):
        for name in _REPLICATE:
            if getattr(replicate, name) is not None:
                arrays[f"{name}_{i}"] = getattr(replicate, name)
    if file.spectrum is not None:
        arrays["eigenvalues"], arrays["energies"] = file.spectrum.eigenvalues, file.spectrum.energies
        arrays["spectrum_ridge"] = np.array(file.spectrum.ridge)
    if file.held_out is not None:
        arrays["held_out"] = file.held_out
    told = {**file.about, "checksum": checksum_of(arrays), "digest": digest_in(path)}
    about = json.dumps(told, sort_keys=True, allow_nan=False)
    arrays["about"] = np.array(about)
    write_archive(path, arrays)


def load(path: Path) -> CurveFile:
    """Read a curve file; every byte is covered by a checksum.

    Raises:
        DamagedCurve: it is damaged.
        KernregError: no such file, or the system cannot read it.
    """
    try:
        arrays = read_archive(path)
        about = json.loads(str(arrays.pop("about")))
        if about.pop("checksum") != checksum_of(arrays):
            raise ValueError("its checksum does not fit")
        blocks = arrays["blocks"].tolist()
        replicates = tuple(
            Replicate(start, size, **{name: arrays.get(f"{name}_{i}") for name in _REPLICATE})  # type: ignore[arg-type]
            for i, (start, size) in enumerate(blocks)
        )
        ridge, relative = arrays["ridge"].tolist()
        values: dict[str, Any] = {name: arrays.get(name) for name in _CURVE}
        curve = LearningCurve(**values, ridge=ridge, relative_ridge=relative, replicates=replicates)
        spectrum = None
        if "eigenvalues" in arrays:
            spectrum = Spectrum(arrays["eigenvalues"], arrays["energies"], float(arrays["spectrum_ridge"]))
        return CurveFile(curve, spectrum, arrays.get("held_out"), about)
    except FileNotFoundError:
        raise KernregError(f"there is no curve {path}; run the study again to measure it") from None
    except OSError as error:
        raise KernregError(f"cannot read the curve {path}: {error.strerror}") from error
    except _UNREADABLE as error:
        raise DamagedCurve(f"the curve {path} is damaged ({reason(error)}); run the study again") from error


def checksum_of(arrays: Mapping[str, Array]) -> str:
    """Of all arrays of a curve file but `about`, which holds it."""
    parts = [f"{name} {array.dtype} {array.shape} {checksum(array)}" for name, array in arrays.items()]
    return text_checksum("\n".join(sorted(parts)))
