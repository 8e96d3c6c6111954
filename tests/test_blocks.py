"""The cut of a factor: memory kept, counts exact, the formula of the documentation within 5 %."""

import itertools

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
        try:
            blocks = choose_blocks(n, memory, itemsize, others=3 * MIB)
        except KernregError as refused:
            assert before is None
            assert "are allowed: use --memory" in str(refused)
            continue
        assert PROCESS_BYTES + 3 * MIB + blocks.bytes(itemsize) <= memory
        assert blocks.tile in TILES
        assert len(blocks.panels) <= MOST_PANELS
        # A smaller tile is a last resort: only the diagonal tiles, w/2n of the traffic, make a difference.
        assert before is None or blocks.read <= before * (1 + blocks.tile / n)
        before = blocks.read
    assert before == 0


def test_the_budget_of_the_documentation() -> None:
    blocks = choose_blocks(20_000, 1 << 30, others=100 * MIB)
    assert blocks.tile == 512
    assert blocks.bytes(8) > 0.8 * ((1 << 30) - PROCESS_BYTES - 100 * MIB)


@pytest.mark.parametrize(("n", "tile", "panel"), [(1, 8, 8), (61, 8, 16), (64, 8, 64), (129, 16, 32), (97, 32, 32)])
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


@pytest.mark.parametrize(("n", "tile", "panel"), [(20_000, 512, 3072), (100_000, 512, 8192), (4000, 64, 512)])
def test_the_formula_of_the_documentation_is_within_five_percent(n: int, tile: int, panel: int) -> None:
    blocks, r, w = Blocks(n, tile, panel), panel / n, tile / n
    formula = n**3 / (6 * panel) * ((1 - r) * (1 - r / 2) + 1.5 * w * (1 - r))
    assert blocks.read == pytest.approx(formula, rel=0.05)
    assert blocks.written == pytest.approx(n * (n + tile) / 2, rel=0.05)
    inverse = n**3 / (6 * panel) * ((1 + r) * (1 + r / 2) + 1.5 * w * (1 + r))
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
