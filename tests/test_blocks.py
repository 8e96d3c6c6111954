"""The cut of a factor: memory kept, counts exact, the formula of the documentation within 5 %."""

import itertools
import math
import re

import pytest

from kernreg.blocks import MOST_PANELS, PROCESS_BYTES, TILES, Blocks, choose_blocks, triangle
from kernreg.errors import KernregError

MIB = 1 << 20


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1021, 20_000, 100_000])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_the_chosen_blocks_fit_and_more_memory_never_makes_more_traffic(n: int, itemsize: int) -> None:
    before = None
    for budget in (16, 64, 256, 1024, 4096, 100_000):
        memory = PROCESS_BYTES + budget * MIB
        least = max(TILES[-1], math.ceil(2 * n / MOST_PANELS / TILES[-1]) * TILES[-1])
        if itemsize * (least * n + 4 * TILES[-1] ** 2) > (budget - 3) * MIB:
            continue
        blocks = choose_blocks(n, memory, itemsize, others=3 * MIB)
        assert PROCESS_BYTES + 3 * MIB + blocks.bytes(itemsize) <= memory
        assert blocks.tile <= TILES[0]
        assert len(blocks.panels) <= MOST_PANELS
        # A smaller tile is a last resort: only the diagonal tiles, w/2n of the traffic, make a difference.
        assert before is None or blocks.read <= before * (1 + 2 * blocks.tile / n)
        before = blocks.read
    assert before == 0


@pytest.mark.parametrize("itemsize", [4, 8])
def test_what_no_panel_fits_into_is_refused_with_what_would_do(itemsize: int) -> None:
    with pytest.raises(KernregError, match=r"are allowed: use --memory ([\d.]+)GiB") as caught:
        choose_blocks(100_000, PROCESS_BYTES + 10 * MIB, itemsize)
    found = re.search(r"--memory ([\d.]+)GiB", str(caught.value))
    assert found is not None
    blocks = choose_blocks(100_000, int(float(found[1]) * 1024) * MIB, itemsize)
    assert blocks.panel >= TILES[-1]


def test_the_budget_of_the_documentation() -> None:
    blocks = choose_blocks(20_000, 1 << 30, others=100 * MIB)
    assert 256 < blocks.tile <= 512
    assert blocks.bytes(8) > 0.8 * ((1 << 30) - PROCESS_BYTES - 100 * MIB)


@pytest.mark.parametrize(
    ("n", "tile", "panel"), [(1, 8, 8), (61, 8, 16), (64, 8, 64), (129, 16, 32), (97, 32, 32)]
)
def test_counts_are_those_of_the_tiles(n: int, tile: int, panel: int) -> None:
    blocks = Blocks(n, tile, panel)
    sizes = [b - a for a, b in itertools.pairwise(blocks.edges)]
    places = [(J, k) for J in range(len(sizes)) for k in range(J + 1)]
    assert blocks.written == sum(sizes[J] * sizes[k] for J, k in places)
    assert [b for _, b in blocks.panels][-1] == n
    read = inverse = 0
    for top, _ in blocks.panels:
        read += sum(sizes[J] * sizes[k] for J, k in places if blocks.edges[J] < top)
        inverse += sum(sizes[J] * sizes[k] for J, k in places if blocks.edges[k] >= top)
    assert (blocks.read, blocks.read_for_inverse) == (read, inverse)


@pytest.mark.parametrize("n", [4000, 20_000, 65_537])
@pytest.mark.parametrize("room", [200, 400, 800])
def test_the_formula_of_the_documentation_is_within_five_percent(n: int, room: int) -> None:
    blocks = choose_blocks(n, PROCESS_BYTES + room * MIB)
    r, w = blocks.panel / n, blocks.tile / n
    formula = n**3 / (6 * blocks.panel) * ((1 - r) * (1 - r / 2) + 1.5 * w * (1 - r))
    assert blocks.read == pytest.approx(formula, rel=0.05, abs=n * blocks.tile)
    assert blocks.written == pytest.approx(n * (n + blocks.tile) / 2, rel=0.05)
    inverse = n**3 / (6 * blocks.panel) * ((1 + r) * (1 + r / 2) + 1.5 * w * (1 + r))
    assert blocks.read_for_inverse == pytest.approx(inverse, rel=0.05)


def test_strips_are_equal_and_within_a_panel() -> None:
    blocks = Blocks(100, 8, 16)
    for rows in (0, 1, 15, 16, 17, 33, 100):
        strips = blocks.strips(rows)
        assert [a for a, _ in strips] == [0, *(b for _, b in strips)][: len(strips)]
        assert sum(b - a for a, b in strips) == rows
        assert max((b - a for a, b in strips), default=0) <= 16


def test_triangles() -> None:
    assert triangle((0,)) == 0
    assert triangle((0, 3, 5)) == 9 + 10
    assert triangle((3, 5)) == 4


@pytest.mark.parametrize("cut", [(0, 8, 8), (5, 8, 12), (5, 0, 8), (5, 8, 0)])
def test_impossible_cuts_are_refused(cut: tuple[int, int, int]) -> None:
    with pytest.raises(KernregError, match="whole tiles"):
        Blocks(*cut)
