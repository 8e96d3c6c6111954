"""Architectures: JSON there and back, digests, presets, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kernreg.architecture import PATCHES, PRESETS, Architecture
from kernreg.errors import KernregError
from kernreg.layers import Activation, Conv, Dense, Flatten, GlobalAvgPool, LocalConv


@pytest.mark.parametrize("name", PRESETS)
def test_json_there_and_back(name: str) -> None:
    settings: dict[str, Any] = {"depth": 4, "weight_variance": 1.5, "readout_bias_variance": 0.3}
    if name != "fcn":
        settings |= {"filter": (3, 5)}
    if name not in ("fcn", *PATCHES):
        settings |= {"stride": 2, "padding": "CIRCULAR"}
    architecture = Architecture.preset(name, **settings)
    copy = Architecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
    assert copy == architecture
    assert hash(copy) == hash(architecture)
    assert copy.digest == architecture.digest
    assert copy.depth == (5 if name in ("s-cnn", "d-cnn", "hr-cnn") else 4)
    assert str(copy) == str(architecture)


def test_every_layer_survives_json() -> None:
    window = {"filter": [3, 3], "strides": [2, 2], "padding": "VALID", "W_var": 2.0, "b_var": 0.0}
    layers: list[dict[str, Any]] = [
        {"type": "conv", **window},
        {"type": "act", "fn": "leaky_relu_0.1"},
        {"type": "avg_pool", "window": [2, 2], "strides": [1, 1], "padding": "SAME", "normalize_edges": True},
        {"type": "residual", "branch": [{"type": "act", "fn": "erf"}], "shortcut": []},
        {"type": "conv_local", **window},
        {"type": "gap"},
        {"type": "flatten"},
        {"type": "dense", "W_var": 1.0, "b_var": 0.5},
    ]
    assert Architecture.from_dict({"layers": layers}).to_dict()["layers"] == layers


def test_the_digest_is_the_same_everywhere_and_ignores_the_name() -> None:
    """A changed digest would orphan every stored Gram."""
    assert Architecture.gap().digest == "974fa31e1d917bb9"
    layers = Architecture.gap().layers
    assert Architecture(layers, "mine").digest == "974fa31e1d917bb9"
    assert Architecture(layers, "mine") == Architecture.gap()
    assert Architecture.gap(depth=4).digest != Architecture.gap().digest
    assert Architecture.lcn().digest != Architecture.vec().digest


def test_presets_are_what_their_names_say() -> None:
    assert isinstance(Architecture.lcn().layers[0], LocalConv)
    assert not isinstance(Architecture.vec().layers[0], LocalConv)
    assert Architecture.preset("CNN-GAP") == Architecture.gap()
    assert Architecture.preset("cnn-vec") == Architecture.vec()
    # the readout has the hidden layers' variances unless told otherwise
    assert Architecture.fcn(2, 1.5, 0.3).layers[-1] == Dense(1.5, 0.3)
    assert Architecture.fcn(2, 1.5, 0.3, readout_weight_variance=1.0).layers[-1] == Dense(1.0, 0.3)
    assert Architecture.gap(stride=2, filter=(1, 3)).layers[0] == Conv((1, 3), (2, 2), "SAME", 2.0, 0.01)
    assert Architecture.fcn(depth=0).layers == (Dense(2.0, 0.01),)
    patch, relu, dense = Conv((2, 2), (2, 2), "VALID", 2.0, 0.01), Activation("relu"), Dense(2.0, 0.01)
    assert Architecture.preset("hr-cnn").layers == (*(patch, relu) * 3, Flatten(), dense, relu, dense)
    assert Architecture.preset("hr-cnn-gap").layers == (*(patch, relu) * 3, GlobalAvgPool(), dense)
    assert Architecture.preset("D-CNN", filter=(16, 1)).layers[2] == Conv(
        (16, 1), (16, 1), "VALID", 2.0, 0.01
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Architecture.preset("transformer"), "unknown architecture 'transformer'; known: fcn"),
        (lambda: Architecture.preset("fcn", filter=3), "'fcn' has no setting 'filter'"),
        (lambda: Architecture.preset("d-cnn", stride=3), "'d-cnn' has no setting 'stride'"),
        (lambda: Architecture.preset("gap", width=3), "'gap' has no setting 'width'"),
        (lambda: Architecture.gap(depth=-1), "depth must be"),
        (lambda: Architecture.gap(padding="FULL"), "padding must be one of SAME"),
        (lambda: Architecture.gap(filter=0), "must be from 1 to"),
        (lambda: Architecture.fcn(weight_variance=-1), "weight_variance must be a finite number"),
        (lambda: Architecture.fcn(bias_variance=float("nan")), "bias_variance must be"),
        (lambda: Architecture.fcn(activation="gelu"), "unknown activation 'gelu'"),
        (lambda: Architecture(()), "at least one layer"),
        (lambda: Architecture.from_dict({"layers": 3}), "an architecture is an object"),
        (
            lambda: Architecture.from_dict({"layers": [{"type": "attention"}]}),
            "unknown layer type 'attention'",
        ),
        (
            lambda: Architecture.from_dict({"layers": [{"type": "dense", "W_var": 1}]}),
            "lacks the key 'b_var'",
        ),
        (lambda: Architecture.from_dict({"layers": [{"type": "gap", "size": 1}]}), "has no key 'size'"),
        (
            lambda: Architecture.from_dict({"layers": [{"type": "dense", "W_var": "x", "b_var": 0}]}),
            "could not convert",
        ),
        (lambda: Architecture.from_dict({"layers": ["dense"]}), "an object with a 'type'"),
    ],
)
def test_nonsense_is_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(KernregError, match=message):
        make()


def test_an_activation_knows_its_negative_slope() -> None:
    slopes = {fn: Activation(fn).slope for fn in ("relu", "abs", "identity", "leaky_relu_0.1", "erf")}
    assert slopes == {"relu": 0, "abs": -1, "identity": 1, "leaky_relu_0.1": 0.1, "erf": None}
