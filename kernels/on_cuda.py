"""NNGP and NTK on an NVIDIA GPU: the depth-fused stencil of cuda/, for convolutional networks on images up to 64×64.

`compute` takes and returns host arrays. A loop over tiles prepares its images once and asks for one tile after another,
each on a stream of its own choice:

    stencil = instance(architecture, shape, kernel, dtype)
    X = prepare(x, stencil, device)
    K = kernels(X[rows], X[columns], stencil, device)        # arrays on the device, not waited for

Tested only against `reference.py`: on a GPU where there is one, and everywhere with the same sources compiled for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.kernels.device import Cuda
from kernreg.kernels.geometry import check_range
from kernreg.kernels.instance import Instance, instance

Array: TypeAlias = NDArray[np.floating[Any]]
DeviceArray: TypeAlias = Any  # cupy.ndarray

WORK_BYTES = 256 << 20  # of widened images, and of sums, at a time
MOST_ROWS = 65_535  # blocks along y of a launch
INT, LONG = np.int32, np.int64


class Device(Protocol):
    """Where kernels run; `device.Cuda` is a GPU."""

    def put(self, host: Any, dtype: Any = None) -> DeviceArray: ...
    def get(self, array: DeviceArray) -> NDArray[Any]: ...
    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray: ...
    def launch(
        self,
        definitions: tuple[str, ...],
        name: str,
        grid: tuple[int, int],
        threads: int,
        shared_bytes: int,
        arguments: Sequence[Any],
    ) -> None: ...


@dataclass(frozen=True)
class Images:
    """Images on the device.

    tables: (n, C + L, H, W), channels and variances; scale: (n,) float64, the factor taken out of each image;
    roots: (n,) float64, Σ√Q of the last layer, or None.
    """

    tables: DeviceArray
    scale: DeviceArray
    roots: DeviceArray | None

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, rows: slice) -> Images:
        return Images(self.tables[rows], self.scale[rows], None if self.roots is None else self.roots[rows])


def covers(architecture: Architecture, shape: tuple[int, ...]) -> None:
    """Raise NotImplementedError, naming the layer or the size, unless the stencil computes the network on such rows."""
    instance(architecture, shape, "ntk", "float64")


def compute(
    x: Array, z: Array | None, architecture: Architecture, kernel: str = "ntk", dtype: str = "float64"
) -> dict[str, Array]:
    """K(x, z) between all rows; arguments and result as in `reference.compute`.

    Raises:
        NotImplementedError: a layer or an image size that the stencil does not cover, by name.
        KernregError: no CuPy, no GPU, not enough memory, or inputs whose squares leave the range of the dtype.
    """
    stencil = instance(architecture, x.shape[1:], kernel, dtype)
    device = gpu()
    X = prepare(x, stencil, device)
    K = kernels(X, None if z is None else prepare(z, stencil, device), stencil, device)
    return {name: device.get(K[name]) for name in ("nngp", "ntk") if kernel in (name, "both")}


@cache
def gpu() -> Device:
    """The current GPU.

    Raises:
        KernregError: no CuPy, or no GPU.
    """
    return Cuda()


def prepare(x: Any, stencil: Instance, device: Device) -> Images:
    """Images (n, H, W, C), on the host or the device, as the kernels want them; waits for their largest magnitude.

    Raises:
        KernregError: inputs whose squares leave the range of the dtype.
    """
    rows = device.put(x, None if x.dtype in (np.float32, np.float64) else np.float64)
    n, C, L = len(rows), stencil.channels, stencil.layers
    tables = device.empty((n, C + L, stencil.height, stencil.width), stencil.dtype)
    scale, top = device.empty((n,), np.float64), device.empty((n,), np.float64)
    sizes = (INT(C), INT(L))
    device.launch(
        stencil.definitions,
        f"images_{rows.dtype}",
        (n, 1),
        32,
        0,
        (rows, tables, scale, top, *sizes, np.float64(1), INT(stencil.homogeneous)),
    )
    if not stencil.homogeneous:
        check_range(device.get(top), np.dtype(stencil.dtype), stencil.low)
    layout = stencil.layout
    device.launch(
        stencil.definitions,
        "variances",
        (-(-n // layout.slots), 1),
        32 * layout.warps,
        layout.shared_bytes,
        (tables, device.put(stencil.affine, stencil.dtype), INT(n), *sizes),
    )
    roots = None
    if stencil.local:
        roots = device.empty((n,), np.float64)
        device.launch(stencil.definitions, "roots", (n, 1), 32, 0, (tables, roots, *sizes))
    return Images(tables, scale, roots)


def kernels(X: Images, Z: Images | None, stencil: Instance, device: Device) -> dict[str, DeviceArray]:
    """K(X, Z) on the device, (n, m) in the stencil's dtype; Z None means X, one triangle computed, exactly symmetric.

    Launches only, on the current stream. "ntk" is there where the stencil has T, "nngp" always.
    """
    symmetric, Z = Z is None, X if Z is None else Z
    n, m, layout = len(X), len(Z), stencil.layout
    names = ("nngp", "ntk") if stencil.tangent else ("nngp",)
    out = {name: device.empty((n, m), stencil.dtype) for name in names}
    constants = _Constants(stencil, device)
    itemsize = np.dtype(stencil.dtype).itemsize
    columns = min(m, max(1, WORK_BYTES // (stencil.wide * itemsize))) if stencil.shifted else m
    rows = max(1, WORK_BYTES // (16 * columns * layout.parts))
    rows = min(n, rows, MOST_ROWS if stencil.shifted else MOST_ROWS * (layout.slots // layout.across))
    for column0 in range(0, m, columns):
        right = Z[column0 : column0 + columns]
        z = _widened(right, stencil, device) if stencil.shifted else right.tables
        for row0 in range(0, n, rows):
            left = X[row0 : row0 + rows]
            if not symmetric or column0 + len(right) > row0:
                _block(left, right, z, row0, column0, symmetric, constants, out, stencil, device)
    return out


class _Constants:
    """The instance's numbers on the device."""

    def __init__(self, stencil: Instance, device: Device) -> None:
        self.affine = device.put(stencil.affine, stencil.dtype)
        self.dense = device.put(stencil.dense) if len(stencil.dense) else None
        self.shifts = device.put(stencil.shifts) if stencil.shifted else None
        self.pool = [device.put(side, stencil.dtype) if side.size else None for side in stencil.pool]


