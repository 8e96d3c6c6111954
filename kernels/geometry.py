"""Where a window reads: output size and padding of a windowed layer, the XLA conventions.

One rule for all backends. Output pixel p reads the input pixels s·p + δ − low, δ = 0 … k−1.
"""

from __future__ import annotations

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
