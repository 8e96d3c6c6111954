"""Augmented rows: what they are, and that a kernel trained on all of a group's images is invariant to it."""

from __future__ import annotations

import numpy as np
import pytest

from kernreg.architecture import Architecture
from kernreg.augmentation import augmented, images
from kernreg.data import load
from kernreg.errors import KernregError
from kernreg.kernels import backends


def test_copies_stand_next_to_their_image() -> None:
    data = load("synthetic-images", n=5, test=3, size=4, channels=2, classes=3)
    more = augmented(data, flip=True, crop=1)
    assert more.n == 5 * 18
    assert more.provenance["augmentation"]["copies"] == 18
    np.testing.assert_array_equal(more.x_train[::18], data.x_train)
    np.testing.assert_array_equal(more.x_train[1::18], data.x_train[:, :, ::-1])
    np.testing.assert_array_equal(more.y_train, np.repeat(data.y_train, 18, axis=0))
    np.testing.assert_array_equal(more.rows_train, np.repeat(data.rows_train, 18))
    np.testing.assert_array_equal(more.x_test, data.x_test)
    assert len(np.unique(more.x_train[:18].reshape(18, -1), axis=0)) == 18


def test_a_shift_brings_zeros_in() -> None:
    x = np.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    made = {image[..., 0].tobytes() for image in images(x, flip=False, crop=1)[0]}
    down = np.array([[0.0, 0, 0], [1, 2, 3], [4, 5, 6]])
    assert down.tobytes() in made
    assert len(made) == 9


def test_regression_on_mirrored_rows_predicts_alike_for_mirror_images() -> None:
    data = load("digits", n=20, test=6, dtype="float64")
    more = augmented(data)
    tests = np.concatenate([data.x_test, data.x_test[:, :, ::-1]])
    K = backends.compute(more.x_train, None, Architecture.fcn(2), "ntk", "reference", "float64")["ntk"]
    K_test = backends.compute(tests, more.x_train, Architecture.fcn(2), "ntk", "reference", "float64")["ntk"]
    f = K_test @ np.linalg.solve(K + 1e-3 * np.eye(40), more.y_train)
    np.testing.assert_allclose(f[:6], f[6:], rtol=1e-9, atol=1e-11)  # a matrix of condition 1e4
    plain = K_test[:, ::2] @ np.linalg.solve(K[::2, ::2] + 1e-3 * np.eye(20), data.y_train)
    assert np.abs(plain[:6] - plain[6:]).max() > 0.01


def test_vectors_and_large_shifts_are_refused() -> None:
    with pytest.raises(KernregError, match="rows have the shape"):
        images(np.zeros((3, 5)))
    with pytest.raises(KernregError, match="crop is 4"):
        images(np.zeros((3, 4, 4, 1)), crop=4)
