"""Curves of trained networks as files, beside those of kernels: what a curve costs, and a curve file that is made or found.

    NAME.npz         the curve, see `kernreg.curvefile`
    NAME.training/   while it is made: finished passes and the checkpoint of the one in hand; removed when it is there

PyTorch is loaded where a network is trained or timed, and not before.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kernreg.curvefile import CurveFile, digest_of, load, save
from kernreg.data import Dataset
from kernreg.durable import Lock, refusal
from kernreg.gramfile import now
from kernreg.progress import Progress
from kernreg.provenance import checksum, text_checksum, versions
from kernreg.question import halves
from kernreg.training import Trained

WORK = ".training"


def curve_digest(identity: Mapping[str, Any], trained: Trained, n: int, t: int) -> str:
    """16 hexadecimal digits of everything that determines a curve."""
    return digest_of(
        {"data": dict(identity), "network": trained.digest, "samples": trained.samples(n), "n": n, "t": t}
    )


def counts(trained: Trained, n: int) -> tuple[int, int]:
    """The networks of a curve on n rows, all sample counts, training sets and replicates together, and the rows that go
    through them, all steps together.

    Raises:
        KernregError: a sample count beyond n.
    """
    t, networks, rows = trained.training, 0, 0
    blocks = [(0, n), *halves(n, t.halvings)]
    for m in trained.samples(n):
        count = t.replicates * sum(size >= m for _, size in blocks)
        networks += count
        rows += count * t.steps_of(m) * t.batch_of(m)
    return networks, rows


def network_curve(
    dataset: Dataset,
    trained: Trained,
    path: Path,
    axes: Mapping[str, Any],
    *,
    device: str = "cpu",
    compiled: bool = False,
    progress: bool | Progress = False,
) -> CurveFile:
    """The curve in a file, trained and written if the file is not there.

    Args:
        dataset: n training and t test rows.
        trained: what is trained, and how.
        path: NAME.npz in a folder that is there.
        axes: of the entry in a study; any names and values.
        device, compiled, progress: as in `kernreg.finite.curves.train_curve`, which also says what is raised.

    Raises:
        KernregError: another process makes this curve; the disk refuses.
    """
    if path.is_file():
        return load(path)
    from kernreg.finite.curves import train_curve

    folder = path.with_suffix(WORK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(error, folder) from error
    lock = Lock(folder)
    try:
        curve, facts = train_curve(
            dataset, trained, folder, device=device, compiled=compiled, progress=progress
        )
        made = CurveFile(curve, None, None, {**_about(dataset, trained, axes, device), **facts})
        save(made, path)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()
    return made


def seconds(trained: Trained, shape: tuple[int, ...], outputs: int, n: int, device: str = "cpu") -> float:
    """Of all trainings of a curve, timed on this machine with random rows (some seconds).

    Raises:
        KernregError: no PyTorch, or layers that do not fit the rows.
    """
    from kernreg.finite.curves import seconds_per_row

    each, rows = seconds_per_row(trained, shape, outputs, n, device)
    return each * rows


def _about(dataset: Dataset, trained: Trained, axes: Mapping[str, Any], device: str) -> dict[str, Any]:
    rows = (dataset.rows_train, dataset.rows_test, dataset.y_train, dataset.y_test)
    return {
        "entry": dict(axes),
        "t": dataset.t,
        "architecture": trained.architecture.to_dict(),
        "network": trained.label,
        "network_digest": trained.digest,
        "backend": f"torch on {device}",
        "dtype": trained.training.precision,
        "data": dataset.provenance,
        "shape": list(dataset.shape),
        "zero_error": float(np.square(dataset.y_train).sum() / dataset.n),
        "rows": text_checksum(" ".join(checksum(array) for array in rows)),
        "versions": versions(),
        "created": now(),
        "spectral_exponents": None,
    }
