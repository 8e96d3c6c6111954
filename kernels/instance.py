"""A network as one compiled instance of the CUDA stencil: its definitions, its numbers, or the name of what it does not cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernreg.architecture import Architecture
from kernreg.kernels.layout import Layout, Planes, choose
from kernreg.kernels.program import (
    ERF,
    KX,
    KY,
    LOW_X,
    LOW_Y,
    PHI,
    WRAP,
    Program,
    convolutional,
)
from kernreg.layers import Conv, Layer

LARGEST = 64  # pixels along a side of an image
LARGEST_WINDOW = 7

# A ReLU leaves S and T in units of 1/2π, an erf in units of 2/π (cuda/maps.cuh). The π is that of the kernel's precision.
PI = {"float32": float(np.float32(np.pi)), "float64": np.pi}


@dataclass(frozen=True)
class Instance:
    """What is compiled, and what the compiled code is told.

    Attributes:
        definitions: macros of cuda/*.cu, without -D; one compilation each.
        layout: of planes on threads.
        dtype: "float32" or "float64".
        tangent: T beside S.
        homogeneous: each image's scale is taken out.
        channels, layers: C and L.
        affine: (L, 2) float64, factors and biases of the convolutions, in the units above.
        factor: from the sum of the last S or T to the mean that the readout takes.
        shifts: (k,) int32, sy·W + sx, of z against x, those with the same alignment together; empty for shift 0 alone.
        pool: (shifts, pixels of x) weights of a local average pool along y and x, or empty.
        local: whether sums of √Q belong to the readout (LCN-GAP).
        dense: (k, 2) float64, σw² and σb² of the readout.
    """

    definitions: tuple[str, ...]
    layout: Layout
    height: int
    width: int
    dtype: str
    tangent: bool
    homogeneous: bool
    low: bool
    channels: int
    layers: int
    affine: NDArray[np.float64]
    factor: float
    shifts: NDArray[np.int32]
    pool: tuple[NDArray[np.float64], NDArray[np.float64]]
    local: bool
    dense: NDArray[np.float64]

    @property
    def shifted(self) -> bool:
        """Other displacements than 0."""
        return self.shifts.size > 0

    @property
    def table(self) -> int:
        """Numbers that an image takes: channels, then variances."""
        return (self.channels + self.layers) * self.height * self.width

    @property
    def wide(self) -> int:
        """Numbers that an image takes as the shifted side."""
        columns = 2 if self.layout.columns > self.layout.vector else 1
        return 2 * columns * self.layout.vector * self.table


def instance(architecture: Architecture, shape: tuple[int, ...], kernel: str, dtype: str) -> Instance:
    """The instance for images of shape (H, W, C).

    Raises:
        NotImplementedError: names the layer or size that the stencil does not cover.
        KernregError: a window larger than the image.
    """
    convs = [(k, layer) for k, layer in enumerate(architecture.layers) if isinstance(layer, Conv)]
    if not convs:
        raise NotImplementedError(
            f"backend cuda covers networks of convolutions, not {architecture.name or 'this network'} of dense layers: "
            "name the backend 'cpu' for it"
        )
    program = convolutional(architecture, shape)
    _check(program, convs, shape)
    H, W, C = shape
    g = program.geometry
    tangent, erf = kernel != "nngp", bool(g[0, PHI] == ERF)
    all_shifts = program.pooled and not program.local
    shifts, pool = _shifts(program, H, W) if all_shifts else (np.zeros(0, np.int32), (np.zeros((0, 0)),) * 2)
    low_y, low_x = int(g[0, LOW_Y]), int(g[0, LOW_X])
    planes = Planes(
        height=H,
        width=W,
        low_y=low_y,
        high_y=int(g[0, KY]) - 1 - low_y,
        low_x=low_x,
        high_x=int(g[0, KX]) - 1 - low_x,
        circular=bool(g[0, WRAP]),
        kinds=2 if tangent else 1,
        itemsize=np.dtype(dtype).itemsize,
        shifts=max(len(shifts), 1),
    )
    layout = choose(planes)
    if all_shifts:  # warps that work on the same alignment at a time share cache lines
        shifts = shifts[np.argsort(shifts % W % layout.vector, kind="stable")]
    affine, gain = _affine(program, C, dtype)
    count = 1 if program.weights else H * W * (H * W if program.pooled else 1)
    unit = 2 / np.pi if erf else 1 / (2 * PI[dtype])
    return Instance(
        definitions=_definitions(
            planes, layout, dtype, erf, bool(program.weights), program.local, all_shifts
        ),
        layout=layout,
        height=H,
        width=W,
        dtype=dtype,
        tangent=tangent,
        homogeneous=program.homogeneous,
        low=not program.affine[:, 1].all(),
        channels=C,
        layers=len(g),
        affine=affine,
        factor=gain * unit / count,
        shifts=shifts,
        pool=pool,
        local=program.local and not erf,
        dense=np.array([(d.weight_variance, d.bias_variance) for d in program.readout]).reshape(-1, 2),
    )


def _check(program: Program, convs: list[tuple[int, Conv]], shape: tuple[int, ...]) -> None:
    """What the CPU's stencil covers and this one does not."""
    first = convs[0][1]
    for k, conv in convs:
        if conv.strides != (1, 1):
            raise _uncovered(k, conv, "stride 1")
        if conv.padding == "VALID":
            raise _uncovered(k, conv, "SAME and CIRCULAR padding")
        if max(conv.filter) > LARGEST_WINDOW:
            raise _uncovered(k, conv, f"filters up to {LARGEST_WINDOW}×{LARGEST_WINDOW}")
        if (conv.filter, conv.padding) != (first.filter, first.padding):
            raise _uncovered(k, conv, "one filter and padding in all layers")
    phi = program.geometry[:, PHI]
    if (phi != phi[0]).any():
        l = int(np.argmax(phi != phi[0]))
        raise NotImplementedError(
            f"backend cuda covers one activation in all layers, not the one after layer {convs[l][0] + 1}, {convs[l][1]}: "
            "name the backend 'cpu' for this network"
        )
    if max(shape[:2]) > LARGEST:
        raise NotImplementedError(
            f"backend cuda covers images up to {LARGEST}×{LARGEST}, not {shape[0]}×{shape[1]}: name the backend 'cpu' for them"
        )


def _uncovered(k: int, layer: Layer, expected: str) -> NotImplementedError:
    return NotImplementedError(
        f"backend cuda covers {expected}, not layer {k + 1}, {layer}: name the backend 'cpu' for this network"
    )


def _affine(program: Program, channels: int, dtype: str) -> tuple[NDArray[np.float64], float]:
    """(L, 2) in the units of the kernels, and the factor that they leave out.

    A homogeneous network of any σw² is one of σw² = 2, at which nothing grows or fades, times Π σw²/2; rounded weights are then
    known factors, too.
    """
    g, affine = program.geometry, program.affine.copy()
    affine[0, 0] /= channels
    erf = g[0, PHI] == ERF
    affine[1:, 0] *= 2 / np.pi if erf else 1 / PI[dtype]  # a ½ of the ReLU is in the program's weights
    if not program.homogeneous:
        return affine, 1.0
    critical = 2 / (g[:, KY] * g[:, KX]) * np.where(np.arange(len(g)) == 0, 1 / channels, 0.5 / PI[dtype])
    rounded = critical.astype(dtype).astype(np.float64)
    gain = float(np.prod(affine[:, 0] / rounded))
    affine[:, 0] = rounded
    return affine, gain


def _shifts(
    program: Program, H: int, W: int
) -> tuple[NDArray[np.int32], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The circular shifts with a weight, and the weights (shift, pixel of x) along y and x; empty for a global pool."""
    if program.weights is None:
        return np.arange(H * W, dtype=np.int32), (np.zeros((0, 0)), np.zeros((0, 0)))
    y, x = (_by_shift(table) for table in program.weights)
    wanted = [sy * W + sx for sy in range(H) for sx in range(W) if y[sy].any() and x[sx].any()]
    return np.array(wanted, np.int32), (y, x)


def _by_shift(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(shift s, pixel q of x): the weight of the pair (q, q + s)."""
    n = len(weights)
    q = np.arange(n)
    return np.array([weights[q, (q + s) % n] for s in range(n)])


def _definitions(
    planes: Planes, layout: Layout, dtype: str, erf: bool, weighted: bool, local: bool, shifted: bool
) -> tuple[str, ...]:
    values = {
        "HEIGHT": planes.height,
        "WIDTH": planes.width,
        "ROWS": layout.rows,
        "COLUMNS": layout.columns,
        "VECTOR": layout.vector,
        "WARPS": layout.warps,
        "BLOCKS": layout.blocks,
        "ACROSS": layout.across,
        "LOW_Y": planes.low_y,
        "HIGH_Y": planes.high_y,
        "LOW_X": planes.low_x,
        "HIGH_X": planes.high_x,
        "CIRCULAR": planes.circular,
        "TANGENT": planes.kinds == 2,
        "FLOAT64": dtype == "float64",
        "ERF": erf,
        "SHIFTED": shifted,
        "WEIGHTED": weighted,
        "LOCAL": local,
    }
    return tuple(f"KR_{name}={int(value)}" for name, value in values.items())
