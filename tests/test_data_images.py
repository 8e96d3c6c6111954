"""synthetic-images: nested, deterministic, with the spectrum and the classes it promises."""

import json
from typing import Any

import numpy as np
import pytest

from kernreg.data import load, reload
from kernreg.data.images import CHANNEL_CORRELATION
from kernreg.errors import KernregError


def test_rows_are_nested_across_blocks_and_test_rows_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    large = load("synthetic-images", n=70, test=40, size=6, seed=9)
    monkeypatch.setattr("kernreg.data.images.ROWS_AT_ONCE", 7)
    small = load("synthetic-images", n=17, test=13, size=6, seed=9)
    np.testing.assert_array_equal(small.x_train, large.x_train[:17])
    np.testing.assert_array_equal(small.x_test, large.x_test[:13])
    np.testing.assert_array_equal(small.labels_train, large.first(17).labels_train)
    every = np.concatenate([large.x_train, large.x_test]).reshape(110, -1)
    assert len(np.unique(every, axis=0)) == 110
    other = load("synthetic-images", n=17, test=13, size=6, seed=10)
    assert not np.array_equal(other.x_train, small.x_train)


def test_a_provenance_makes_the_same_rows_again() -> None:
    data = load(
        "synthetic-images", n=9, test=4, seed=2, size=5, channels=2, classes=3, spectrum=1.5, signal=0.4,
        shift=1, balanced=False, normalise="per-image", dtype="float64",
    )  # fmt: skip
    again = reload(json.loads(json.dumps(data.provenance)))
    np.testing.assert_array_equal(again.x_train, data.x_train)
    np.testing.assert_array_equal(again.labels_test, data.labels_test)
    assert again.provenance == data.provenance


def test_pixels_are_the_ones_they_have_always_been() -> None:
    # Written down once; a change here would break every stored Gram. Whole numbers of 1/32.
    data = load("synthetic-images", n=2, test=1, size=4, channels=1, seed=1)
    assert (data.x_train[1, :, :, 0] * 32).tolist() == [
        [82, 27, -17, 5],
        [3, -17, -42, -11],
        [19, -44, -48, 37],
        [6, -20, -15, 36],
    ]
    assert data.x_train.shape == (2, 4, 4, 1)


def test_mean_variance_and_correlation_of_channels() -> None:
    data = load("synthetic-images", n=400, test=0, size=16, dtype="float64", signal=0.0)
    x = data.x_train
    np.testing.assert_allclose(x.mean(axis=(1, 2, 3)), 0, atol=0.01)
    np.testing.assert_allclose(x.var(), 1, rtol=0.03)
    correlation = np.asarray(np.corrcoef(x.reshape(-1, 3).T))
    np.testing.assert_allclose(correlation[np.triu_indices(3, 1)], CHANNEL_CORRELATION, atol=0.02)
    np.testing.assert_array_equal(x * 32, np.rint(x * 32))


@pytest.mark.parametrize("spectrum", [1.0, 2.0, 3.0])
def test_the_power_spectrum_has_the_slope_asked_for(spectrum: float) -> None:
    data = load("synthetic-images", n=300, test=0, size=15, channels=1, spectrum=spectrum, signal=0.0)
    power = (np.abs(np.fft.fft2(data.x_train[..., 0])) ** 2).mean(axis=0)
    k = np.hypot(np.fft.fftfreq(15)[:, None], np.fft.fftfreq(15)[None, :])
    inside = k > 0
    slope = np.polyfit(np.log(k[inside]), np.log(power[inside]), 1)[0]
    assert abs(slope + spectrum) < 0.06


def test_classes_can_be_told_apart_and_templates_move_by_at_most_the_shift() -> None:
    still = load("synthetic-images", n=200, test=100, size=8, channels=1, signal=0.5, shift=0)
    assert still.labels_train is not None
    means = np.stack([still.x_train[still.labels_train == c].mean(axis=0) for c in range(10)])
    distance = ((still.x_test[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == still.labels_test).mean() > 0.95
    moving = load("synthetic-images", n=100, test=1, size=8, channels=1, signal=1.0, shift=1)
    assert moving.labels_train is not None
    steps = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]  # from one row's step to another's
    for c in range(10):
        rows = moving.x_train[moving.labels_train == c][..., 0]
        distances = [
            min(np.abs(np.roll(row, step, axis=(0, 1)) - rows[0]).max() for step in steps) for row in rows
        ]
        assert max(distances) == 0


def test_labels_are_balanced_or_drawn() -> None:
    balanced = load("synthetic-images", n=57, test=20, size=4, classes=5)
    for m in (5, 23, 57):
        assert balanced.labels_train is not None
        counts = np.bincount(balanced.labels_train[:m], minlength=5)
        assert counts.max() - counts.min() <= 1
    drawn = load("synthetic-images", n=1000, test=20, size=2, classes=5, balanced=False)
    assert drawn.labels_train is not None
    counts = np.bincount(drawn.labels_train, minlength=5)
    assert counts.max() - counts.min() > 1
    np.testing.assert_allclose(counts, 200, atol=60)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"size": 1}, "size is 1"),
        ({"classes": 1}, "classes is 1"),
        ({"channels": 0}, "channels is 0"),
        ({"n": 0}, "n is 0"),
        ({"n": 1.5}, "n is 1.5"),
        ({"test": -1}, "test is -1"),
        ({"signal": 1.5}, r"signal is 1\.5; it must lie in 0\.\.1"),
        ({"signal": float("nan")}, "signal is nan"),
        ({"spectrum": -1.0}, "spectrum is"),
        ({"seed": 2**64}, "seed is"),
        ({"normalise": "unit"}, "use one of none, per-image"),
        ({"colour": 3}, "no setting colour; it has size, channels, classes, spectrum, signal, shift"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(KernregError, match=reason):
        load("synthetic-images", **{"n": 3, "test": 1, **arguments})
