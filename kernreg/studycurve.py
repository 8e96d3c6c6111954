"""One curve of a study, from a Gram store to a curve file."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernreg.curve import curve_from_store, learning_curve
from kernreg.curvefile import CurveFile
from kernreg.entries import Entry
from kernreg.errors import KernregError
from kernreg.gramfile import now
from kernreg.leftout import left_out_curve
from kernreg.placement import beyond_memory
from kernreg.provenance import checksum, text_checksum, versions
from kernreg.spectra import Spectrum, spectrum
from kernreg.spectralexponents import spectral_exponents
from kernreg.store import GramStore
from kernreg.studyfile import Fit
from kernreg.tiled import TiledCholesky


def measured_curve(store: GramStore, entry: Entry, fit: Fit, memory: int | str | None = None) -> CurveFile:
    """The learning curve of an entry, the spectrum of its Gram matrix, and where both came from.

    Args:
        store: complete for the entry's rows, which are its leading ones.

    Returns:
        What is to be saved. A curve beyond memory stays on disk until its `traffic` is discarded.

    Raises:
        KernregError: as `learning_curve`.
    """
    n, t, kernel = entry.n, entry.t, entry.kernel
    y, y_test = store.y_train[:n], store.y_test[:t]
    rows = [store.rows_train[:n], store.rows_test[:t], y, y_test]
    leading = min(n, fit.spectrum)
    part = store.train(kernel, leading) if leading > 1 else None
    solver = TiledCholesky(memory=memory, keep_curve=True)
    if beyond_memory(store, solver, n):
        if store.t != t:
            raise KernregError(
                f"{store.path} holds {store.t} test rows, and a curve beyond memory takes all: use test = {store.t}"
            )
        checksums = _of_tiles(store, kernel, n, t)
        curve = curve_from_store(store, kernel, fit.ridge, fit.ridge_mode, n=n, solver=solver)
    else:
        K, K_test = store.train(kernel, n), store.test(kernel, n, t=t)
        checksums = (checksum(K), checksum(K_test))
        labels = None if store.labels_test is None or y.shape[1] < 2 else store.labels_test[:t]
        curve = learning_curve(
            K, y, K_test, y_test, fit.ridge, fit.ridge_mode, labels_test=labels, overwrite=True
        )
    found = None if part is None else _spectrum(part, y[:leading], curve.ridge)
    held_out = None
    if part is not None and found is not None:
        held_out = left_out_curve(part, y[:leading], curve.ridge, whole=found)
    about = {
        "entry": entry.axes(),
        "t": t,
        "architecture": entry.architecture.to_dict(),
        "store": store.path.name,
        "store_created": store.created,
        "store_versions": dict(store.versions),
        "backend": store.backend,
        "dtype": store.dtype,
        "data": store.provenance,
        "shape": list(store.settings.input_shape),
        "zero_error": float(np.square(y).sum() / n),
        "train_checksum": checksums[0],
        "test_checksum": checksums[1],
        "rows": text_checksum(" ".join(checksum(array) for array in rows)),
        "versions": versions(),
        "created": now(),
        "spectral_exponents": None if found is None else _exponents(part, y[:leading], found),
    }
    return CurveFile(curve, found, held_out, about)


def _of_tiles(store: GramStore, kernel: str, n: int, t: int) -> tuple[str, str]:
    """The checksums of a matrix that memory does not hold: of the checksums of its tiles."""
    found: dict[str, list[str]] = {"train": [], "test": []}
    for part, tile in store.shards.needed(n, t, n):
        found[part].append(store.shards.describe(part, tile)["checksums"][kernel])
    return (
        f"of tiles {text_checksum(' '.join(found['train']))}",
        f"of tiles {text_checksum(' '.join(found['test']))}",
    )


def _spectrum(K: Any, y: Any, ridge: float) -> Spectrum | None:
    try:
        return spectrum(K, y, ridge)
    except KernregError:  # the ridge makes the Cholesky factor exist, but not every eigenvalue positive
        return None


def _exponents(K: Any, y: Any, found: Spectrum) -> dict[str, Any] | None:
    """a, b and β of the spectrum, JSON-able; None where it has none."""
    try:
        made = spectral_exponents(K, y, found.ridge, groups=0, whole=found).to_dict()
    except KernregError:
        return None
    return {key: value for key, value in made.items() if not isinstance(value, float) or np.isfinite(value)}
