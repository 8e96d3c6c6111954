"""Finite networks in a study: the same rows, transforms, pairs and page as the kernels beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from studies import TINY, tiny

from kernreg.cli.main import main
from kernreg.curvefile import load
from kernreg.errors import KernregError
from kernreg.ladder import groups, sentences
from kernreg.study import Study
from kernreg.studyfile import parse
from kernreg.studyreport import report, to_dict
from kernreg.studytables import pair_table, provenance

BOTH = (
    TINY[: TINY.index('[[architecture]]\npreset = "lcn"')].replace(', "mirror"', "")
    + """
[[architecture]]
preset = "gap"
depth = 1

[[network]]
architecture = "fcn"
width = 8
epochs = 5
sizes = [12, 17, 24, 34]

[[network]]
name = "small gap"
preset = "gap"
depth = 1
width = 4
epochs = 5
replicates = 2
optimizer = "adam"
lr = 0.01
sizes = [12, 24]

[[compare]]
first = { architecture = "fcn-w8", transform = "rotation" }
second = { architecture = "fcn", transform = "none" }
"""
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = tiny(tmp_path_factory.mktemp("study"), BOTH)
    made.run()
    return made


def test_entries_of_networks_stand_beside_those_of_kernels(study: Study) -> None:
    assert [study.label(e) for e in study.entries] == [
        "fcn · none",
        "gap · none",
        "fcn-w8 · none",
        "small gap · none",
        "fcn · rotation",
        "gap · rotation",
        "fcn-w8 · rotation",
        "small gap · rotation",
    ]
    assert len({study.curve_path(e) for e in study.entries}) == 8
    plan = study.plan(seconds=False)
    assert [task.networks for task in plan.trainings] == [4 + 2 + 2 + 1 + 1, 2 * (4 + 2 + 1)] * 2
    assert not plan.untrained
    assert not plan.waiting


def test_a_network_sees_the_rows_of_the_kernel(study: Study) -> None:
    for transform in ("none", "rotation"):
        about = {}
        for entry in study.entries:
            path = study.curve_path(entry)
            assert path is not None
            if entry.transform == transform:
                about[entry.architecture.name] = load(path).about
        assert len({a["rows"] for a in about.values()}) == 1
        assert len({json.dumps(a["data"].get("transform")) for a in about.values()}) == 1
        assert about["fcn"]["zero_error"] == about["fcn-w8"]["zero_error"]


def test_pairs_of_kernels_and_networks_are_paired(study: Study) -> None:
    outcomes = study.outcomes()
    pairs = {(c.first.label, c.second.label): c for c in outcomes.comparisons}
    assert {
        ("gap · none", "fcn · none"),
        ("small gap · none", "fcn-w8 · none"),
        ("fcn-w8 · none", "fcn · none"),
        ("small gap · none", "gap · none"),
        ("fcn-w8 · rotation", "fcn-w8 · none"),
        ("fcn-w8 · rotation", "fcn · none"),
    } <= set(pairs)
    beside = pairs["fcn-w8 · none", "fcn · none"]
    assert beside.loss.correlation is not None
    assert beside.exponent is not None
    assert beside.exponent.correlation is not None
    for c in outcomes.coincidences:
        assert c.first.entry.network is None
        assert c.second.entry.network is None
    assert outcomes.ok


def test_networks_have_rungs_of_their_own_in_one_group(study: Study) -> None:
    outcomes = study.outcomes()
    (group,) = groups(outcomes)
    assert [family.kernel for family in group.families] == ["ntk", "sgd", "adam"]
    said = " ".join(sentences(outcomes))
    assert "(NTK, n = 48, seed 0)" in said
    assert "fcn-w8" in said


def test_the_page_holds_both(study: Study, tmp_path: Path) -> None:
    outcomes = study.outcomes()
    files = report(outcomes, tmp_path)
    page = files[0].read_text(encoding="utf-8")
    for text in ("small gap", "fcn-w8", "48 trained networks", "networks of width 8", "torch on cpu"):
        assert text in page, text
    numbers = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [curve["kernel"] for curve in numbers["curves"]] == ["ntk", "ntk", "sgd", "adam"] * 2
    assert np.isfinite([curve["loss"] for curve in to_dict(outcomes)["curves"]]).all()
    assert any(row[0] == "fcn-w8 · none" for row in pair_table(outcomes).rows)
    assert any(name == "fcn-w8 · none" for name, _ in provenance(outcomes))
    ladder = (tmp_path / "figures" / "ladder.csv").read_text(encoding="utf-8")
    assert "none,small gap,48," in ladder


def test_a_changed_file_trains_what_is_new_alone(study: Study) -> None:
    paths = {study.label(e): study.curve_path(e) for e in study.entries}
    before = {label: path.stat().st_mtime_ns for label, path in paths.items() if path is not None}
    text = (
        BOTH.replace("small gap", "other gap").replace("width = 8", "width = 9").replace("fcn-w8", "fcn-w9")
    )
    changed = tiny(study.out.parent / "changed", text, study.out)
    plan = changed.plan(seconds=True)
    assert [task.entry.architecture.name for task in plan.untrained] == ["fcn-w9"] * 2
    assert plan.seconds is not None
    assert plan.seconds > 0
    changed.run()
    for label, path in paths.items():
        assert path is not None
        assert path.stat().st_mtime_ns == before[label]


def test_networks_without_any_kernel(tmp_path: Path) -> None:
    text = BOTH[: BOTH.index("[[architecture]]")] + BOTH[BOTH.index('[[network]]\nname = "small gap"') :]
    text = text[: text.index("[[compare]]")].replace("epochs = 5", "epochs = 1")
    path = tmp_path / "networks.toml"
    path.write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    planned = CliRunner().invoke(main, ["study", "run", str(path), "--out", str(out), "--dry-run"])
    assert "28 networks to train" in planned.output
    ran = CliRunner().invoke(main, ["study", "run", str(path), "--out", str(out)])
    assert ran.exit_code == 0, ran.output
    assert "small gap" in ran.output
    status = CliRunner().invoke(main, ["study", "status", str(path), "--out", str(out)])
    assert "everything is measured" in status.output


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('architecture = "fcn"\nwidth = 8', 'architecture = "fnc"\nwidth = 8', "architecture is 'fnc'"),
        ("width = 8", "widht = 8", "did you mean width"),
        ("width = 8", "width = 0", "width is 0"),
        ("lr = 0.01", "lr = -1", "lr is -1"),
        ("sizes = [12, 24]", "sizes = [12, 99]", "a size of 99 is beyond the 48"),
        ('name = "small gap"', 'name = "fcn"', "the name 'fcn' is taken"),
        ('preset = "gap"\ndepth = 1\nwidth', 'preset = "fcn"\nfilter = 3\nwidth', "no setting 'filter'"),
        ("[[compare]]", "[[coincide]]", "never coincide"),
    ],
)
def test_wrong_tables_are_named(old: str, new: str, said: str) -> None:
    assert old in BOTH
    with pytest.raises(KernregError, match=said):
        parse(BOTH.replace(old, new))
