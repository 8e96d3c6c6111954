"""sphere and sphere-product: rows on spheres, targets of one degree, local, normalised, shifted or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernreg.data import load, reload
from kernreg.data.polynomials import gram
from kernreg.data.spheres import MOST_PATTERNS, local_targets, sphere, sphere_product
from kernreg.errors import KernregError


@pytest.mark.parametrize(
    ("name", "settings"), [("sphere", {"dimension": 13}), ("sphere-product", {"height": 4, "width": 5})]
)
def test_rows_are_nested_on_their_spheres_and_loaded_again(name: str, settings: dict[str, Any]) -> None:
    degrees = [1, 2]
    large = load(name, n=300, test=40, seed=3, degrees=degrees, dtype="float64", **settings)
    small = load(name, n=7, test=5, seed=3, degrees=degrees, dtype="float64", **settings)
    np.testing.assert_array_equal(large.x_train[:7], small.x_train)
    np.testing.assert_array_equal(large.y_train[:7], small.y_train)
    np.testing.assert_array_equal(large.x_test[:5], small.x_test)
    p = large.shape[-1]
    np.testing.assert_allclose(np.square(large.x_train).sum(axis=-1), p, rtol=1e-12)
    again = reload(large.provenance)
    np.testing.assert_array_equal(again.y_test, large.y_test)
    assert not np.array_equal(
        load(name, n=7, test=5, seed=4, dtype="float64", **settings).x_train, small.x_train
    )
    single = load(name, n=7, test=5, seed=3, degrees=degrees, **settings)
    assert single.x_train.dtype == np.float32
    np.testing.assert_allclose(single.y_train, small.y_train, atol=1e-4)


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize(
    ("grid", "channels", "p", "reach"),
    [((1, 12), 1, 12, 0), ((1, 14), 1, 14, 6), ((6, 6), 3, 3, 0), ((6, 8), 2, 2, 3)],
)
def test_targets_are_orthonormal_exactly(
    grid: tuple[int, int], channels: int, p: int, reach: int, cyclic: bool
) -> None:
    made = local_targets("sphere", grid, channels, p, (1, 2, 3), reach, cyclic, seed=0)
    np.testing.assert_allclose(gram(made, p), np.eye(3), rtol=0, atol=1e-12)
    for target, degree in zip(made, (1, 2, 3), strict=True):
        assert len(target.patterns) <= MOST_PATTERNS
        # Multilinear monomials are harmonic: no other degree is in them; no two places give the same one.
        assert all(sum(a for _, a in m) == degree == len(m) for m in target.monomials)
        assert len(target.monomials) == len(target.patterns) * grid[0] * grid[1]


def test_targets_do_not_change_under_shifts_exactly_if_cyclic() -> None:
    for cyclic in (True, False):
        for data, axis in (
            (sphere(5, 0, dimension=11, degrees=(1, 2, 3), range=4, cyclic=cyclic), -1),
            (sphere_product(5, 0, height=6, width=7, degrees=(2, 3), cyclic=cyclic), 2),
        ):
            p = data.shape[-1]
            made = local_targets(
                data.name,
                (1, p) if data.x_train.ndim == 2 else (6, 7),
                1 if data.x_train.ndim == 2 else p,
                p,
                data.provenance["degrees"],
                data.provenance["range"],
                cyclic,
                0,
            )
            moved = np.roll(data.x_train, 3, axis=axis).reshape(5, -1)
            values = np.stack([target.values(moved) for target in made], axis=1)
            assert np.allclose(values, data.y_train, atol=1e-10) == cyclic


def test_targets_are_local() -> None:
    (target,) = local_targets("sphere", (1, 20), 1, 20, (3,), 5, False, 0)
    for monomial in target.monomials:
        places = np.array([c for c, _ in monomial])
        extents = [np.ptp((places - start) % 20) for start in places]
        assert min(extents) < 5
    (target,) = local_targets("sphere-product", (8, 8), 4, 4, (3,), 2, False, 0)
    for monomial in target.monomials:
        pixels = [divmod(c // 4, 8) for c, _ in monomial]
        assert len(set(pixels)) == 3
        for axis in (0, 1):
            places = np.array([pixel[axis] for pixel in pixels])
            assert min(np.ptp((places - start) % 8) for start in places) < 2


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("sphere", {"dimension": 1}, "dimension is 1"),
        ("sphere", {"degrees": 3}, "must be a list"),
        ("sphere", {"degrees": []}, "must be a list"),
        ("sphere", {"degrees": "12"}, "must be a list"),
        ("sphere", {"degrees": [0]}, "must be a list"),
        ("sphere", {"degrees": [2], "range": 16}, "does not fit twice"),
        ("sphere", {"degrees": [3], "range": 2}, "no 3 different pixels"),
        ("sphere", {"degrees": [8], "range": 30, "dimension": 64}, "monomials of degree 8"),
        ("sphere", {"cyclic": 1}, "cyclic 1"),
        ("sphere", {"range": -1}, "range is -1"),
        ("sphere", {"n": 0}, "n is 0"),
        ("sphere", {"width": 3}, "has no setting width"),
        ("sphere", {"normalise": "standard"}, "generated to scale"),
        ("sphere-product", {"p": 1}, "p is 1"),
        ("sphere-product", {"height": 3, "degrees": [4]}, "does not fit twice"),
    ],
)
def test_refusals_name_the_setting(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(KernregError) as refusal:
        load(name, **{"n": 4, "test": 2, **settings})
    assert said in str(refusal.value)
