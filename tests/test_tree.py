"""Networks as trees: which places a leaf reads, how stages group, and what is no tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernreg.architecture import Architecture
from kernreg.kernels.tree import ERF, NONE, RBF, RELU, Stage, tree
from kernreg.layers import Activation, Conv, Dense, Flatten, GlobalAvgPool, Layer, LocalConv

CONV = Conv((2, 2), (2, 2), "VALID", 1.5, 0.1)
DENSE = Dense(2.0, 0.3)
ACT = Activation("relu")


def test_a_fully_connected_network_is_one_leaf() -> None:
    t = tree(Architecture.fcn(2, 1.5, 0.1), (3, 4, 2))
    np.testing.assert_array_equal(t.order, np.arange(24)[None])
    assert t.stages == (Stage(1, 1.5, 0.1, RELU), Stage(1, 1.5, 0.1, RELU), Stage(1, 1.5, 0.1, NONE))
    assert (t.levels, t.tops, t.readout, t.size, t.nodes) == (0, 1, (), 24, (1, 1, 1))
    assert tree(Architecture((Flatten(), DENSE)), (3, 4, 2)).order.shape == (1, 24)


def test_every_pixel_is_read_once_and_children_are_neighbours() -> None:
    t = tree(Architecture.preset("hr-cnn", activation="rbf"), (16, 8, 3))
    assert t.order.shape == (32, 12)
    assert sorted(t.order.ravel()) == list(range(16 * 8 * 3))
    assert [stage.children for stage in t.stages] == [1, 4, 4, 2, 1]
    assert t.nodes == (32, 8, 2, 1, 1)
    assert t.levels == 3
    assert t.kinds == frozenset({RBF})
    # the leaves of the first node of the second stage are the pixels of the upper left 4×4
    y, x = np.divmod(t.order[:4].ravel() // 3, 8)
    assert (y.max(), x.max()) == (3, 3)
    assert len(np.unique(t.order[:4])) == 48


def test_a_valid_window_drops_what_does_not_fill_it() -> None:
    t = tree(Architecture.patches(2, 2), (7, 9, 1))
    assert t.nodes == (8, 2, 1, 1)
    assert t.order.max() < 63
    y, x = np.divmod(t.order, 9)
    assert (y.max(), x.max()) == (3, 7)


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR", "VALID"])
def test_the_first_layer_may_overlap(padding: Any) -> None:
    t = tree(Architecture((Conv((3, 3), (1, 1), padding, 1.0, 0.0), ACT, Flatten(), DENSE)), (4, 4, 1))
    assert t.leaves == (4 if padding == "VALID" else 16)
    corner = {
        "SAME": [16, 16, 16, 16, 0, 1, 16, 4, 5],
        "CIRCULAR": [15, 12, 13, 3, 0, 1, 7, 4, 5],
        "VALID": [0, 1, 2, 4, 5, 6, 8, 9, 10],
    }
    assert list(t.order[0]) == corner[padding]


def test_pooled_networks_keep_their_top_nodes_apart() -> None:
    t = tree(Architecture.preset("hr-cnn-gap"), (16, 16, 1))
    assert (t.tops, t.levels, t.nodes) == (4, 2, (64, 16, 4))
    assert t.readout == (Dense(2.0, 0.01),)
    # over a single node a pool is nothing, and layers may follow
    single = Architecture((CONV, ACT, GlobalAvgPool(), DENSE, ACT, DENSE))
    assert tree(single, (2, 2, 1)).tops == 1


def test_signs_and_scales() -> None:
    assert not tree(Architecture.fcn(2), (5,)).signed
    assert tree(Architecture.fcn(2, activation="erf"), (5,)).signed
    assert tree(Architecture((DENSE, DENSE, ACT, DENSE)), (5,)).signed
    assert tree(Architecture.fcn(2, activation="erf"), (5,)).kinds == {ERF}
    assert tree(Architecture.fcn(2, bias_variance=0.0), (5,)).homogeneous
    assert not tree(Architecture.fcn(2), (5,)).homogeneous
    assert not tree(Architecture.fcn(2, bias_variance=0.0, activation="rbf"), (5,)).homogeneous


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ((Conv((3, 3), (1, 1), "SAME", 1, 0), ACT) * 2 + (Flatten(), DENSE), "layer 3"),
        ((CONV, ACT, Conv((2, 2), (1, 1), "VALID", 1, 0), ACT, Flatten(), DENSE), "layer 3"),
        ((CONV, Activation("abs"), Flatten(), DENSE), "abs"),
        ((CONV, ACT, ACT, Flatten(), DENSE), "layer 3"),
        ((ACT, DENSE), "layer 1"),
        ((CONV, ACT, Flatten()), "Flatten"),
        ((CONV, ACT, GlobalAvgPool(), DENSE, ACT), "layer 5"),
        ((LocalConv((2, 2), (2, 2), "VALID", 1, 0), ACT, GlobalAvgPool(), DENSE), "LocalConv"),
        ((GlobalAvgPool(), DENSE), "GlobalAvgPool"),
        ((CONV, ACT), "layer 2"),
    ],
)
def test_what_is_no_tree_is_named(layers: tuple[Layer, ...], named: str) -> None:
    with pytest.raises(NotImplementedError, match=named):
        tree(Architecture(layers), (8, 8, 1))
