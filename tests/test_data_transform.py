"""Transformed data: loaded, loaded again, stored, extended and verified with their transform."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kernreg
from kernreg.cli.main import main
from kernreg.data import differences, load, reload
from kernreg.errors import KernregError
from kernreg.symmetry import TRANSFORMS, transform

GRAM = ("gram", "--arch", "fcn", "--depth", "1", "--data", "digits", "--backend", "reference")
ROTATED = (*GRAM, "--transform", "rotation", "--transform-seed", "3")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def says(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object, status: int = 1) -> str:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_train_and_test_are_transformed_alike_and_loaded_again(name: str) -> None:
    patch = 4 if name == "patch-rotation" else None
    plain = load("digits", n=12, test=5)
    moved = load("digits", n=12, test=5, transform=name, transform_seed=2, patch=patch)
    τ = transform(name, 2, (8, 8, 1), patch)
    np.testing.assert_array_equal(moved.x_train, τ.apply(plain.x_train))
    np.testing.assert_array_equal(moved.x_test, τ.apply(plain.x_test))
    np.testing.assert_array_equal(moved.y_train, plain.y_train)
    assert moved.x_train.dtype == plain.x_train.dtype
    assert moved.provenance["transform"]["name"] == name
    assert differences(plain.provenance, moved.provenance) == ["transform"]
    again = reload(json.loads(json.dumps(moved.provenance)))
    np.testing.assert_array_equal(again.x_train, moved.x_train)
    assert again.provenance == moved.provenance


def test_without_a_transform_nothing_changes() -> None:
    assert (
        load("digits", n=3, test=1, transform="none", transform_seed=9).provenance
        == load("digits", n=3, test=1).provenance
    )


def test_rows_stay_nested_and_real_targets_have_transforms_too() -> None:
    small, large = (load("synthetic", n=n, test=4, dimension=50, transform="rotation") for n in (5, 40))
    np.testing.assert_array_equal(large.x_train[:5], small.x_train)
    first = large.first(5)
    assert first.provenance["transform"] == small.provenance["transform"]
    with pytest.raises(KernregError, match="have had a rotation"):
        small.transformed("mirror")
    with pytest.raises(KernregError, match="needs images"):
        load("synthetic", n=5, test=4, dimension=50, transform="pixel-rotations")
    with pytest.raises(KernregError, match="unknown transform 'turn'"):
        load("digits", n=5, test=4, transform="turn")


def test_another_element_under_the_same_seed_is_refused() -> None:
    provenance = load("digits", n=3, test=1, transform="rotation").provenance
    made = {**provenance["transform"], "hash": "0" * 32}
    with pytest.raises(KernregError, match="the rotation of seed 0 is another one here"):
        reload({**provenance, "transform": made})


def test_the_fcn_kernel_does_not_feel_a_rotation_and_vec_does() -> None:
    plain, moved = (
        load("digits", n=10, test=0, dtype="float64", transform=name) for name in ("none", "rotation")
    )
    for arch, close in ((kernreg.Architecture.fcn(), True), (kernreg.Architecture.vec(2), False)):
        K, K_moved = (kernreg.gram(d.x_train, None, arch, backend="reference") for d in (plain, moved))
        assert np.allclose(K, K_moved, rtol=1e-10) == close


def test_a_store_is_named_shown_extended_and_verified_with_its_transform() -> None:
    text = says(*ROTATED, "--n", 12, "--test", 6)
    assert "transform: rotation, seed 3" in text
    (path,) = Path("kernreg-out").glob("digits-rotation-fcn-ntk-*.gram")
    assert "transform     rotation, seed 3" in says("info", path)
    assert says("verify", path).endswith("ok\n")
    facts = json.loads(says(*ROTATED, "--n", 20, "--test", 7, "--json"))
    assert (facts["n"], facts["t"], facts["complete"], facts["path"]) == (20, 7, True, str(path))
    assert facts["provenance"]["transform"]["name"] == "rotation"
    assert says("verify", path).endswith("ok\n")
    says(*GRAM, "--n", 12, "--test", 6)
    says(*GRAM, "--n", 12, "--test", 6, "--transform", "rotation", "--transform-seed", 4)
    says(*GRAM, "--n", 12, "--test", 6, "--transform", "patch-rotation", "--patch", "2x4")
    names = sorted(store.name[:20] for store in Path("kernreg-out").iterdir())
    assert len(names) == len({store.name for store in Path("kernreg-out").iterdir()}) == 4
    assert names[0].startswith("digits-fcn-ntk")


def test_numbers_of_a_plain_gram_do_not_verify_as_those_of_a_rotated_one() -> None:
    says(*GRAM, "--n", 8, "--test", 4, "--out", "a.gram")
    assert "another provenance.transform: stored None" in refused(
        *ROTATED, "--n", 8, "--test", 4, "--out", "a.gram"
    )
    says(*ROTATED, "--n", 8, "--test", 4, "--out", "b.gram")
    assert "provenance.transform" in refused(*GRAM, "--n", 8, "--test", 4, "--out", "b.gram")
    other = (
        *GRAM,
        "--transform",
        "rotation",
        "--transform-seed",
        4,
        "--n",
        8,
        "--test",
        4,
        "--out",
        "b.gram",
    )
    assert "provenance.transform" in refused(*other)


@pytest.mark.parametrize(
    ("arguments", "said", "status"),
    [
        (("--transform", "spin"), "'spin' is not one of", 2),
        (("--transform-seed", "-1"), "-1 is not in the range", 2),
        (("--transform", "patch-rotation"), "needs the size of a patch", 1),
        (("--transform", "patch-rotation", "--patch", "3"), "do not tile a grid of 8×8", 1),
        (("--transform", "rotation", "--patch", "4"), "a patch belongs to patch-rotation", 1),
        (("--setting", "width"), "'width' is not a setting", 2),
        (("--setting", "n=3"), "n has an option of its own", 2),
        (("--setting", "width=3"), "generated data sets alone have settings", 1),
    ],
)
def test_refusals(arguments: tuple[str, ...], said: str, status: int) -> None:
    assert said in refused(*GRAM, "--n", 8, "--test", 4, *arguments, status=status)
    assert not Path("kernreg-out").exists()


def test_settings_reach_a_generated_data_set() -> None:
    command: tuple[Any, ...] = (
        "gram",
        "--arch",
        "fcn",
        "--depth",
        1,
        "--backend",
        "reference",
        "--n",
        8,
        "--test",
        4,
    )
    settings = ("--setting", "dimension=12", "--setting", "degrees=[1, 2]", "--setting", "cyclic=true")
    facts = json.loads(says(*command, "--data", "sphere", *settings, "--json"))
    assert facts["input_shape"] == [12]
    assert facts["provenance"]["degrees"] == [1, 2]
    assert facts["provenance"]["cyclic"] is True
    assert says("verify", facts["path"]).endswith("ok\n")


def test_curves_of_the_same_kernel_on_plain_and_rotated_data_are_told_apart_and_equal() -> None:
    for command in (GRAM, ROTATED):
        says(*command, "--n", 40, "--test", 20, "--dtype", "float64")
    shown = json.loads(says("fit", "--no-exponent", "--json"))["results"]
    assert sorted(result["label"] for result in shown) == ["fcn", "fcn rotation"]
    one, other = (result["loss"] for result in shown)
    assert one == pytest.approx(other, rel=1e-6)


def test_rows_of_a_store_can_be_float64() -> None:
    facts = json.loads(says(*ROTATED, "--n", 8, "--test", 4, "--setting", "dtype=float64", "--json"))
    assert facts["provenance"]["dtype"] == "float64"
    assert says("verify", facts["path"]).endswith("ok\n")
