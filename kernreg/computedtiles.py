"""Tiles that workers compute from the rows: kept, so that a Gram never meets a disk, or anew in every product."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernreg.architecture import Architecture
from kernreg.errors import KernregError
from kernreg.kernels import backends
from kernreg.plan import kernels_of
from kernreg.provenance import Array
from kernreg.tiles import Tile


@dataclass
class ComputedTiles:
    """K(x, x) of rows in a .npy file that every worker sees under the same path, mapped and not read as a whole.

    Attributes:
        path: of x, (n, d) or (n, H, W, C).
        architecture, kernel, backend, dtype: as in `kernreg.gram`.
        shape: of x.
        tile: rows of a tile.
        keeps: whether a worker computes its tiles once and holds them; if not, patience alone bounds n.
    """

    path: Path
    architecture: Architecture
    kernel: str
    backend: str
    dtype: str
    shape: tuple[int, ...]
    tile: int
    keeps: bool

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        architecture: Architecture,
        kernel: str = "ntk",
        backend: str = "auto",
        dtype: str = "float32",
        *,
        tile: int = 2048,
        keeps: bool = True,
    ) -> ComputedTiles:
        """Of the rows in a file; "auto" is resolved by each worker.

        Raises:
            KernregError: no rows there, or they do not fit the network.
            NotImplementedError: a layer that the backend does not cover.
        """
        if len(kernels_of(kernel)) != 1:
            raise KernregError(f"one kernel has a product: use ntk or nngp, not {kernel!r}")
        path = Path(path).resolve()
        shape = _mapped(path).shape
        backends.covers("reference" if backend == "auto" else backend, architecture, shape[1:])
        return cls(path, architecture, kernel, backend, dtype, shape, tile, keeps)

    @property
    def n(self) -> int:
        return self.shape[0]

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize

    def open(self) -> None:
        """Map the rows. Raises KernregError where this worker does not see them."""
        self._x = _mapped(self.path)
        if self._x.shape != self.shape:
            raise KernregError(
                f"{self.path} on {socket.gethostname()} is {self._x.shape}, not {self.shape}: share its file system"
            )

    def read(self, tile: Tile) -> Array:
        """A tile in its dtype. Raises KernregError for rows or kernels that are not finite."""
        x = np.array(self._x[tile.rows])
        z = None if tile.diagonal else np.array(self._x[tile.columns])
        if not all(np.isfinite(rows).all() for rows in (x, z) if rows is not None):
            raise KernregError(
                f"{self.path} holds NaN or infinity in rows {tile.row_start} to {tile.column_stop - 1}"
            )
        with np.errstate(all="ignore"):  # what is not finite is refused below, with a remedy
            computed = backends.compute(x, z, self.architecture, self.kernel, self.backend, self.dtype)
        K: Array = computed[self.kernel]
        if not np.isfinite(K).all():
            raise KernregError(
                f"the {self.kernel} overflows {self.dtype} on these rows: rescale them, or use dtype='float64'"
            )
        return K.astype(self.dtype, copy=False)


def _mapped(path: Path) -> Array:
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise KernregError(f"{path} on {socket.gethostname()} is no .npy file of rows ({error})") from None
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or not x.size:
        raise KernregError(f"{path} is no .npy file of floating-point rows")
    return x
