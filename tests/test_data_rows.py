"""Which rows a load takes, in which order, and how they are scaled."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernreg.data import Dataset, differences, identity, load, one_hot, reload
from kernreg.data.normalise import scale, statistics
from kernreg.data.subsample import row_order
from kernreg.errors import KernregError


def test_digits_use_every_image_once_by_default() -> None:
    data = load("digits")
    assert (data.n, data.t, data.shape) == (1437, 360, (8, 8, 1))
    assert sorted([*data.rows_train, *data.rows_test]) == list(range(1797))
    assert data.x_train.dtype == np.float32
    assert data.y_train.dtype == np.float64


def test_digits_are_the_images_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = load("digits", n=50, test=20, normalise="none", dtype="float64", seed=3)
    np.testing.assert_array_equal(data.x_train[..., 0], bunch["images"][data.rows_train])
    np.testing.assert_array_equal(data.labels_test, bunch["target"][data.rows_test])
    unit = load("digits", n=50, test=20, normalise="unit", dtype="float64", seed=3)
    np.testing.assert_array_equal(unit.x_train * 16, data.x_train)


@pytest.mark.parametrize("balanced", [True, False])
def test_smaller_loads_are_prefixes_of_larger_ones(balanced: bool) -> None:
    large = load("digits", n=900, test=300, seed=7, balanced=balanced)
    for n, test in ((1, 0), (10, 1), (137, 300), (900, 7)):
        small = load("digits", n=n, test=test, seed=7, balanced=balanced)
        first = large.first(n, test)
        assert small.provenance == first.provenance
        for field in ("x_train", "y_train", "labels_train", "rows_train", "x_test", "y_test", "rows_test"):
            np.testing.assert_array_equal(getattr(small, field), getattr(first, field))
    assert not set(large.rows_train) & set(large.rows_test)
    assert identity(small.provenance) == identity(large.provenance)


def test_seeds_and_order_rules_differ() -> None:
    rows = [
        load("digits", n=100, test=0, seed=seed, balanced=balanced).rows_train.tolist()
        for seed in (0, 1)
        for balanced in (True, False)
    ]
    assert len({tuple(r) for r in rows}) == 4


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=7),
    seed=st.integers(0, 2**64 - 1),
    cut=st.floats(0, 1),
)
def test_every_prefix_and_suffix_has_the_class_mix_of_the_whole(
    counts: list[int], seed: int, cut: float
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = row_order(len(labels), seed, labels=labels)
    assert sorted(order) == list(range(len(labels)))
    m = round(cut * len(labels))
    quota = m * np.array(counts) / len(labels)
    held = np.bincount(labels[order[:m]], minlength=len(counts))
    assert np.abs(held - quota).max() < 2
    if len(set(counts)) == 1:
        assert held.max() - held.min() <= 1


def test_rows_of_a_class_come_in_random_order_and_ties_are_broken_at_random() -> None:
    labels = np.repeat(np.arange(4), 250)
    order = row_order(1000, 0, labels=labels)
    for c in range(4):
        assert abs(np.corrcoef(np.arange(250), order[labels[order] == c])[0, 1]) < 0.2
    rounds = labels[order].reshape(250, 4)
    assert (np.sort(rounds, axis=1) == np.arange(4)).all()
    np.testing.assert_allclose([(rounds[:, 0] == c).mean() for c in range(4)], 0.25, atol=0.1)


def test_the_order_never_changes_between_versions() -> None:
    # Written down once; a change here would break every stored Gram.
    assert row_order(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert row_order(8, 3, labels=np.array([0, 1] * 4)).tolist() == [7, 0, 4, 1, 5, 6, 3, 2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"n": 1797}, "leaves none to test on"),
        ({"n": 1798, "test": 0}, r"n \+ test share them: n=1798 and test=0 need 1798; use n of at most 1797"),
        ({"n": 1700, "test": 98}, "n of at most 1699"),
        ({"n": 2000}, "has 1797 rows"),
        ({"test": 1797}, "has 1797 rows"),
        ({"n": 0}, "n is 0"),
        ({"n": 10.0}, "must be an integer"),
        ({"n": True}, "must be an integer"),
        ({"test": -1}, "test is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"normalise": "zca"}, "use one of standard, per-image, unit, none"),
        ({"dtype": "float16"}, "use one of float32, float64"),
        ({"size": 3}, "no setting size"),
    ],
)
def test_impossible_requests_are_refused_by_name(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(KernregError, match=reason):
        load("digits", **arguments)


def test_all_rows_can_be_train_rows_when_no_test_rows_are_wanted() -> None:
    data = load("digits", n=1797, test=0)
    assert (data.n, data.t, data.y_test.shape) == (1797, 0, (0, 10))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(KernregError, match=r"unknown data set 'cifar'.*digits, cifar10, cifar100, mnist"):
        load("cifar")


def test_targets_are_one_hot_minus_the_mean() -> None:
    y = one_hot(np.array([2, 0]), 4)
    np.testing.assert_array_equal(y, [[-0.25, -0.25, 0.75, -0.25], [0.75, -0.25, -0.25, -0.25]])
    data = load("digits", n=30, test=10)
    np.testing.assert_allclose(data.y_train.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_array_equal(data.y_train.argmax(axis=1), data.labels_train)


def test_standard_scaling_uses_the_whole_pool_whatever_n_is() -> None:
    everything = load("digits", n=1797, test=0, dtype="float64")
    assert abs(everything.x_train.mean()) < 1e-12
    assert abs(everything.x_train.std() - 1) < 1e-12
    few = load("digits", n=5, test=5, dtype="float64")
    np.testing.assert_array_equal(few.x_train, everything.x_train[:5])
    assert few.provenance["mean"] == everything.provenance["mean"]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "int32"])
@pytest.mark.parametrize("shape", [(7, 5, 4, 3), (1, 2, 2, 1), (11, 6)])
def test_statistics_are_those_of_numpy(dtype: str, shape: tuple[int, ...]) -> None:
    x = np.random.Generator(np.random.PCG64(0)).integers(0, 200, shape).astype(dtype)
    mean, std = statistics(x)
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(mean, x.mean(axis=axes, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(std, x.astype(np.float64).std(axis=axes), rtol=1e-13, atol=1e-13)


def test_constant_channels_and_images_become_zero_and_nothing_becomes_nan() -> None:
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((6, 3, 3, 2))
    x[..., 1] = 0.1
    x[2] = 0.1
    rows = np.arange(6)
    standard = scale(x, rows, "standard", "float64", *statistics(x))
    np.testing.assert_allclose(standard[..., 1], 0, atol=1e-30)
    per_image = scale(x, rows, "per-image", "float64")
    np.testing.assert_array_equal(per_image[2], 0)
    others = per_image[[0, 1, 3, 4, 5]]
    np.testing.assert_allclose(others.mean(axis=(1, 2, 3)), 0, atol=1e-15)
    np.testing.assert_allclose(others.std(axis=(1, 2, 3)), 1, rtol=1e-14)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {norm: load("digits", normalise=norm) for norm in ("standard", "per-image", "unit")}
    monkeypatch.setattr("kernreg.data.normalise.VALUES_AT_ONCE", 200)
    for norm, data in whole.items():
        np.testing.assert_array_equal(load("digits", normalise=norm).x_train, data.x_train)


def test_a_provenance_loads_the_same_rows_again() -> None:
    data = load("digits", n=77, test=33, seed=5, balanced=False, normalise="per-image", dtype="float64")
    again = reload(json.loads(json.dumps(data.provenance)))
    np.testing.assert_array_equal(again.x_train, data.x_train)
    np.testing.assert_array_equal(again.rows_test, data.rows_test)
    assert again.provenance == data.provenance
    changed = {**data.provenance, "hashes": {"digits": "0" * 64}}
    with pytest.raises(KernregError, match="content of digits is not what it was"):
        reload(changed)
    with pytest.raises(KernregError, match="digits loads differently now: row_order changed"):
        reload({**data.provenance, "row_order": "another"})
    with pytest.raises(KernregError, match="lacks n, seed"):
        reload({"name": "digits", "test": 3, "dtype": "float32"})


def test_differences_name_the_fields() -> None:
    a, b = load("digits", n=5).provenance, load("digits", n=9, test=3, seed=1, normalise="unit").provenance
    assert differences(a, b) == ["mean", "normalise", "seed", "std"]


def parts(**changes: Any) -> dict[str, Any]:
    data = load("digits", n=6, test=4)
    return {**data.__dict__, **changes}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x_train": np.zeros((0, 8, 8, 1), np.float32)}, "no train rows"),
        ({"x_train": np.zeros((6, 8, 8), np.float32)}, r"must be \(n, H, W, C\) or \(n, d\)"),
        ({"x_train": np.zeros((6, 0), np.float32)}, r"must be \(n, H, W, C\) or \(n, d\)"),
        ({"x_test": np.zeros((4, 8, 7, 1), np.float32)}, "differ from"),
        ({"x_test": np.zeros((4, 8, 8, 1))}, "differ from"),
        ({"x_train": np.zeros((6, 8, 8, 1), int), "x_test": np.zeros((4, 8, 8, 1), int)}, "use float32"),
        ({"y_train": np.zeros(6)}, r"must be \(n, c\)"),
        ({"y_train": np.zeros((5, 10))}, r"it must be float64 \(6, 10\)"),
        ({"y_test": np.zeros((4, 9))}, r"it must be float64 \(4, 10\)"),
        ({"y_test": np.zeros((4, 10), np.float32)}, "must be float64"),
        ({"rows_train": np.zeros(5, np.int64)}, "rows_train must be int64"),
        ({"labels_test": np.zeros(4)}, "labels_test must be int64"),
        ({"labels_test": np.full(4, 10)}, r"labels_test must lie in 0\.\.9"),
        ({"labels_test": None}, "both splits or for neither"),
        ({"x_train": np.zeros((6, 8, 8, 1), np.float32, order="F")}, "C-contiguous"),
        ({"x_train": np.full((6, 8, 8, 1), np.nan, np.float32)}, "x_train: row 0 holds NaN or infinity"),
        ({"y_test": np.array([[0.0] * 10] * 3 + [[np.inf] * 10])}, "y_test: row 3 holds NaN or infinity"),
        ({"provenance": {"hash": b"bytes"}}, "provenance is not JSON"),
        ({"provenance": {"mean": float("nan")}}, "provenance is not JSON"),
    ],
)
def test_a_dataset_is_checked_when_it_is_made(changes: dict[str, Any], reason: str) -> None:
    Dataset(**parts())
    with pytest.raises(KernregError, match=reason):
        Dataset(**parts(**changes))


def test_first_refuses_more_rows_than_there_are() -> None:
    data = load("digits", n=6, test=4)
    with pytest.raises(KernregError, match=r"7 \+ 4 rows asked, 6 \+ 4 are loaded"):
        data.first(7)
