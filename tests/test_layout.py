"""The layout of planes on threads: divides, fits, fills, for every size."""

from __future__ import annotations

import pytest

from kernreg.kernels.layout import SHARED_BYTES, Planes, choose


def planes(
    height: int, width: int, reach: int, circular: bool, kinds: int, itemsize: int, gap: bool
) -> Planes:
    window = dict.fromkeys(("low_y", "high_y", "low_x", "high_x"), reach)
    shifts = height * width if gap else 1
    return Planes(height, width, **window, circular=circular, kinds=kinds, itemsize=itemsize, shifts=shifts)


@pytest.mark.parametrize("reach", [0, 1, 3])
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("gap", [False, True])
def test_every_size_has_a_layout(reach: int, circular: bool, gap: bool) -> None:
    sides = (1, 2, 5, 8, 16, 28, 31, 32, 33, 37, 48, 61, 64)
    for height in sides:
        for width in sides:
            p = planes(height, width, reach, circular, 2, 8, gap)
            chosen = choose(p)
            lanes, groups = width // chosen.columns, height // chosen.rows
            assert lanes * chosen.columns == width
            assert groups * chosen.rows == height
            assert lanes <= 32
            assert lanes * groups * chosen.slots <= 32 * chosen.warps <= 1024
            assert chosen.columns % chosen.vector == 0
            assert chosen.slots % chosen.across == 0
            assert chosen.slots * chosen.turns * chosen.parts >= p.shifts
            assert chosen.shared_bytes <= SHARED_BYTES


def test_the_usual_sizes_fill_their_warps() -> None:
    for side, kinds, itemsize in (
        (32, 2, 4),
        (32, 1, 4),
        (32, 2, 8),
        (28, 2, 4),
        (8, 2, 4),
        (16, 2, 4),
        (64, 2, 4),
    ):
        chosen = choose(planes(side, side, 1, False, kinds, itemsize, True))
        busy = side // chosen.columns * (side // chosen.rows) * chosen.slots / (32 * chosen.warps)
        assert busy >= 0.87, (side, chosen)