def _widened(images: Images, stencil: Instance, device: Device) -> DeviceArray:
    size = len(images) * stencil.wide
    wide = device.empty((size,), stencil.dtype)
    arguments = (images.tables, wide, LONG(size), INT(stencil.channels + stencil.layers))
    device.launch(stencil.definitions, "widen", (min(-(-size // 256), 65_535), 1), 256, 0, arguments)
    return wide


def _block(
    X: Images,
    Z: Images,
    z: DeviceArray,
    row0: int,
    column0: int,
    symmetric: bool,
    constants: _Constants,
    out: dict[str, DeviceArray],
    stencil: Instance,
    device: Device,
) -> None:
    """One block of pairs: sums over pixels and shifts, then the readout into its place in `out`."""
    n, m, layout = len(X), len(Z), stencil.layout
    sums_S = device.empty((n, m, layout.parts), np.float64)
    sums_T = device.empty((n, m, layout.parts), np.float64) if stencil.tangent else None
    down = layout.slots // layout.across
    grid = (m * layout.parts, n) if stencil.shifted else (-(-m // layout.across), -(-n // down))
    device.launch(
        stencil.definitions,
        "pairs",
        grid,
        32 * layout.warps,
        layout.shared_bytes,
        (
            X.tables,
            z,
            constants.affine,
            constants.shifts,
            *constants.pool,
            sums_S,
            sums_T,
            *(INT(v) for v in (n, m, stencil.channels, stencil.layers, len(stencil.shifts))),
            *(INT(v) for v in (layout.turns, layout.parts, symmetric, row0, column0)),
        ),
    )
    device.launch(
        stencil.definitions,
        "readout",
        (min(-(-n * m // 256), 65_535), 1),
        256,
        0,
        (
            sums_S,
            sums_T,
            X.scale,
            Z.scale,
            X.roots,
            Z.roots,
            constants.dense,
            out["nngp"],
            out.get("ntk"),
            np.float64(stencil.factor),
            *(LONG(v) for v in (n, m, out["nngp"].shape[1])),
            *(INT(v) for v in (layout.parts, len(stencil.dense), symmetric)),
            *(LONG(v) for v in (row0, column0)),
        ),
    )
