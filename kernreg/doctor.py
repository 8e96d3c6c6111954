"""What works on this machine, and why the rest does not.

Every check does the thing it reports on: a backend is ok when it has computed a kernel, HDF5 when a file was
written and read. Dependencies are imported by name, because a broken one must become a line of the report.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kernreg.architecture import Architecture
from kernreg.errors import KernregError

PYTHON = (3, 11)
GPU_LIBRARIES = ("torch", "triton", "cupy")
CLUSTER_LIBRARIES = ("distributed", "dask_jobqueue")
ARCHITECTURES = tuple(Architecture.preset(name, depth=1) for name in ("fcn", "lcn", "vec", "gap", "lcn-gap"))


@dataclass(frozen=True)
class Finding:
    """One line of the report; `broken` is for what kernreg cannot do without."""

    name: str
    status: Literal["ok", "absent", "broken"]
    detail: str


def examine(folder: Path | None = None, data_dir: Path | None = None) -> list[Finding]:
    """Examine this machine.

    Args:
        folder: where Grams would be written; the working folder when None.
        data_dir: where original data files lie; the cache when None.
    """
    folder = Path.cwd() if folder is None else folder
    findings = [_check(name, check) for name, check in _BASE]
    findings.append(_check("disk", lambda: f"{_gib(shutil.disk_usage(folder).free)} free at {folder}"))
    findings += [_backend(name) for name in import_module("kernreg.kernels.backends").MODULES]
    findings += [_check(name, check) for name, check in (("store", _store), ("figures", _figures))]
    findings += [_library(name) for name in GPU_LIBRARIES]
    findings += [_gpu(), _solver()]
    findings += [_library(name) for name in CLUSTER_LIBRARIES]
    return findings + _data_sets(data_dir)


def _check(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", check())
    except Exception as error:
        return Finding(name, "broken", f"{type(error).__name__}: {error}".splitlines()[0])


def _python() -> str:
    if sys.version_info < PYTHON:
        raise KernregError(f"{platform.python_version()} is older than {PYTHON[0]}.{PYTHON[1]}")
    return f"{platform.python_version()} ({sys.executable}) on {platform.platform(terse=True)}"


def _numpy() -> str:
    blas: Any = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{np.__version__}, BLAS {blas.get('name')} {blas.get('version')}, {_blas_threads()}"


def _blas_threads() -> str:
    pools = import_module("threadpoolctl").threadpool_info()
    threads = [pool["num_threads"] for pool in pools if pool["user_api"] == "blas"]
    return f"{max(threads)} threads" if threads else "threads unknown"


def _numba() -> str:
    numba, llvm = import_module("numba"), import_module("llvmlite.binding")
    features = llvm.get_host_cpu_features()
    simd = next((name for name in ("avx512f", "avx2", "avx", "neon", "sse2") if features.get(name)), "none")
    threads, cpu = numba.config.NUMBA_NUM_THREADS, llvm.get_host_cpu_name()
    return f"{numba.__version__}, {threads} threads, SIMD {simd} ({cpu})"


def _hdf5() -> str:
    h5py = import_module("h5py")
    return f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}"


def _libraries() -> str:
    names = ("scipy", "scikit-learn", "matplotlib", "pooch", "click", "tqdm", "xxhash")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} of {os.cpu_count()} usable, {platform.machine()}"


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (os.sysconf(name) * page for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return f"{_gib(total)}, {_gib(free)} unused"


_BASE: Sequence[tuple[str, Callable[[], str]]] = (
    ("python", _python),
    ("numpy", _numpy),
    ("numba", _numba),
    ("hdf5", _hdf5),
    ("libraries", _libraries),
    ("cores", _cores),
    ("memory", _memory),
)


def _backend(name: str) -> Finding:
    lanes, backends = import_module("kernreg.kernels.lanes"), import_module("kernreg.kernels.backends")
    if reason := lanes.absence(name):
        return Finding(f"backend {name}", "absent", reason)

    def compute() -> str:
        x = np.linspace(-1.0, 1.0, 2 * 4 * 4).reshape(2, 4, 4, 1)
        # What every backend covers, whatever it is made for, is one of these two.
        for architecture in (Architecture.vec(depth=1), Architecture.fcn(depth=1)):
            try:
                K = backends.compute(x, None, architecture, "ntk", name, "float64")["ntk"]
                break
            except NotImplementedError:
                continue
        else:
            raise KernregError("it covers neither vec nor fcn")
        if not np.isfinite(K).all():
            raise KernregError("the kernel of two small images is not finite")
        meant = [a for a in ARCHITECTURES if backends.resolve("auto", a, x.shape[1:]) == name]
        by_auto = ", ".join(a.name for a in meant)
        return f"computes; --backend auto means it for {by_auto}" if meant else "computes"

    return _check(f"backend {name}", compute)


def _store() -> str:
    h5py = import_module("h5py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        with h5py.File(path, "w") as file:
            file["a"] = np.arange(3.0)
        with h5py.File(path, "r") as file:
            same = np.array_equal(file["a"][()], np.arange(3.0))
    if not same:
        raise KernregError("HDF5 does not give back what was written")
    return "HDF5 files are written and read back"


def _figures() -> str:
    figure = import_module("matplotlib.figure").Figure()
    figure.subplots().plot([1, 2])
    with tempfile.TemporaryFile() as file:
        figure.savefig(file, format="png")
    return "drawn without a display"


def _library(name: str) -> Finding:
    if find_spec(name) is None:
        return Finding(name, "absent", "not installed")
    try:
        module = import_module(name)
    except Exception as error:  # installed, and of no use: that is what the report is for
        return Finding(name, "absent", f"cannot be imported: {error}".splitlines()[0])
    return Finding(name, "ok", str(getattr(module, "__version__", "installed")))


def _gpu() -> Finding:
    for gpus in import_module("kernreg.kernels.lanes").GPUS.values():
        try:
            here = gpus()
            described = [f"{name}, {_gib(here.free_bytes(i))} free" for i, name in enumerate(here.names())]
        except KernregError:
            continue
        if described:
            return Finding("gpu", "ok", "; ".join(described))
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        return Finding("gpu", "absent", "an NVIDIA driver is here, and no library that can use it")
    return Finding("gpu", "absent", "no NVIDIA driver")


def _solver() -> Finding:
    """Whether `kernreg fit --device cuda` would solve: a factor of a small matrix, multiplied out."""
    device = import_module("kernreg.device")
    if reason := device.absence():
        return Finding("device cuda", "absent", reason)

    def solve() -> str:
        cuda, K = device.cuda(), np.array([[2.0, 1.0], [1.0, 3.0]])
        L = np.tril(cuda.get(cuda.factor(cuda.gram(K, False), 0.0, True)))
        if not np.allclose(L @ L.T, K):
            raise KernregError("the factor of a small matrix is wrong")
        return f"factors; {_gib(device.free_bytes())} free"

    return _check("device cuda", solve)


def _data_sets(data_dir: Path | None) -> list[Finding]:
    findings = []
    for entry in import_module("kernreg.data").listing(data_dir):
        status: Literal["ok", "absent"] = "ok" if entry["present"] else "absent"
        remedy = f"not under {entry['data_dir']}; kernreg data fetch {entry['name']}"
        findings.append(Finding(f"data {entry['name']}", status, entry["where"] or remedy))
    return findings


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
