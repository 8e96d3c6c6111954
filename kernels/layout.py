"""How a plane is laid on the threads of a warp: `rows` × `columns` pixels a thread, so that nothing is left over.

More columns a thread mean fewer shuffles and wider loads, more rows fewer exchanges; but a plane's S and T must fit the
registers, and small planes must fill the warp. The choice is the cheapest of all divisors by a count of issue slots
(docs/gpu.md); it depends on the shape alone, never on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

WARP = 32
REGISTERS = 65536  # of a multiprocessor; a thread has at most 255
SHARED_BYTES = 160 << 10  # of a block, on any GPU since sm_80
TURNS = 16  # planes that a slot works off before it writes its sum


@dataclass(frozen=True)
class Planes:
    """What is to be laid out.

    Attributes:
        height, width: of a plane.
        low_y, high_y, low_x, high_x: pixels that a window reaches before and after its own.
        circular: CIRCULAR padding.
        kinds: 1 for S alone, 2 for S and T.
        itemsize: 4 or 8 bytes.
        shifts: planes of one pair; 1 for VEC.
    """

    height: int
    width: int
    low_y: int
    high_y: int
    low_x: int
    high_x: int
    circular: bool
    kinds: int
    itemsize: int
    shifts: int


@dataclass(frozen=True)
class Layout:
    """Threads for planes.

    Attributes:
        rows, columns: pixels of a thread; they divide height and width.
        vector: numbers that one load takes; divides columns, at most 16 bytes.
        warps: of a block.
        blocks: that a multiprocessor must have registers for.
        slots: planes that a block works on at a time.
        across: columns of the rectangle of pairs that these are, if each is a pair; divides slots.
        turns, parts: planes that a slot works off one after another, and blocks that a pair takes.
        shared_bytes: of a block.
    """

    rows: int
    columns: int
    vector: int
    warps: int
    blocks: int
    slots: int
    across: int
    turns: int
    parts: int
    shared_bytes: int


@cache
def choose(planes: Planes) -> Layout:
    """The cheapest layout; there is one for every plane up to 64×64 and window up to 7×7."""
    found = []
    for columns in _divisors(planes.width):
        for rows in _divisors(planes.height):
            layout = _layout(planes, rows, columns)
            if layout is not None:
                found.append((_slots(planes, layout), layout))
    return min(found, key=lambda entry: entry[0])[1]


def _layout(planes: Planes, rows: int, columns: int) -> Layout | None:
    lanes, groups = planes.width // columns, planes.height // rows
    if lanes > WARP:
        return None
    units = WARP // lanes  # groups that a warp has room for
    packed = units // groups  # planes of a warp; 0 where one plane takes several
    edge_bytes = 2 * _edges(planes, rows, columns) * planes.itemsize
    if packed:
        warps = min(4, -(-planes.shifts // packed)) if planes.shifts > 1 else 8
        while warps > 1 and warps * packed * edge_bytes > SHARED_BYTES // 4:
            warps //= 2
    else:
        warps = -(-groups // units)
    slots = warps * packed or 1
    if warps > 32 or slots * edge_bytes > SHARED_BYTES:
        return None
    turns = _turns(-(-planes.shifts // slots))
    registers = min(255, _registers(planes, rows, columns))
    return Layout(
        rows=rows,
        columns=columns,
        vector=_vector(planes, columns),
        warps=warps,
        blocks=max(1, REGISTERS // (WARP * warps * registers)),
        slots=slots,
        across=next(a for a in range(int(slots**0.5), 0, -1) if slots % a == 0),
        turns=turns,
        parts=-(-planes.shifts // (slots * turns)),
        shared_bytes=slots * edge_bytes,
    )


def _turns(all_turns: int) -> int:
    """As many as are worth a block, and few idle ones at the end."""
    some = range(min(TURNS // 2, all_turns), min(TURNS, all_turns) + 1)
    return min(some, key=lambda turns: (-(-all_turns // turns) * turns, -turns))


def _slots(planes: Planes, layout: Layout) -> float:
    """Issue slots of an update, over the share of lanes and turns that have something to do."""
    rows, columns = layout.rows, layout.columns
    lanes, groups = planes.width // columns, planes.height // rows
    reach_x, reach_y = planes.low_x + planes.high_x, planes.low_y + planes.high_y
    slots = 13 + planes.kinds * (reach_x + reach_y + 2) + 2 / layout.vector
    if lanes > 1:
        slots += planes.kinds * reach_x / columns
    if _exchanges(planes, groups):
        # rows that are stored, loaded by others and, those after the window, loaded again by their owner
        moved = min(rows, reach_y) + reach_y + planes.low_y
        slots += planes.kinds * moved / (rows * layout.vector) + 4 / (rows * columns)
    registers = _registers(planes, rows, columns)
    # few warps hide little latency, and registers in memory cost far more
    slots *= (
        1 if registers <= 128 else 1.05 if registers <= 168 else 1.15 if registers <= 255 else registers / 85
    )
    busy = layout.slots * groups * lanes / (WARP * layout.warps)
    return slots / (
        busy * planes.shifts / (layout.slots * layout.turns * layout.parts if planes.shifts > 1 else 1)
    )


def _registers(planes: Planes, rows: int, columns: int) -> int:
    """An estimate; tests/test_cuda_compile.py holds the compiler to the real numbers."""
    held = planes.kinds * columns * (rows + planes.low_y + planes.high_y + 1) + 4 * columns
    return 24 + held * planes.itemsize // 4 + (36 if planes.itemsize == 8 else 0)


def _edges(planes: Planes, rows: int, columns: int) -> int:
    """Shared numbers of a plane: the rows of a group that others read."""
    groups, reach = planes.height // rows, planes.low_y + planes.high_y
    if _exchanges(planes, groups):
        return planes.kinds * groups * min(rows, reach) * planes.width
    return _vector(planes, columns)


def _exchanges(planes: Planes, groups: int) -> bool:
    return planes.low_y + planes.high_y > 0 and (groups > 1 or planes.circular)


def _vector(planes: Planes, columns: int) -> int:
    return next(v for v in (16 // planes.itemsize, 8 // planes.itemsize, 1) if columns % v == 0)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
