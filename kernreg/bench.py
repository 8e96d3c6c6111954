"""How fast a backend is here: checked against the definition, then timed, beside what the device could issue at most."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.device import absence, cuda
from kernreg.durable import refusal
from kernreg.errors import KernregError
from kernreg.kernels import backends
from kernreg.kernels.bound import GPU_SLOTS, cpu_bound, updates_per_pair
from kernreg.kernels.lanes import GPUS
from kernreg.kernels.threads import count
from kernreg.layers import Conv
from kernreg.plan import seconds_per_pair
from kernreg.provenance import versions

# Largest relative error of an entry (docs/kernels.md); the rows here are random, nowhere near parallel.
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}
SECONDS, REPEATS = 1.0, 7  # of one timing, and timings
SMALLEST, LARGEST = 16, 8192  # rows
CHECKED = 3  # rows whose kernel is held against the definition
DEAR = 1_000_000  # updates of a pair from which the definition is asked for fewer rows


class RedCheckError(KernregError):
    """A result is wrong, so its speed means nothing."""


@dataclass(frozen=True)
class Case:
    """What is timed: K(x, z) of standard normal rows; their values change no speed.

    Attributes:
        architecture: the network.
        shape: of a row, (H, W, C) or (d,).
        kernel: "ntk", "nngp" or "both".
        dtype: "float32" or "float64".
        backend: resolved name.
    """

    architecture: Architecture
    shape: tuple[int, ...]
    kernel: str
    dtype: str
    backend: str

    def rows(self, n: int, seed: int) -> NDArray[np.floating]:
        """(n, *shape), the leading rows the same for any n."""
        return np.random.default_rng(seed).standard_normal((n, *self.shape)).astype(self.dtype)

    def compute(
        self, x: NDArray[np.floating], z: NDArray[np.floating] | None
    ) -> dict[str, NDArray[np.floating]]:
        """By the backend."""
        return backends.compute(x, z, self.architecture, self.kernel, self.backend, self.dtype)


@dataclass(frozen=True)
class Record:
    """One result, all of it in the file of results.

    Attributes:
        architecture, shape, kernel, dtype, backend: of the `Case`; architecture as text.
        rows: n of K(x, z), n × n, host arrays in and out.
        error: largest relative error against the definition.
        updates_per_pair: one update is one (pair, shift, pixel, layer).
        updates_per_s: median, q20 and q80 of the timings.
        bound_updates_per_s: what this device could issue at most, measured; None where its slots are not counted.
        share_of_bound: median over bound, or None.
        device, driver: names; versions: of kernreg and the libraries; date: UTC.
    """

    architecture: str
    shape: tuple[int, ...]
    kernel: str
    dtype: str
    backend: str
    rows: int
    error: float
    updates_per_pair: int
    updates_per_s: Mapping[str, float]
    bound_updates_per_s: float | None
    share_of_bound: float | None
    device: str
    driver: str
    versions: Mapping[str, str]
    date: str


def bench(case: Case, repeats: int = REPEATS, seconds: float = SECONDS) -> Record:
    """Check, then time.

    Raises:
        RedCheckError: a wrong number; nothing is timed.
        NotImplementedError, KernregError: as `backends.compute`.
    """
    error = check(case)
    settings = (case.architecture, case.kernel, case.backend, case.dtype)
    pair = seconds_per_pair(case.rows(1024, 0), *settings)
    n = int(np.clip(int((seconds / pair) ** 0.5) // SMALLEST * SMALLEST, SMALLEST, LARGEST))
    x, z = case.rows(n, 0), case.rows(n, 1)
    case.compute(x, z)
    each = updates_per_pair(case.architecture, case.shape)
    rates = summary([n * n * each / _seconds(case, x, z) for _ in range(repeats)])
    limit = bound(case, n)
    return Record(
        str(case.architecture),
        case.shape,
        case.kernel,
        case.dtype,
        case.backend,
        n,
        error,
        each,
        rates,
        limit,
        rates["median"] / limit if limit else None,
        device_name(case.backend),
        driver(),
        versions(),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )


def check(case: Case) -> float:
    """The largest relative error of K(x, z) and K(x, x) on a few rows.

    Raises:
        RedCheckError: larger than the tolerance, a number that is none, or K(x, x) not symmetric to the bit.
    """
    few = 2 if updates_per_pair(case.architecture, case.shape) > DEAR else CHECKED
    x, z = case.rows(few, 0), case.rows(few, 1)
    worst = 0.0
    for other in (z, None):
        exact = backends.compute(x, other, case.architecture, case.kernel, "reference", "float64")
        for name, K in case.compute(x, other).items():
            if other is None and not np.array_equal(K, K.T):
                raise RedCheckError(f"{_what(case)}: K(x, x) is not symmetric; no speed is reported")
            error = float(np.max(np.abs(K.astype(np.float64) / exact[name] - 1)))
            if not error <= TOLERANCE[case.dtype]:  # a NaN is red
                raise RedCheckError(
                    f"{_what(case)}: off the definition by {error:.1e}, allowed {TOLERANCE[case.dtype]:.0e}; "
                    "no speed is reported"
                )
            worst = max(worst, error)
    return worst


def bound(case: Case, n: int) -> float | None:
    """Updates/s at most on this device: of its multiply-add pipes, or, fully connected on a GPU, of a plain GEMM."""
    if case.backend not in GPUS:
        return cpu_bound(case.architecture, case.shape, case.kernel, case.dtype, count())
    if absence():
        return None
    if not any(isinstance(layer, Conv) for layer in case.architecture.layers):
        d = int(np.prod(case.shape))
        return (
            n * n * updates_per_pair(case.architecture, case.shape) / cuda().product_seconds(n, d, case.dtype)
        )
    slots = GPU_SLOTS.get(("nngp" if case.kernel == "nngp" else "ntk", case.dtype))
    return None if slots is None else cuda().multiply_adds(case.dtype) / slots


def append(records: Sequence[Record], path: Path) -> None:
    """Add records to a file, one line of JSON each; it is made where it is not there.

    Raises:
        KernregError: the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(record), allow_nan=False) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise refusal(error, path) from error


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, 20 % and 80 % quantiles."""
    low, middle, high = np.quantile(values, [0.2, 0.5, 0.8])
    return {"median": float(middle), "q20": float(low), "q80": float(high)}


def device_name(backend: str) -> str:
    """Of what a backend computes on."""
    if backend in GPUS:
        names = GPUS[backend]().names()
        return names[0] if names else f"{cpu().get('model name', platform.processor())}, interpreted"
    return f"{cpu().get('model name', platform.processor())}, {count()} threads"


def driver() -> str:
    """Of the GPU, as it says itself, or ""."""
    file = Path("/proc/driver/nvidia/version")
    return file.read_text(encoding="utf-8").splitlines()[0] if file.is_file() else ""


def cpu() -> dict[str, str]:
    """What Linux says of the first core."""
    file = Path("/proc/cpuinfo")
    first = file.read_text(encoding="utf-8").split("\n\n")[0] if file.is_file() else ""
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }


def _seconds(case: Case, x: NDArray[np.floating], z: NDArray[np.floating]) -> float:
    start = time.perf_counter()
    case.compute(x, z)
    return time.perf_counter() - start


def _what(case: Case) -> str:
    return f"{case.architecture.name or case.architecture.digest} {case.kernel} in {case.dtype} by backend {case.backend}"
