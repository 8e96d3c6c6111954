"""Study files: what is read, and the one line that says what is wrong."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies import TINY

from kernreg.architecture import Architecture
from kernreg.entries import by_axes, entries_of, key, label, matches
from kernreg.errors import KernregError
from kernreg.studyfile import COINCIDE, parse, read

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.toml"))


def test_everything_that_a_file_says_is_read() -> None:
    file = parse(TINY)
    assert (file.name, file.title) == ("tiny", "A tiny <study> & more")
    assert [a.name for a in file.architectures] == ["fcn", "lcn", "vec", "gap"]
    assert file.architectures[3] == Architecture.gap(depth=1)
    assert file.data.sizes == (48,)
    assert file.data.settings["channels"] == 2
    assert file.fit.ridge == 1e-3
    assert file.data.dtype == file.dtype == "float64"
    assert file.source == TINY


def test_sizes_are_sorted_and_settings_of_architectures_reach_them() -> None:
    text = TINY.replace("n = 48", "n = [48, 8, 20]").replace(
        'preset = "gap"\ndepth = 1', 'name = "g"\npreset = "gap"\nfilter = [3, 1]\npadding = "CIRCULAR"'
    )
    file = parse(text)
    assert file.data.sizes == (8, 20, 48)
    made = file.architectures[3]
    assert made.name == "g"
    assert made == Architecture.gap(filter=(3, 1), padding="CIRCULAR")


def test_layers_spell_a_network_out() -> None:
    layers = Architecture.fcn(depth=1).to_dict()["layers"]
    tables = "\n".join(
        "[[architecture.layers]]\n" + "\n".join(f"{k} = {v!r}" for k, v in layer.items()) for layer in layers
    )
    file = parse(TINY + '\n[[architecture]]\nname = "mine"\n' + tables)
    assert file.architectures[-1] == file.architectures[0]
    assert file.architectures[-1].name == "mine"


WRONG = {
    "unknown key": (
        TINY.replace("kernels", "kernel"),
        r"\[study\] has no key 'kernel'; did you mean kernels\?",
    ),
    "unknown table": (TINY + "\n[fits]\n", "the file has no key 'fits'"),
    "unknown transform": (TINY.replace('"mirror"', '"rotate"'), r"transforms is .*rotate.* none, rotation"),
    "twice": (TINY.replace('"mirror"', '"none"'), "different ones of"),
    "patch without its transform": (TINY.replace("[data]", "patch = 2\n[data]"), "patch-rotation"),
    "no n": (TINY.replace("n = 48", ""), r"\[data\] lacks the key n"),
    "n of 1": (TINY.replace("n = 48", "n = 1"), r"\[data\] n is 1"),
    "n true": (TINY.replace("n = 48", "n = true"), r"\[data\] n is True"),
    "test of 0": (TINY.replace("test = 40", "test = 0"), r"\[data\] test is 0"),
    "unknown data": (TINY.replace("synthetic-images", "digit"), "unknown data set 'digit'"),
    "unknown setting": (
        TINY.replace("size = 4", "sizes = 4"),
        "synthetic-images has no such setting; it has",
    ),
    "ridge nan": (TINY.replace("ridge = 1e-3", "ridge = nan"), r"\[fit\] ridge is nan"),
    "ridge huge": (TINY.replace("ridge = 1e-3", f"ridge = 1{'0' * 400}"), r"\[fit\] ridge is 10"),
    "ridge word": (TINY.replace("ridge = 1e-3", 'ridge = "best"'), r"\[fit\] ridge is 'best'"),
    "window": (TINY.replace("ridge = 1e-3", "window = [9, 9]"), r"low < high"),
    "unknown preset": (TINY.replace('preset = "gap"', 'preset = "gab"'), r"\[\[architecture\]\] 4 preset"),
    "no preset": (TINY.replace('preset = "gap"', ""), "needs one of preset and layers"),
    "same name": (TINY.replace('preset = "gap"', 'preset = "vec"'), "the name 'vec' is taken"),
    "fcn with a filter": (
        TINY.replace('preset = "fcn"', 'preset = "fcn"\nfilter = 3'),
        "no setting 'filter'",
    ),
    "bad padding": (
        TINY.replace('preset = "gap"', 'preset = "gap"\npadding = "ZERO"'),
        r"\[\[architecture\]\] 4: ",
    ),
    "no architecture": (TINY[: TINY.index("[[architecture]]")], "lacks the key architecture"),
    "name with a slash": (TINY.replace('"tiny"', '"../tiny"'), r"\[study\] name"),
    "not TOML": (TINY + "\n[study\n", "not TOML"),
    "selector": (
        TINY + '[[compare]]\nfirst = {architecture = "gcn"}\nsecond = {architecture = "fcn"}',
        r"\[\[compare\]\] 1 first architecture is 'gcn'; it must be one of fcn, lcn, vec, gap",
    ),
    "equal sides": (
        TINY + '[[coincide]]\nfirst = {architecture = "fcn"}\nsecond = {architecture = "fcn"}',
        "both sides are the same",
    ),
    "one side": (
        TINY
        + '[[coincide]]\nfirst = {architecture = "fcn"}\nsecond = {architecture = "fcn", transform = "mirror"}',
        "names transform on one side only",
    ),
    "axis": (
        TINY + '[[coincide]]\nfirst = {arch = "fcn"}\nsecond = {architecture = "vec"}',
        r"first has no key 'arch'; known keys: architecture",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str) -> None:
    text, said = WRONG[case]
    with pytest.raises(KernregError, match=said) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(KernregError, match=r"cannot read the study file .*a\.toml: No such file"):
        read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(KernregError, match="is not UTF-8"):
        read(path)
    path.write_text(TINY + "[more]\n", encoding="utf-8")
    with pytest.raises(KernregError, match=r"a\.toml: the file has no key 'more'"):
        read(path)


@given(st.text(max_size=300))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    with suppress(KernregError):
        parse(text)


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5).filter(str.isprintable),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
LINES = [line for line in TINY.splitlines() if " = " in line and "{" not in line]


def toml(value: object) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


@given(st.sampled_from(LINES), VALUES)
def test_a_wrong_value_of_any_key_is_refused_or_right(line: str, value: object) -> None:
    with suppress(KernregError):
        parse(TINY.replace(line, f"{line.split(' = ')[0]} = {toml(value)}", 1))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_examples_parse(path: Path) -> None:
    assert read(path).name == path.stem


def test_the_grid_has_every_combination_once() -> None:
    text = TINY.replace("n = 48", "n = [16, 48]\nseeds = [0, 3]").replace('["ntk"]', '["ntk", "nngp"]')
    entries = entries_of(parse(text.replace("transforms =", "transform_seeds = [0, 1]\ntransforms =")))
    assert len(entries) == 4 * 2 * 2 * 2 * (1 + 2 + 1)  # mirror is one element, whatever the seed
    assert len(by_axes(entries)) == len(entries)
    assert {e.transform_seed for e in entries if e.transform == "mirror"} == {None}
    assert len({label(e, entries) for e in entries}) == len(entries)
    assert label(entries[0], entries[:1]) == "fcn"


def test_pairs_differ_in_what_is_named_and_agree_in_the_rest() -> None:
    text = TINY.replace("transforms =", "transform_seeds = [0, 1]\ntransforms =")
    entries = entries_of(parse(text.replace("n = 48", "n = [16, 48]")))
    found = list(matches({"architecture": "gap"}, {"architecture": "fcn"}, entries))
    assert len(found) == 2 * (1 + 2 + 1)
    assert all(a.like(architecture="fcn") == b.axes() for a, b in found)
    plain = {"architecture": "fcn", "transform": "none"}
    found = list(matches({"architecture": "gap", "transform": "rotation"}, plain, entries))
    assert [(a.n, a.transform_seed, b.n, b.transform_seed) for a, b in found] == [
        (16, 0, 16, None),
        (48, 0, 48, None),
        (16, 1, 16, None),
        (48, 1, 48, None),
    ]
    assert key(found[0][0].axes()) in by_axes(entries)


def test_a_tolerance_of_the_study_is_that_of_its_pairs() -> None:
    pair = '[[coincide]]\nfirst = {architecture = "fcn"}\nsecond = {architecture = "vec"}\n'
    assert parse(TINY + pair).coincide[0].tolerance == COINCIDE
    looser = TINY.replace("transforms =", "tolerance = 1e-3\ntransforms =")
    assert parse(looser + pair).coincide[0].tolerance == 1e-3
    assert parse(looser + pair + "tolerance = 0.5").coincide[0].tolerance == 0.5
