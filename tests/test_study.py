"""Studies: what is computed, what is shared, what survives a kill, and what is refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from studies import TINY, tiny

from kernreg.architecture import Architecture
from kernreg.curve import learning_curve
from kernreg.curvefile import load
from kernreg.data import load as load_data
from kernreg.durable import Lock
from kernreg.errors import KernregError
from kernreg.gram import gram
from kernreg.study import Study


def states(study: Study) -> set[str]:
    return {task.state for task in study.plan(seconds=False).tasks}


def stamps(folder: Path) -> dict[Path, int]:
    """Every file of stores and curves, and when it was written."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = tiny(tmp_path_factory.mktemp("done"))
    assert states(study) == {"absent"}
    study.run()
    return study


def test_a_study_measures_what_the_library_measures(done: Study) -> None:
    outcomes = done.outcomes()
    assert not outcomes.absent
    assert len(outcomes.measured) == 4 * 3
    rows = load_data(
        "synthetic-images", 48, 40, dtype="float64", size=4, channels=2, classes=3, signal=0.5
    ).transformed("rotation", 0)
    architecture = Architecture.gap(depth=1)
    K, K_test = (gram(x, rows.x_train, architecture) for x in (rows.x_train, rows.x_test))
    curve = learning_curve((K + K.T) / 2, rows.y_train, K_test, rows.y_test, ridge=1e-3)
    (outcome,) = (o for o in outcomes.measured if o.label == "gap · rotation")
    np.testing.assert_allclose(outcome.curve.loss, curve.loss, rtol=1e-6)
    assert outcome.curve.gcv is not None
    assert curve.gcv is not None
    np.testing.assert_allclose(outcome.curve.gcv, curve.gcv, rtol=1e-6)
    assert outcome.spectrum is not None
    assert outcome.spectrum.rows == 48


def test_the_pairs_that_theory_calls_one_are_one(done: Study) -> None:
    outcomes = done.outcomes()
    pairs = {(c.first.label, c.second.label) for c in outcomes.coincidences}
    mirrored = {(f"{a} · mirror", f"{a} · none") for a in ("fcn", "lcn", "vec", "gap")}
    same = {(f"vec · {t}", f"lcn · {t}") for t in ("none", "rotation", "mirror")}
    assert pairs == mirrored | same | {("fcn · rotation", "fcn · none")}
    assert outcomes.ok
    assert max(c.gap for c in outcomes.coincidences) < 1e-6


def test_what_is_done_is_not_done_again(done: Study) -> None:
    before = stamps(done.out)
    plan = done.plan()
    assert not plan.waiting
    assert plan.seconds == 0
    done.run()
    assert {p: t for p, t in stamps(done.out).items() if p.name != "study.toml"} == {
        p: t for p, t in before.items() if p.name != "study.toml"
    }


def test_another_study_shares_grams_and_curves(done: Study, tmp_path: Path) -> None:
    text = TINY.replace('"tiny"', '"other"').replace(', "rotation", "mirror"', "")
    text = text.replace('preset = "gap"', 'name = "pool"\npreset = "gap"')
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    other = tiny(tmp_path, text, out)
    assert states(other) == {"complete"}
    assert not other.plan(seconds=False).waiting
    # a ridge of its own makes new curves on the same Grams, a smaller n too
    changed = tiny(
        tmp_path, text.replace("ridge = 1e-3", "ridge = 1e-2").replace("n = 48", "n = [16, 48]"), out
    )
    plan = changed.plan(seconds=False)
    assert len(plan.waiting) == 4
    assert plan.total("missing") == 0
    before = stamps(out / "grams")
    changed.run()
    assert stamps(out / "grams") == before
    assert [len(o.curve.loss) for o in changed.outcomes().measured[:2]] == [16, 48]


