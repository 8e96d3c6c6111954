"""What all backends share: where a window reads (the XLA conventions), and which inputs a precision can hold.

Output pixel p reads the input pixels s·p + δ − low, δ = 0 … k−1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernreg.errors import KernregError


def output_size(size: int, filter: int, stride: int, padding: str) -> int:
    """The number of output pixels along one axis.

    Raises:
        KernregError: a VALID window larger than the image.
    """
    if padding == "VALID":
        if filter > size:
            raise KernregError(
                f"a VALID window of {filter} pixels does not fit an image of {size}: use SAME or CIRCULAR padding, "
                "a smaller filter or fewer layers"
            )
        return (size - filter) // stride + 1
    return -(-size // stride)


def padding_low(size: int, filter: int, stride: int, padding: str) -> int:
    """The pixels padded before the first; SAME and CIRCULAR pad max((⌈H/s⌉−1)·s + k − H, 0) in all, half before."""
    if padding == "VALID":
        return 0
    total = max((-(-size // stride) - 1) * stride + filter - size, 0)
    return total // 2


def check_range(x: NDArray[np.floating[Any]], real: np.dtype[Any], low: bool) -> None:
    """Refuse inputs whose fourth powers overflow, or underflow if `low`: variances are multiplied with each other.

    Raises:
        KernregError: names the largest magnitude and the remedy.
    """
    limit = 1e9 if real.itemsize == 4 else 1e75
    top = float(np.abs(x).max(initial=0.0))
    if top > limit or (low and 0 < top < 1 / limit):
        raise KernregError(
            f"inputs of magnitude {top:.1e} leave the range of {real.name}, 1e±{round(np.log10(limit))} here: rescale them"
            + (" or use float64" if real.itemsize == 4 else "")
        )
