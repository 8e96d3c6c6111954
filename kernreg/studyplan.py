"""What a study takes before it is run: Gram matrices, trainings and curves, pairs, disk, memory, and time on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kernreg.architecture import Architecture
from kernreg.curve import learning_curve
from kernreg.entries import Entry
from kernreg.kernels import backends
from kernreg.leftout import left_out
from kernreg.plan import PROCESS_BYTES, parse_bytes, plan, seconds_per_pair
from kernreg.spectra import spectrum as spectrum_of
from kernreg.store import GramStore
from kernreg.studytrainings import TrainingTask

PROBE = 300  # training rows of the curve that is timed
PROBE_OUTPUTS = 10
TORCH_BYTES = 1 << 30  # PyTorch, the networks of a pass and what they keep for their gradients


@dataclass(frozen=True)
class GramTask:
    """One Gram matrix that the study rests on.

    Attributes:
        path: its store; None while the data are not here.
        architecture, kernel: "ntk", "nngp" or "both".  backend: resolved.
        shape: of a row of the data.
        n, t: rows that must be there.
        entries: curves measured on it.  curves: their files.
        state: "complete", "begun" or "absent".
        pairs, missing: kernel values of each kernel in all, and still to compute.
        updates: arithmetic of the missing pairs, `kernreg.kernels.backends.updates`.
        disk_bytes: of what is missing.  memory_bytes: estimated peak of the process.
        seconds: to compute what is missing, measured on this machine; None if not asked for.
    """

    path: Path | None
    architecture: Architecture
    kernel: str
    backend: str
    shape: tuple[int, ...]
    n: int
    t: int
    entries: tuple[Entry, ...]
    curves: tuple[Path | None, ...]
    state: str
    pairs: int
    missing: int
    updates: int
    disk_bytes: int
    memory_bytes: int
    seconds: float | None = None
    curve_seconds: float | None = None

    @property
    def unmeasured(self) -> tuple[Entry, ...]:
        """Entries whose curve file is not there."""
        paired = zip(self.entries, self.curves, strict=True)
        return tuple(entry for entry, path in paired if path is None or not path.is_file())

    @property
    def needed(self) -> bool:
        """Whether a curve still waits for this Gram matrix."""
        return bool(self.unmeasured)


@dataclass(frozen=True)
class Plan:
    """All tasks of a study; sums are over those that a curve still waits for."""

    tasks: tuple[GramTask, ...]
    stand_in: bool
    trainings: tuple[TrainingTask, ...] = ()

    @property
    def waiting(self) -> tuple[GramTask, ...]:
        """Tasks that a curve still waits for."""
        return tuple(task for task in self.tasks if task.needed)

    @property
    def untrained(self) -> tuple[TrainingTask, ...]:
        """Trainings whose curve is not there."""
        return tuple(task for task in self.trainings if task.needed)

    def total(self, what: str) -> int:
        """The sum of "missing", "updates" or "disk_bytes"."""
        return sum(getattr(task, what) for task in self.waiting)

    @property
    def seconds(self) -> float | None:
        """Of everything that is left to do, Gram matrices, curves and trainings."""
        parts = [(task.seconds, task.curve_seconds) for task in self.waiting]
        parts += [(task.seconds, 0.0) for task in self.untrained]
        if any(gram is None or curve is None for gram, curve in parts):
            return None
        return sum(float(gram or 0) + float(curve or 0) for gram, curve in parts)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "grams": [
                {
                    "path": None if task.path is None else str(task.path),
                    "architecture": task.architecture.name,
                    "kernel": task.kernel,
                    "backend": task.backend,
                    "transform": task.entries[0].transform,
                    "transform_seed": task.entries[0].transform_seed,
                    "seed": task.entries[0].seed,
                    "n": task.n,
                    "t": task.t,
                    "state": task.state,
                    "needed": task.needed,
                    "curves": len(task.entries),
                    "curves_measured": len(task.entries) - len(task.unmeasured),
                    "pairs": task.pairs,
                    "missing_pairs": task.missing,
                    "updates": task.updates,
                    "disk_bytes": task.disk_bytes,
                    "memory_bytes": task.memory_bytes,
                    "seconds": task.seconds,
                    "curve_seconds": task.curve_seconds,
                }
                for task in self.tasks
            ],
            "trainings": [task.to_dict() for task in self.trainings],
            "networks": sum(task.networks for task in self.untrained),
            "pairs": self.total("missing"),
            "updates": self.total("updates"),
            "disk_bytes": self.total("disk_bytes"),
            "memory_bytes": max(
                (*(task.memory_bytes for task in self.waiting), *(TORCH_BYTES for _ in self.untrained)),
                default=0,
            ),
            "seconds": self.seconds,
            "data_are_here": not self.stand_in,
        }


def gram_task(
    path: Path | None,
    architecture: Architecture,
    kernel: str,
    shape: tuple[int, ...],
    entries: tuple[Entry, ...],
    curves: tuple[Path | None, ...],
    backend: str,
    dtype: str,
    memory: int | str | None,
) -> GramTask:
    """The task of one Gram matrix, with what is there already taken off.

    Raises:
        KernregError: the network does not fit the data, or the memory does not suffice.
        NotImplementedError: names a layer that the backend does not cover.
    """
    backends.covers(backend, architecture, shape)
    n, t = max(entry.n for entry in entries), max(entry.t for entry in entries)
    whole = plan(n, t, shape, architecture, kernel, dtype, memory)
    state, done = "absent", 0
    if path is not None and (path / "gram.h5").is_file():
        store = GramStore.open(path)
        inside = (min(n, store.n), min(t, store.t))
        missing = store.missing(*inside)
        places = store.shards.needed(*inside, inside[0])
        done = sum(tile.pairs for _, tile in places) - sum(tile.pairs for _, tile in missing)
        state = "complete" if not missing and inside == (n, t) else "begun"
    most = curve_bytes(n, t) if memory is None else min(curve_bytes(n, t), parse_bytes(memory))
    missing_pairs = 0 if state == "complete" else max(whole.pairs - done, 0)
    kernels = 2 if kernel == "both" else 1
    return GramTask(
        path=path,
        architecture=architecture,
        kernel=kernel,
        backend=backend,
        shape=shape,
        n=n,
        t=t,
        entries=entries,
        curves=curves,
        state=state,
        pairs=whole.pairs,
        missing=missing_pairs,
        updates=missing_pairs * whole.updates * kernels,
        disk_bytes=round(whole.disk_bytes * missing_pairs / whole.pairs),
        memory_bytes=max(whole.memory_bytes, most),
    )


def curve_bytes(n: int, t: int) -> int:
    """Estimated peak of measuring a curve: the process, K and K_test in float64, a quarter for replicates."""
    return PROCESS_BYTES + 10 * n * n + 8 * n * (t + min(t, 1024) * 2)


def timed(tasks: tuple[GramTask, ...], dtype: str, spectrum: int) -> tuple[GramTask, ...]:
    """The tasks with seconds, each architecture timed once on random rows, and one small curve.

    Raises:
        NotImplementedError, KernregError: as `backends.compute`.
    """
    speeds: dict[tuple[str, str, tuple[int, ...]], float] = {}
    needed = any(task.needed for task in tasks)
    per_operation = _curve_speed() if needed else 0.0
    per_prediction = _prediction_speed() if needed and spectrum else 0.0
    measured = []
    for task in tasks:
        key = (task.architecture.digest, task.kernel, task.shape)
        if task.needed and task.missing and key not in speeds:
            x = np.random.default_rng(0).standard_normal((min(task.n, 2048), *task.shape)).astype(dtype)
            speeds[key] = seconds_per_pair(x, task.architecture, task.kernel, task.backend, dtype)
        curves = per_operation * sum(
            _operations(entry.n, entry.t, PROBE_OUTPUTS) for entry in task.unmeasured
        )
        # A spectrum costs about as much as the prediction of the held-out curve at one of its 2·log2(n) sizes.
        sizes = [min(entry.n, spectrum) for entry in task.unmeasured]
        curves += per_prediction * sum((1 + 2 * size.bit_length()) * size**3 for size in sizes)
        seconds = task.missing * speeds[key] if key in speeds else 0.0
        measured.append(replace(task, seconds=seconds, curve_seconds=curves))
    return tuple(measured)


def _operations(n: int, t: int, outputs: int) -> float:
    """Multiply-adds of a learning curve with LOO and replicates: factor, inverse, solves, running sums."""
    return (1 / 3 + 1 / 3 + 1 / 18) * n**3 + n * n * t + 3 * n * (n + t) * outputs


def _curve_speed() -> float:
    """Seconds per operation, from one small curve."""
    K, y = _probe(2 * PROBE)
    train, test = slice(0, PROBE), slice(PROBE, None)
    best = _best(lambda: learning_curve(K[train, train], y[train], K[test, train], y[test], ridge=1e-3))
    return best / _operations(PROBE, PROBE, PROBE_OUTPUTS)


def _prediction_speed() -> float:
    """Seconds of the prediction at one sample count, by the cube of the rows: several inversions, see `kernreg.leftout`."""
    n = 2 * PROBE
    K, y = _probe(n)
    whole = spectrum_of(K, y, 1e-3)
    return _best(lambda: left_out(K, y, n / 2, 1e-3, whole=whole)) / n**3


def _probe(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, 32)), rng.standard_normal((n, PROBE_OUTPUTS))
    K = np.exp(x @ x.T / 32)
    return (K + K.T) / 2, y


def _best(run: Callable[[], object]) -> float:
    seconds = np.inf
    for _ in range(2):  # the first call loads libraries
        start = time.perf_counter()
        run()
        seconds = min(seconds, time.perf_counter() - start)
    return seconds