def test_a_changed_file_computes_only_what_is_new(done: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    more = tiny(tmp_path, TINY.replace("n = 48", "n = 56").replace('"mirror"', '"shift"'), out)
    plan = more.plan(seconds=False)
    by_state = {task.state for task in plan.tasks}
    assert by_state == {"begun", "absent"}  # two transforms grow, one is new
    fresh = 48 * 49 // 2 + 48 * 40
    grown = [task for task in plan.tasks if task.state == "begun"]
    assert {task.missing for task in grown} == {56 * 57 // 2 + 56 * 40 - fresh}
    before = stamps(out / "curves")
    more.run()
    assert before.items() <= stamps(out / "curves").items()
    assert not more.plan(seconds=False).waiting
    assert len(more.outcomes().measured[0].curve.loss) == 56


def test_both_kernels_come_from_one_store(tmp_path: Path) -> None:
    text = TINY.replace('"ntk"', '"nngp", "ntk"').replace(', "rotation", "mirror"', "")
    both = tiny(tmp_path, text)
    both.run()
    assert len(list((both.out / "grams").iterdir())) == 4
    one = tiny(tmp_path, text.replace('"nngp", ', ""))
    assert not one.plan(seconds=False).waiting


def test_a_gram_without_waiting_curves_may_go(done: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    shutil.rmtree(out / "grams")
    study = tiny(tmp_path, out=out)
    assert states(study) == {"absent"}
    assert not study.plan(seconds=False).waiting
    study.run()
    assert not list((out / "grams").iterdir())
    assert study.outcomes().ok


def test_a_damaged_curve_is_measured_again(done: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    study = tiny(tmp_path, out=out)
    path = study.curve_path(study.entries[0])
    assert path is not None
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(KernregError, match="is damaged"):
        study.outcomes()
    study.run()
    np.testing.assert_array_equal(
        load(path).curve.loss, load(done.curve_path(done.entries[0]) or path).curve.loss
    )


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_cut_curve_is_an_error_of_one_line(done: Study, tmp_path: Path, size: int) -> None:
    source = done.curve_path(done.entries[0])
    assert source is not None
    path = tmp_path / "cut.npz"
    path.write_bytes(source.read_bytes()[:size])
    with pytest.raises(KernregError, match="is damaged") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(KernregError, match="there is no curve"):
        load(tmp_path / "absent.npz")


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    with pytest.raises(KernregError, match="none of the 12 curves of tiny"):
        tiny(tmp_path).outcomes()


def test_what_is_missing_is_listed(done: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    study = tiny(tmp_path, out=out)
    path = study.curve_path(study.entries[-1])
    assert path is not None
    path.unlink()
    outcomes = study.outcomes()
    assert outcomes.absent == ("gap · mirror",)
    assert not outcomes.ok


def test_a_coincidence_that_does_not_hold_fails(done: Study) -> None:
    text = TINY + '[[coincide]]\nfirst = {architecture = "fcn"}\nsecond = {architecture = "gap"}\n'
    study = tiny(done.out.parent / "red", text, done.out)
    outcomes = study.outcomes()
    assert not outcomes.ok
    assert {(c.first.label, c.second.label) for c in outcomes.failures} == {
        (f"fcn · {t}", f"gap · {t}") for t in ("none", "rotation", "mirror")
    }


def test_comparisons_are_the_ladder_and_what_the_file_asks_for(done: Study) -> None:
    outcomes = done.outcomes()
    assert len(outcomes.comparisons) == 3 * 3 + 2 * 4
    quiet = TINY.replace("kernels", "ladder = false\ntheory = false\nkernels")
    compare = '[[compare]]\nfirst = {architecture = "gap"}\nsecond = {architecture = "fcn"}\n'
    few = tiny(done.out.parent / "few", quiet + compare, done.out).outcomes()
    assert [(c.first.label, c.second.label) for c in few.comparisons] == [
        (f"gap · {t}", f"fcn · {t}") for t in ("none", "rotation", "mirror")
    ]
    assert not few.coincidences
    assert few.ok


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    study = tiny(tmp_path)
    study.folder.mkdir(parents=True)
    lock = Lock(study.folder)
    with pytest.raises(KernregError, match="is being written by process"):
        study.run()
    lock.release()


def test_too_many_rows_and_too_little_memory_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    digits = TINY.replace("synthetic-images", "digits").replace(
        "settings = { size = 4, channels = 2, classes = 3, signal = 0.5 }", ""
    )
    with pytest.raises(KernregError, match="has 1797 rows"):
        tiny(tmp_path, digits.replace("n = 48", "n = 1790")).run()
    with pytest.raises(KernregError, match="of memory and 1 MiB are allowed"):
        tiny(tmp_path).run(memory="1MiB")
    with pytest.raises(KernregError, match="patches of 3×3 pixels do not tile"):
        tiny(
            tmp_path, TINY.replace('"mirror"', '"patch-rotation"').replace("[data]", "patch = 3\n[data]")
        ).run()
    assert not (tmp_path / "out" / "curves").exists()


def test_data_that_are_not_here_can_be_planned_but_not_run(tmp_path: Path) -> None:
    text = TINY.replace("synthetic-images", "mnist").replace(
        "settings = { size = 4, channels = 2, classes = 3, signal = 0.5 }", ""
    )
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    study = Study.read(path, tmp_path / "out", tmp_path)
    plan = study.plan(seconds=False)
    assert plan.stand_in
    assert plan.tasks[0].shape == (28, 28, 1)
    assert plan.total("missing") == 12 * (48 * 49 // 2 + 48 * 40)
    with pytest.raises(KernregError, match="mnist"):
        study.run()


def test_a_gram_that_is_not_positive_definite_names_its_entry(tmp_path: Path) -> None:
    flat = TINY.replace("ridge = 1e-3", "ridge = 0.0").replace(
        "size = 4, channels = 2", "size = 2, channels = 1"
    )
    linear = flat.replace('preset = "fcn"\ndepth = 1', 'preset = "fcn"\ndepth = 0\nbias_variance = 0.0')
    with pytest.raises(KernregError, match=r"^fcn · none: .*positive"):
        tiny(tmp_path, linear).run()


def test_a_curve_beyond_memory_is_the_one_in_memory(
    done: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernreg.placement.PROCESS_BYTES", 1 << 60)
    study = tiny(tmp_path, TINY.replace(', "rotation", "mirror"', ""))
    study.run()
    for mine, other in zip(study.outcomes().measured, done.outcomes().measured, strict=False):
        np.testing.assert_allclose(mine.curve.loss, other.curve.loss, rtol=1e-9)
        assert mine.about["train_checksum"].startswith("of tiles ")
    fewer = tiny(tmp_path, TINY.replace(', "rotation", "mirror"', "").replace("test = 40", "test = 30"))
    with pytest.raises(KernregError, match="holds 40 test rows"):
        fewer.run()


KILLED = """
[study]
name = "killed"
backend = "reference"
transforms = ["none", "mirror"]
[data]
name = "digits"
n = 24
test = 12
[[architecture]]
preset = "fcn"
[[architecture]]
preset = "vec"
depth = 1
"""


def process(path: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "KERNREG_THREADS": "1"}
    command = [sys.executable, "-m", "kernreg", "study", "run", str(path), "--out", str(out)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_killed_study_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    path = tmp_path / "killed.toml"
    path.write_text(KILLED, encoding="utf-8")
    whole = Study.read(path, tmp_path / "whole")
    whole.run()
    out, rng, kills = tmp_path / "out", random.Random(1), 0
    for files in (1, 3):  # killed once so many curves are there
        child = process(path, out)
        deadline = time.monotonic() + 120
        while len(list(out.glob("curves/*.npz"))) < files and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    assert kills >= 1
    study = Study.read(path, out)
    kept = stamps(out / "curves")
    assert kept
    study.run()
    assert {p: t for p, t in stamps(out / "curves").items() if p in kept} == kept
    for mine, other in zip(study.outcomes().measured, whole.outcomes().measured, strict=True):
        np.testing.assert_array_equal(mine.curve.loss, other.curve.loss)
        assert mine.about["train_checksum"] == other.about["train_checksum"]


def test_the_plan_is_json(done: Study) -> None:
    facts = json.loads(json.dumps(done.plan(seconds=False).to_dict(), allow_nan=False))
    assert len(facts["grams"]) == 12
    assert facts["pairs"] == 0
