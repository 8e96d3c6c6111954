"""Inputs as the Triton kernels read them: normalised leaves, and the deviations √Q of every node of the tree.

All of it in float64 on the device; an image's variances are computed once, not once a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernreg.architecture import Architecture
from kernreg.kernels.geometry import check_range
from kernreg.kernels.tree import ERF, NONE, RBF, RELU, Tree, tree
from kernreg.kernels.triton_device import Tensor, torch

SHORT = 32  # numbers in a leaf that are subtracted and squared; more are multiplied as matrices
PADDED = 32  # a long leaf is filled with zeros to a multiple of this
CHUNK = 4096  # rows in float64 at a time


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows on the device; rows[a:b] is a view.

    Attributes:
        tree: of the network they were prepared for.
        units: leaves as unit vectors, (n, leaves·q) if q is long, else (leaves·q, n).
        table: (nodes of all stages, 5, n): √Q before a node's affine step, after it, its inverse, after the activation, and the
            root of the node's share of ΣQ among its siblings.
        scale: (n,), the factor taken out of each row where the kernel is homogeneous.
        long: whether a leaf has more than SHORT numbers.
    """

    tree: Tree
    units: Tensor
    table: Tensor
    scale: Tensor
    long: bool

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, rows: slice) -> Rows:
        units = self.units[rows] if self.long else self.units[:, rows]
        return Rows(self.tree, units, self.table[:, :, rows], self.scale[rows], self.long)

    @property
    def q(self) -> int:
        """Numbers in a leaf, padding included."""
        return int(self.units.shape[1 if self.long else 0]) // self.tree.leaves


def prepare(x: Tensor, architecture: Architecture, dtype: str) -> Rows:
    """Normalise rows, and carry their variances through the network.

    Args:
        x: (n, H, W, C) or (n, d) on the device, n ≥ 1, float32 or float64.
        architecture: the network.
        dtype: "float32" or "float64", of the kernel's arithmetic.

    Raises:
        NotImplementedError: a layer that the tree does not cover, by name.
        KernregError: inputs whose squares leave the range of the dtype.
    """
    t, pad = tree(architecture, tuple(x.shape[1:])), torch().nn.functional.pad
    real, n, (leaves, q) = getattr(torch(), dtype), len(x), t.order.shape
    long = q > SHORT
    width = -(-q // PADDED) * PADDED if long else q
    if not t.homogeneous:
        check_range(np.array([float(x.abs().max())]), np.dtype(dtype), low=False)
    order = torch().from_numpy(t.order.ravel()).to(x.device)
    units = torch().zeros((n, leaves * width) if long else (leaves * q, n), dtype=real, device=x.device)
    table = torch().empty((sum(t.nodes), 5, n), dtype=real, device=x.device)
    scale = torch().ones(n, dtype=real, device=x.device)
    for start in range(0, n, CHUNK):
        rows = slice(start, min(start + CHUNK, n))
        values = x[rows].reshape(rows.stop - start, -1).double()
        if t.homogeneous:
            size = _positive(_norm(values) / t.size**0.5)
            scale[rows], values = size.to(real), values / size[:, None]
        values = pad(values, (0, 1))[:, order].reshape(-1, leaves, q)
        norm = _norm(values)
        table[:, :, rows] = _deviations((norm**2 / q).T, t).to(real)
        values = values / _positive(norm)[..., None]
        if long:
            units[rows].view(-1, leaves, width)[..., :q] = values
        else:
            units[:, rows] = values.reshape(-1, leaves * q).T
    return Rows(t, units, table, scale, long)


def _norm(values: Tensor) -> Tensor:
    """Euclidean, over the last axis; no square over- or underflows."""
    top = _positive(values.abs().amax(-1, keepdim=True))
    return top[..., 0] * ((values / top) ** 2).sum(-1).sqrt()


def _positive(values: Tensor) -> Tensor:
    """With 1 in place of 0."""
    return values + (values == 0)


def _deviations(Q: Tensor, t: Tree) -> Tensor:
    """The table of `Rows`, float64, for the variances (leaves, n) of the leaves."""
    stages = []
    for stage, above in zip(t.stages, (*t.stages[1:], None), strict=True):
        Q = Q.reshape(-1, stage.children, Q.shape[-1]).mean(1)
        u = (stage.weight * Q + stage.bias).sqrt()
        after = _variance(u**2, stage.kind)
        siblings = after.reshape(-1, above.children if above else 1, Q.shape[-1])
        share = (siblings / _positive(siblings.sum(1, keepdim=True))).reshape(after.shape)
        inverse = (u > 0) / _positive(u)
        stages.append(torch().stack([Q.sqrt(), u, inverse, after.sqrt(), share.sqrt()], dim=1))
        Q = after
    return torch().cat(stages)


def _variance(Q: Tensor, kind: int) -> Tensor:
    if kind == ERF:
        return 2 / np.pi * torch().atan2(2 * Q, (1 + 4 * Q).sqrt())
    return {NONE: Q, RELU: Q / 2, RBF: Q**0}[kind]
