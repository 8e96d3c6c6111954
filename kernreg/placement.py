"""Placement: in whose memory a learning curve is made, or that it is made by tiles of a factor on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kernreg import device as devices
from kernreg.blocks import PROCESS_BYTES
from kernreg.device import HOST, Device
from kernreg.plan import parse_bytes, show_bytes
from kernreg.prefix import BLOCK_ROWS
from kernreg.store import GramStore
from kernreg.tiled import TiledCholesky


@dataclass(frozen=True)
class Place:
    """Where the curve of a store is made.

    Attributes:
        device: whose memory holds the matrix, if one's does.
        solver: of the factor by tiles on disk, if none does; its GPUs compute, or the host; else None.
        why: why tiles are needed, or "".
    """

    device: Device
    solver: TiledCholesky | None
    why: str

    @property
    def name(self) -> str:
        """What computes: cpu, cuda, or how many GPUs."""
        count = len(self.solver.gpus) if self.solver else 0
        return f"{count} GPU{'s' if count > 1 else ''}" if count else self.device.name


def place(
    store: GramStore, solver: TiledCholesky, device: str | Device = "cpu", n: int | None = None
) -> Place:
    """Where `curve_from_store` makes a curve: in the memory of the GPU, of the host, or by tiles on disk.

    In this order for "auto", which computes tiles on the GPUs where there are some. "cuda" never computes on the host,
    "cpu" and a `solver` with GPUs of its own never in the memory of one.

    Raises:
        KernregError: unknown name; CuPy or the GPU is missing.
    """
    if not isinstance(device, str):
        host = beyond_memory(store, solver, n) if device is HOST else ""
        return Place(device, solver if host else None, host)
    rows, outputs = store.n if n is None else n, store.y_train.shape[1]
    host = beyond_memory(store, solver, n)
    if not devices.wanted(device):
        return Place(HOST, solver if host else None, host)
    limit = None if solver.device_memory is None else parse_bytes(solver.device_memory)
    needed = devices.curve_bytes(rows, outputs)
    if not (beyond := devices.beyond_gpu(f"the learning curve of {rows} rows", needed, limit)):
        return Place(devices.cuda(), None, "")
    if device == "auto" and not host:
        return Place(HOST, None, "")
    on_gpus = replace(solver, gpus=solver.gpus or devices.gpus())
    return Place(HOST, on_gpus, f"{beyond}: the factor is made by tiles on disk")


def beyond_memory(store: GramStore, solver: TiledCholesky, n: int | None = None) -> str:
    """Why the curve of a store is made by tiles of a factor on disk, or "" where memory holds it all."""
    n = store.n if n is None else n
    needed = PROCESS_BYTES + 8 * (n * n + n * n // 4 + n * store.t + 2 * n * min(store.t, BLOCK_ROWS[1]))
    if needed <= solver.bytes_allowed:
        return ""
    return (
        f"{n} rows in float64 need {show_bytes(needed)} of memory and {show_bytes(solver.bytes_allowed)} are "
        "allowed: the factor is made by tiles on disk"
    )
