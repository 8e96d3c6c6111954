"""Every broken power law on a grid of breaks, fitted to many curves at once.

    log L = log A − c0·log m − c1·f·log(1 + (m/d)^{1/f})

is linear in log A, c0 and c1 for a given break (d, f): all fits on the grid are projections of the whitened log
losses, and the drop of the squared residual from no break to the best one is the largest of their squares.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PLACES = 61
# f; a slope that changes over more than a factor e^{2·2·0.35} = 4 of m is a bend, and its place means little.
SHARPNESS = (0.05, 0.2, 0.35)
# Points left on either side of a break: two make a slope, one more contradicts it.
EDGE = 2


class BrokenLaws:
    """Every broken law of a grid of breaks, as projections of whitened log losses.

    Attributes:
        d, f: (g,) the grid.
    """

    def __init__(self, x: Array, C: Array) -> None:
        """x: (p,) log m.  C: (p, p) the whitening matrix."""
        edge = min(EDGE, (len(x) - 1) // 2)
        places = np.linspace(x[edge], x[-1 - edge], PLACES)
        d, f = (v.ravel() for v in np.meshgrid(places, SHARPNESS, indexing="ij"))
        self.d, self.f = np.exp(d), f
        self._x, self._C = x, C
        hinge = -f[:, None] * np.logaddexp(0.0, (x - d[:, None]) / f[:, None])
        self._line = C @ np.stack([np.ones_like(x), -x], axis=1)
        self._Q = np.linalg.qr(self._line)[0]
        self._hinges = hinge @ C.T
        bare = self.without_line(self._hinges)
        self._norms = np.linalg.norm(bare, axis=1)
        self._directions = bare / self._norms[:, None]

    def without_line(self, y: Array) -> Array:
        """y (b, p) less its projection on the single power laws."""
        rest: Array = y - (y @ self._Q) @ self._Q.T
        return rest

    def residual(self, y: Array) -> Array:
        """|y − the best single power law| (b,)."""
        length: Array = np.maximum(np.linalg.norm(self.without_line(y), axis=1), 1e-150)
        return length

    def floor(self, y: Array) -> Callable[[Array], Array]:
        """The score of a floor at the single power law through y (1, p): (b, p) → (b,), standard normal without one."""
        slope = np.linalg.lstsq(self._line, y[0], rcond=None)[0][1]
        direction = self.without_line((self._C @ np.exp(slope * (self._x - self._x[-1])))[None])[0]
        length = float(np.linalg.norm(direction))
        # At slope 0 a floor is a constant, and no score tells it from the law.
        unit = direction / length if length > 1e-9 else np.zeros_like(direction)
        return lambda values: np.asarray(values @ unit)

    def best(self, y: Array) -> tuple[NDArray[np.intp], Array]:
        """The best break (b,) of each y (b, p), and by how much it lowers the squared residual."""
        along = y @ self._directions.T
        at = np.abs(along).argmax(axis=1)
        return at, np.square(along[np.arange(len(y)), at])

    def coefficients(self, y: Array, at: NDArray[np.intp]) -> Array:
        """(log A, c0, c1) (b, 3) of y (b, p) with the breaks `at` (b,)."""
        c1 = np.einsum("bp,bp->b", y, self._directions[at]) / self._norms[at]
        line = np.linalg.lstsq(self._line, (y - c1[:, None] * self._hinges[at]).T, rcond=None)[0]
        return np.column_stack([line.T, c1])

    def values(self, θ: Array, at: NDArray[np.intp]) -> Array:
        """Whitened log losses (b, p)."""
        values: Array = θ[:, :2] @ self._line.T + θ[:, 2:] * self._hinges[at]
        return values
