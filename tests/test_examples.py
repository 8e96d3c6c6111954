"""The examples: their ingredients against other definitions, and a small part of each table."""

import importlib.util
import json
from math import pi
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import eval_gegenbauer, roots_gegenbauer

from kernreg.descents import harmonics

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


precise = load("precise_learning_curves")
cyclic = load("cyclic_invariance")
eigen = load("eigenspaces")


def test_theory_gives_the_published_numbers() -> None:
    for m, published in precise.PUBLISHED.items():
        assert precise.theory(m) == pytest.approx(published, abs=1.1e-4)


def test_the_integrals_of_the_theory_have_the_closed_forms_it_uses() -> None:
    b, c = 0.37, 1.9
    numerical = quad(lambda u: np.sqrt(u * (1 - u)) / ((u + b) * (u + c)), 0, 1)[0]
    closed = pi * (-1 + (1 + b + c) / (np.sqrt(b + b * b) + np.sqrt(c + c * c)))
    assert closed == pytest.approx(numerical, rel=1e-8)
    numerical = quad(lambda u: np.sqrt(u * (1 - u)) / ((u + b) ** 2 * (u + c)), 0, 1)[0]
    root = 2 * np.sqrt(b * c * (1 + b + c + b * c))
    assert pi / (2 * np.sqrt(b * b + b) * (b + c + 2 * b * c + root)) == pytest.approx(numerical, rel=1e-8)


def test_the_kernel_has_the_stated_energy_in_each_degree() -> None:
    half = (precise.D - 2) / 2
    t, weight = roots_gegenbauer(20, half)
    for k in precise.KERNEL_DEGREES:
        P = eval_gegenbauer(k, half, t) / eval_gegenbauer(k, half, 1.0)
        norm = weight @ P**2
        assert weight @ (precise.kernel(t) * P) / norm == pytest.approx(precise.eigenvalue(k), rel=1e-6)
        if k:
            assert weight.sum() / norm == pytest.approx(harmonics(precise.D, k), rel=1e-8)


def test_the_labels_have_the_stated_energy() -> None:
    x = precise.sphere(np.random.default_rng(0), 20000)
    np.testing.assert_allclose(np.square(x).sum(axis=1), precise.D)
    total = sum(precise.energy(k) for k in precise.LABEL_DEGREES)
    assert np.mean(precise.label(x) ** 2) == pytest.approx(total, rel=0.1)
    assert np.mean(precise.label(x)) == pytest.approx(0, abs=0.05)


def test_a_small_part_of_the_precise_table() -> None:
    samples = [60, 150]
    measured = np.array([precise.repeat(seed, samples, tests=500) for seed in range(4)])
    for m, mu, sigma in zip(samples, measured.mean(axis=0), measured.std(axis=0, ddof=1), strict=True):
        assert abs(mu - precise.PUBLISHED[m]) < precise.BAND * sigma


def test_the_averaged_kernel_is_symmetric_and_invariant() -> None:
    x = cyclic.sphere(np.random.default_rng(1), 7)
    K = cyclic.averaged(x, None, "reference")
    np.testing.assert_array_equal(K, K.T)
    np.testing.assert_allclose(cyclic.averaged(x, x, "reference"), K, rtol=1e-12)
    np.testing.assert_allclose(cyclic.averaged(np.roll(x, 11, axis=1), x, "reference"), K, rtol=1e-12)
    np.testing.assert_allclose(cyclic.targets(np.roll(x, 11, axis=1)), cyclic.targets(x), atol=1e-12)
    assert not np.allclose(
        cyclic.plain(np.roll(x, 11, axis=1), x, "reference"), cyclic.plain(x, x, "reference")
    )


def test_a_small_part_of_the_cyclic_table() -> None:
    measured = np.array([cyclic.repeat(seed, [30], "cpu", tests=100) for seed in range(3)])[..., 0]
    assert measured.shape == (3, 2, 3)
    mean, deviation = measured.mean(axis=0), measured.std(axis=0, ddof=1)
    published = np.reshape([row[1] for row in cyclic.PUBLISHED.values()], (2, 3))
    assert (np.abs(mean - published) < 3 * deviation + cyclic.ROUNDING).all()
    assert mean[1, 0] < mean[0, 0] / 20
    assert mean[1, 1] < mean[0, 1]


@pytest.mark.parametrize(("published", "code"), [(0.4199, 0), (0.9, 1)])
def test_the_exit_status_says_whether_the_table_came_out(
    published: float,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(precise, "PUBLISHED", {60: published})
    assert precise.main(["--quick", "--out", str(tmp_path / "table.json")]) == code
    assert f"{code} of 1 outside" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))["table"]
    assert row["published"] == published
    assert row["theory"] == pytest.approx(0.4199, abs=1e-4)


def test_half_way_is_where_a_curve_stays_below_one_half() -> None:
    assert eigen.half_way(np.array([0.9, 0.4, 0.6, 0.4, 0.3])) == 4
    assert eigen.half_way(np.array([0.4, 0.3])) == 1
    assert eigen.half_way(np.array([0.4, 0.6])) is None


def test_eigenspaces_predicts_what_is_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--p", "3", "--scale", "1.25", "--tests", "200"]
    assert eigen.main([*arguments, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "0 of 24 targets learned or not against the prediction" in said
    facts = json.loads((tmp_path / "eigenspaces.json").read_text(encoding="utf-8"))
    assert (facts["d"], facts["n"], len(facts["table"])) == (81, 243, 24)
    indices = {(row["network"], row["target"]): row["learning_index"] for row in facts["table"]}
    assert indices["MLP", "Y2"] == 2
    assert indices["HR-CNN", "Y2"] == pytest.approx(1.25)
    losses = {(row["network"], row["target"]): row["loss"][-1] for row in facts["table"]}
    assert losses["HR-CNN", "Y2"] < losses["D-CNN", "Y2"] < losses["MLP", "Y2"]
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"eigenspaces{suffix}").stat().st_size > 10_000


def test_eigenspaces_fails_where_a_prediction_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names, losses = ["Y1", "Y4"], {"MLP": np.array([[1.0] * 20, [1.0] * 10 + [0.3] * 10])}
    monkeypatch.setattr(eigen, "measure", lambda *arguments: (names, losses))
    monkeypatch.setattr(eigen, "predict", lambda *arguments: {"MLP": {"Y1": 0.3, "Y4": 3.0}})
    assert eigen.main(["--p", "3", "--scale", "0.682"]) == 1
    assert "2 of 2 targets learned or not against" in capsys.readouterr().out
