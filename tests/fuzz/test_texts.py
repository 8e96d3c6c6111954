"""Study files and architectures from a grammar: what is written right is read back, what is wrong is one line."""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from watch import LONGEST_ERROR, REPLAYED

from kernreg.architecture import PRESETS, Architecture
from kernreg.entries import entries_of
from kernreg.errors import KernregError
from kernreg.layers import PADDINGS
from kernreg.provenance import KERNELS
from kernreg.studyfile import StudyFile, parse
from kernreg.symmetry import NAMES, UNDRAWN

SIZES = st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=2, max_size=2)
VARIANCES = st.floats(0, 9) | st.integers(0, 9)
LAYERS: st.SearchStrategy[dict[str, Any]] = st.deferred(
    lambda: st.one_of(
        st.fixed_dictionaries({"type": st.just("dense"), "W_var": VARIANCES, "b_var": VARIANCES}),
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["conv", "conv_local"]),
                "filter": SIZES,
                "W_var": VARIANCES,
                "b_var": VARIANCES,
            },
            optional={"strides": SIZES, "padding": st.sampled_from(PADDINGS)},
        ),
        st.fixed_dictionaries(
            {"type": st.just("act"), "fn": st.sampled_from(["relu", "erf", "abs", "leaky_relu_0.25"])}
        ),
        st.fixed_dictionaries(
            {"type": st.just("avg_pool"), "window": SIZES},
            optional={
                "strides": SIZES,
                "padding": st.sampled_from(PADDINGS),
                "normalize_edges": st.booleans(),
            },
        ),
        st.sampled_from([{"type": "gap"}, {"type": "flatten"}]),
        st.fixed_dictionaries(
            {"type": st.just("residual"), "branch": st.lists(LAYERS, max_size=2)},
            optional={"shortcut": st.lists(LAYERS, max_size=2)},
        ),
    )
)
NETWORKS = st.fixed_dictionaries(
    {"layers": st.lists(LAYERS, min_size=1, max_size=4)}, optional={"name": st.just("σ-net")}
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    keys = list(
        value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def require_line(error: KernregError) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) <= LONGEST_ERROR


@given(NETWORKS)
def test_an_architecture_is_what_its_json_says(network: dict[str, Any]) -> None:
    made = Architecture.from_json(json.dumps(network))
    again = Architecture.from_json(json.dumps(made.to_dict()))
    assert again == made
    assert (hash(again), again.digest, str(again)) == (hash(made), made.digest, str(made))


@given(NETWORKS, JSON, st.randoms(use_true_random=False), st.booleans())
def test_a_wrong_value_anywhere_is_refused_in_one_line(
    network: dict[str, Any], value: Any, random: Any, leave_out: bool
) -> None:
    network = json.loads(json.dumps(network))
    container, key = random.choice(places(network))
    if leave_out:
        del container[key]
    else:
        container[key] = value
    try:
        made = Architecture.from_json(json.dumps(network))
    except KernregError as error:
        require_line(error)
    else:
        assert Architecture.from_dict(made.to_dict()) == made


@given(st.text(max_size=200) | JSON.map(json.dumps))
def test_no_text_is_an_architecture_by_accident(text: str) -> None:
    with suppress(KernregError):
        assert Architecture.from_json(text).layers


def toml(value: Any) -> str:
    """A value as TOML, of tables inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value) if isinstance(value, str) else repr(value)


SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True)
STUDY = st.fixed_dictionaries(
    {"name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)},
    optional={
        "title": st.text("ab <>&$\\\"'π\t", min_size=1, max_size=9),
        "kernels": st.lists(st.sampled_from(KERNELS), min_size=1, max_size=2, unique=True),
        "transforms": st.lists(
            st.sampled_from([n for n in NAMES if n != "patch-rotation"]), min_size=1, max_size=3, unique=True
        ),
        "transform_seeds": SEEDS,
        "tolerance": st.floats(0, 1),
        "ladder": st.booleans(),
        "dtype": st.sampled_from(["float32", "float64"]),
    },
)
DATA = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["digits", "synthetic", "mine.npz"]),
        "n": st.integers(2, 2**40),
        "test": st.integers(1, 99),
    },
    optional={"seeds": SEEDS, "balanced": st.booleans()},
)
FIT = st.fixed_dictionaries(
    {},
    optional={
        "ridge": st.sampled_from(["loo", "gcv"]) | st.floats(0, 1),
        "window": st.tuples(st.integers(1, 9), st.integers(10, 99)),
        "breaks": st.booleans(),
        "spectrum": st.integers(0, 9),
    },
)
PRESET = st.fixed_dictionaries(
    {"preset": st.sampled_from(PRESETS), "name": st.uuids().map(str)},
    optional={"depth": st.integers(0, 9), "weight_variance": VARIANCES, "bias_variance": VARIANCES},
)
LAYERED = st.fixed_dictionaries(
    {"layers": st.lists(LAYERS, min_size=1, max_size=3), "name": st.uuids().map(str)}
)


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    """The tables of a study file that is right."""
    tables = {"study": draw(STUDY), "data": draw(DATA), "fit": draw(FIT)}
    tables["architecture"] = draw(st.lists(PRESET | LAYERED, min_size=1, max_size=3))
    return tables


def text_of(tables: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {toml(table)}" for name, table in tables.items())


@settings(deadline=None, derandomize=REPLAYED)
@given(studies())
def test_a_study_file_is_read_as_it_is_written(tables: dict[str, Any]) -> None:
    text = text_of(tables)
    assert tomllib.loads(text).keys() == tables.keys()
    file = parse(text)
    assert file.name == tables["study"]["name"]
    assert file.data.sizes == (tables["data"]["n"],)
    assert [a.name for a in file.architectures] == [t["name"] for t in tables["architecture"]]
    assert file.transform_seeds == tuple(tables["study"].get("transform_seeds", (0,)))
    assert len(entries_of(file)) == _count(file)


def _count(file: StudyFile) -> int:
    drawn = sum(1 if name in UNDRAWN else len(file.transform_seeds) for name in file.transforms)
    return len(file.architectures) * len(file.kernels) * len(file.data.sizes) * len(file.data.seeds) * drawn


TOML = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text("ab/π", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, derandomize=REPLAYED)
@given(studies(), TOML, st.randoms(use_true_random=False), st.sampled_from(["change", "leave out", "rename"]))
def test_a_study_file_with_one_mistake_is_refused_in_one_line(
    tables: dict[str, Any], value: Any, random: Any, how: str
) -> None:
    tables = json.loads(json.dumps(tables))
    container, key = random.choice(places(tables))
    if how == "leave out":
        del container[key]
    elif how == "rename" and isinstance(container, dict):
        container[f"{key}s"] = container.pop(key)
    else:
        container[key] = value
    try:
        parse(text_of(tables))
    except KernregError as error:
        require_line(error)
