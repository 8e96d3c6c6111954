"""Learning indices and sample complexities: those of the papers."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from kernreg.architecture import Architecture
from kernreg.complexity import Tree, learning_index, sample_complexity, tree
from kernreg.data.eigenspaces import NAMES, targets
from kernreg.errors import KernregError

# Xiao (2022), Figure 3: one level, two levels of 16, four levels of 4
PUBLISHED = {
    "Y1": (1, 1, 1),
    "Y2": (2, 1.5, 1.25),
    "Y3": (2, 1.5, 1.5),
    "Y4": (3, 2, 1.75),
    "Y5*": (5, 3, 2),
    "Y5": (2, 2, 2),
    "Y6": (4, 2.5, 2.25),
    "Y7": (4, 3, 2.5),
}


def hierarchy(side: int, depth: int, pool: str = "vec") -> Architecture:
    return Architecture.preset(pool, depth=depth, filter=(1, side), stride=(1, side), padding="VALID")


@pytest.mark.parametrize("p", [3, 4])
def test_learning_indices_of_the_paper(p: int) -> None:
    networks = (Architecture.fcn(4), hierarchy(p * p, 2), hierarchy(p, 4))
    for target in targets(p, seed=0):
        indices = [learning_index(network, p**4, target.monomials) for network in networks]
        assert indices == pytest.approx(PUBLISHED[target.name])
    assert set(PUBLISHED) == set(NAMES)


def test_readouts_that_do_not_join() -> None:
    """Pooling w = d^a places takes a from the index; no product of coordinates under different places is learned."""
    flat, pooled, joined = hierarchy(4, 3), hierarchy(4, 3, "gap"), hierarchy(4, 4)
    for target in targets(4, seed=0):
        index = learning_index(joined, 256, target.monomials)
        if target.name == "Y5":
            assert learning_index(flat, 256, target.monomials) == inf
            assert learning_index(pooled, 256, target.monomials) == inf
        else:
            assert learning_index(flat, 256, target.monomials) == pytest.approx(index)
            assert learning_index(pooled, 256, target.monomials) == pytest.approx(index - 0.25)


def test_trees_of_architectures() -> None:
    assert tree(Architecture.fcn(2), 10) == Tree((10,))
    assert tree(hierarchy(4, 2), 64) == Tree((4, 4), 4)
    assert tree(hierarchy(4, 2, "gap"), 64) == Tree((4, 4), 4, pooled=True)
    layers = [
        *hierarchy(4, 2).to_dict()["layers"],
        {"type": "act", "fn": "relu"},
        {"type": "dense", "W_var": 1, "b_var": 0},
    ]
    assert tree(Architecture.from_dict({"layers": layers}), 64) == Tree((4, 4, 4))
    for network in (
        Architecture.vec(2),
        hierarchy(3, 2),
        Architecture.vec(1, (1, 4), stride=(1, 2)),
        hierarchy(4, 1, "lcn-gap"),
    ):
        with pytest.raises(KernregError, match="the learning index is known for"):
            tree(network, 64)
    with pytest.raises(KernregError, match="other than 60 coordinates"):
        learning_index(Tree((4, 4)), 60, [])


def test_the_table_of_sample_complexities() -> None:
    d, q, w, ℓ = 100, 5, 10, 3
    assert sample_complexity("fc", ℓ, d) == 10**6
    assert sample_complexity("fc-gap", ℓ, d) == 10**4
    assert sample_complexity("conv", ℓ, d, q) == 2500
    assert sample_complexity("conv-pool", ℓ, d, q, w) == 250
    assert sample_complexity("conv-gap", ℓ, d, q) == 25
    # the same things at their ends
    assert sample_complexity("conv", ℓ, d, d) == sample_complexity("fc", ℓ, d)
    assert sample_complexity("conv-pool", ℓ, d, q, 1) == sample_complexity("conv", ℓ, d, q)
    assert sample_complexity("conv-pool", ℓ, d, q, d) == sample_complexity("conv-gap", ℓ, d, q)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("mlp", 2, 10), "unknown model 'mlp'"),
        (("fc", 0, 10), "degree is 0"),
        (("conv", 2, 10), "patch is None"),
        (("conv", 2, 10, 11), "patch is 11; it must lie in 1…10"),
        (("conv-pool", 2, 10, 3), "pool is None"),
    ],
)
def test_numbers_out_of_range(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(KernregError) as refusal:
        sample_complexity(*arguments)
    assert said in str(refusal.value)
