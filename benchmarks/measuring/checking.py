"""No speed on a red check: results against the definition and against the peer, before anything is timed."""

from __future__ import annotations

import numpy as np
from measuring.cases import Case
from numpy.typing import NDArray

from kernreg.bench import TOLERANCE, RedCheckError
from kernreg.kernels import backends

PEER_TOLERANCE = {
    "float64": 1e-11,
    "float32": 2e-6,
}  # the peer's float64 off the diagonal; on it, it is good to 1e-7 only


def against_definition(
    case: Case, x: NDArray[np.float64], z: NDArray[np.float64] | None, ours: NDArray[np.floating], dtype: str
) -> float:
    """The largest relative error of the first few entries, K(x, x)'s diagonal included.

    Raises:
        RedCheckError: larger than the tolerance, or K(x, x) not exactly symmetric.
    """
    if z is None and not np.array_equal(ours, ours.T):
        raise RedCheckError(f"{case.name} {dtype}: K(x, x) is not symmetric")
    few = 1 if case.updates > 1_000_000 and z is not None else 2
    truth = backends.compute(
        x[:few], None if z is None else z[:few], case.architecture, case.kernel, "reference", "float64"
    )
    return _worst(case, dtype, "the definition", ours[:few, :few], truth[case.kernel], TOLERANCE[dtype])


def against_peer(
    case: Case, symmetric: bool, ours: NDArray[np.floating], peer: NDArray[np.floating], dtype: str
) -> float:
    """The largest relative difference from the peer's float64 result on the leading images of ours.

    Raises:
        RedCheckError: larger than the tolerance.
    """
    ours, peer = ours[: len(peer), : peer.shape[1]], np.array(peer, np.float64)
    if symmetric:
        diagonal = np.arange(len(peer))
        peer[diagonal, diagonal] = ours[diagonal, diagonal]  # ours was held against the definition there
    return _worst(case, dtype, f"{case.peer} in float64", ours, peer, PEER_TOLERANCE[dtype])


def relative_error(values: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    return float(np.max(np.abs(np.float64(values) / np.float64(truth) - 1)))


def _worst(
    case: Case, dtype: str, what: str, ours: NDArray[np.floating], truth: NDArray[np.floating], allowed: float
) -> float:
    error = relative_error(ours, truth)
    if not error <= allowed:  # a NaN is red
        raise RedCheckError(f"{case.name} {dtype}: off {what} by {error:.1e}, allowed {allowed:.0e}")
    return error
