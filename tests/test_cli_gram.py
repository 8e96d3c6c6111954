"""kernreg gram, info and verify: what they print, resume, extend and refuse; tiny, on the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import kernreg
from kernreg.cli.main import main
from kernreg.data import fetch

FCN = ("gram", "--arch", "fcn", "--data", "digits", "--backend", "reference")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def kernreg_says(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def kernreg_json(*arguments: object) -> Any:
    return json.loads(kernreg_says(*arguments, "--json"))


def refused(*arguments: object, status: int = 1) -> str:
    """The one line that an error is."""
    result = run(*arguments)
    assert result.exit_code == status, result.output
    lines = result.stderr.splitlines()
    assert "Traceback" not in result.output
    if status == 1:
        assert lines[-1].startswith("kernreg: error: ")
    return lines[-1]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_prints_the_plan_fills_and_goes_on() -> None:
    text = kernreg_says(*FCN, "--n", 20, "--test", 10)
    for said in (
        "fcn: dense",
        "20 train and 10 test rows of shape 8×8×1",
        "410 pairs",
        "on disk",
        "complete: ",
    ):
        assert said in text
    (path,) = Path("kernreg-out").glob("digits-fcn-ntk-*.gram")
    store = kernreg.GramStore.open(path)
    digits = kernreg.load("digits", n=20, test=10)
    expected = kernreg.gram(
        digits.x_train, None, kernreg.Architecture.fcn(), backend="reference", dtype="float32"
    )
    np.testing.assert_array_equal(store.train("ntk", dtype=np.float32), expected)
    assert store.complete
    assert "2 of the 2 tiles begun there are done" in kernreg_says(*FCN, "--n", 20, "--test", 10)


def test_larger_n_extends_the_same_store_and_keeps_its_tiles() -> None:
    kernreg_says(*FCN, "--n", 20, "--test", 10)
    (path,) = Path("kernreg-out").iterdir()
    before = {file: file.stat().st_mtime_ns for file in path.glob("tiles/*")}
    facts = kernreg_json(*FCN, "--n", 30, "--test", 15)
    assert (facts["n"], facts["t"], facts["complete"]) == (30, 15, True)
    assert facts["path"] == str(path)
    assert len(before) == 2
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_dry_run_writes_nothing() -> None:
    facts = kernreg_json(*FCN, "--n", 50, "--test", 0, "--kernel", "both", "--dry-run")
    assert facts["pairs"] == 50 * 51 // 2
    assert facts["seconds"] > 0
    assert facts["dtype"] == "float32"
    assert not Path("kernreg-out").exists()


def test_every_setting_reaches_the_store() -> None:
    settings = ("--depth", 2, "--weight-variance", 1.5, "--kernel", "both", "--dtype", "float64", "--seed", 3)
    facts = kernreg_json(*FCN, *settings, "--n", 12, "--test", 6, "--normalise", "unit", "--out", "my.gram")
    assert facts["path"] == "my.gram"
    assert facts["kernels"] == ["nngp", "ntk"]
    assert facts["dtype"] == "float64"
    assert facts["architecture"] == kernreg.Architecture.fcn(2, 1.5).to_dict()
    assert (facts["provenance"]["seed"], facts["provenance"]["normalise"]) == (3, "unit")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--n", 5000), "1797"),
        (("--n", 20, "--backend", "gpu"), "unknown backend 'gpu'"),
        (("--n", 20, "--filter", 3), "has no setting 'filter'"),
        (("--n", 20, "--activation", "swish"), "unknown activation 'swish'"),
        (("--n", 20, "--weight-variance", "nan"), "weight_variance must be a finite number"),
        (("--n", 20, "--normalise", "no"), "normalise"),
        (("--n", 20, "--memory", "1MB"), "memory"),
        (("--n", 20, "--data", "nowhere.npz"), "nowhere.npz does not exist"),
        (("--n", 20, "--data", "imagenet"), "unknown data set 'imagenet'"),
    ],
)
def test_what_a_user_can_repair_is_one_line(arguments: tuple[object, ...], said: str) -> None:
    assert said in refused(*FCN, *arguments)
    assert not Path("kernreg-out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--memory", "4GB?"), "no amount of memory"),
        (("--n", "many"), "'many' is not a valid integer"),
        (("--n", 0), "0 is not in the range"),
        (("--arch", "resnet"), "'resnet' is not one of"),
        (("--kernel", "rbf"), "'rbf' is not one of"),
        (("--threads", 0), "0 is not in the range"),
        (("--nn", 5), "No such option"),
    ],
)
def test_malformed_arguments_are_usage_errors(arguments: tuple[object, ...], said: str) -> None:
    assert said in refused(*FCN, *arguments, status=2)


def test_rows_that_are_not_finite_are_named() -> None:
    x = np.ones((20, 5, 5))
    x[7, 2, 2] = np.nan
    np.savez("holes.npz", X=x, y=np.arange(20) % 2)
    assert "row 7" in refused("gram", "--arch", "fcn", "--data", "holes.npz", "--n", 10)


def test_a_file_that_is_no_data() -> None:
    Path("text.npz").write_text("not a zip archive")
    assert "text.npz" in refused("gram", "--arch", "fcn", "--data", "text.npz")


def test_an_uncovered_layer_is_named_and_the_reference_has_it() -> None:
    layers = [{"type": "conv", "filter": [3, 3], "W_var": 2, "b_var": 0}, {"type": "act", "fn": "abs"}]
    layers += [{"type": "flatten"}, {"type": "dense", "W_var": 1, "b_var": 0}]
    Path("net.json").write_text(json.dumps({"layers": layers}))
    command = ("gram", "--architecture", "net.json", "--data", "digits", "--n", 4, "--test", 2)
    assert "abs" in refused(*command, "--backend", "cpu")
    assert kernreg_json(*command, "--backend", "reference")["complete"]
    Path("net.json").write_text("{")
    assert "net.json: not JSON" in refused(*command)


def test_other_settings_in_one_store_are_refused_by_name() -> None:
    kernreg_says(*FCN, "--n", 12, "--test", 6, "--out", "a.gram")
    assert "architecture" in refused(*FCN, "--n", 12, "--test", 6, "--out", "a.gram", "--depth", 2)
    assert "dtype" in refused(*FCN, "--n", 12, "--test", 6, "--out", "a.gram", "--dtype", "float64")
    assert "seed" in refused(*FCN, "--n", 12, "--test", 6, "--out", "a.gram", "--seed", 1)


def test_cifar10_is_announced_and_without_a_network_the_remedies_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nowhere = fetch.Remote(fetch.REMOTES["cifar10"].files, ("http://127.0.0.1:9/",))
    monkeypatch.setitem(fetch.REMOTES, "cifar10", nowhere)
    command = (
        "gram",
        "--arch",
        "fcn",
        "--n",
        20,
        "--test",
        5,
        "--data-dir",
        "data",
        "--backend",
        "reference",
    )
    result = run(*command)
    assert result.exit_code == 1
    said = result.stderr.splitlines()
    assert said[0].startswith("CIFAR-10 is not here yet: fetching it")
    assert said[-1].startswith("kernreg: error: ")
    assert "--data digits" in said[-1]
    assert "--data digits" in refused(*command, "--data", "cifar10")
    assert "random numbers of their shape" in kernreg_says(*command, "--dry-run")


def test_info_tells_text_and_json() -> None:
    kernreg_says(*FCN, "--n", 12, "--test", 6, "--out", "a.gram")
    text = kernreg_says("info", "a.gram")
    for said in (
        "fcn: dense",
        "ntk in float32 by backend reference",
        "12 train, 6 test",
        "2 of 2 done; complete",
    ):
        assert said in text
    facts = kernreg_json("info", "a.gram")
    assert (facts["n"], facts["t"], facts["tiles"], facts["tiles_done"]) == (12, 6, 2, 2)
    assert facts["provenance"]["name"] == "digits"
    assert facts["bytes"] > 4 * (12 * 12 + 6 * 12)
    next(Path("a.gram/tiles").glob("train*")).unlink()
    assert "1 of 2 done; run the same" in kernreg_says("info", "a.gram")


@pytest.mark.parametrize("command", ["info", "verify"])
def test_what_is_no_store_is_refused(command: str) -> None:
    Path("empty").mkdir()
    Path("text.gram").write_text("no store")
    for path in ("empty", "absent.gram", "text.gram"):
        assert path in refused(command, path)


def test_verify_finds_a_flipped_bit_and_gram_repairs_it() -> None:
    command = (*FCN, "--n", 12, "--test", 6, "--out", "a.gram")
    kernreg_says(*command)
    assert kernreg_says("verify", "a.gram").endswith("ok\n")
    report = kernreg_json("verify", "a.gram", "--samples", 20)
    assert report["ok"]
    assert report["entries"] >= 20
    shard = next(Path("a.gram/tiles").glob("train*"))
    damaged = bytearray(shard.read_bytes())
    value = kernreg.GramStore.open("a.gram").train("ntk", dtype=np.float32)[0, :4].tobytes()
    damaged[bytes(damaged).index(value)] ^= 1
    shard.write_bytes(damaged)
    result = run("verify", "a.gram", "--samples", 0)
    assert result.exit_code == 1
    assert shard.name in result.stdout
    assert result.stdout.endswith("NOT ok\n")
    assert run("verify", "a.gram", "--drop").exit_code == 1
    kernreg_says(*command)
    assert kernreg_says("verify", "a.gram").endswith("ok\n")
