"""The transforms: orthogonal, invertible, in the group that they are named after, the same for any block of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernreg.errors import KernregError
from kernreg.symmetry import NAMES, OF_IMAGES, TRANSFORMS, UNDRAWN, Transform, transform

SHAPES = [(6, 6, 3), (1, 1, 5), (1, 7, 1), (5, 5, 1), (2, 3, 4), (13,), (1,), (64,)]


def rows(shape: tuple[int, ...], n: int = 5, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((n, *shape))


def made(name: str, shape: tuple[int, ...], seed: int = 0) -> Transform | None:
    """None where rows of the shape have no such symmetry."""
    H, W = shape[:2] if len(shape) == 3 else (1, shape[0])
    patch = None if name != "patch-rotation" else (H, W if W % 2 else W // 2)
    if len(shape) == 1 and name in OF_IMAGES:
        return None
    if (name == "transpose" and H != W) or (name == "shift" and H * W == 1):
        return None
    return transform(name, seed, shape, patch)


@given(name=st.sampled_from(NAMES), shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=80, deadline=None)
def test_inner_products_stay_and_the_inverse_undoes(name: str, shape: tuple[int, ...], seed: int) -> None:
    τ = made(name, shape, seed)
    if τ is None:
        return
    x = rows(shape)
    moved = τ.apply(x)
    assert (moved.shape, moved.dtype) == (x.shape, x.dtype)
    assert moved.flags.c_contiguous
    flat, flat_moved = x.reshape(len(x), -1), moved.reshape(len(x), -1)
    rounding = 32 * np.finfo(np.float64).eps
    np.testing.assert_allclose(
        flat_moved @ flat_moved.T, flat @ flat.T, rtol=0, atol=rounding * flat.shape[1]
    )
    np.testing.assert_allclose(τ.inverse.apply(moved), x, rtol=0, atol=rounding * np.abs(x).max())


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(6, 6, 3), (24,)])
def test_a_row_does_not_depend_on_the_others_nor_on_the_block(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    τ = made(name, shape)
    if τ is None:
        return
    x = rows(shape, 11).astype(np.float32)
    whole = τ.apply(x)
    np.testing.assert_array_equal(τ.apply(x[:3]), whole[:3])
    np.testing.assert_array_equal(τ.apply(x[7:8]), whole[7:8])
    monkeypatch.setattr("kernreg.symmetry.VALUES_AT_ONCE", 4 * x[0].size + 1)
    np.testing.assert_array_equal(τ.apply(x), whole)
    assert τ.apply(x[:0]).shape == (0, *shape)
    again = made(name, shape)
    assert again is not None
    assert again.hash == τ.hash
    other = made(name, shape, seed=1)
    assert other is not None
    assert (other.hash == τ.hash) == (name in UNDRAWN)
    assert other.to_dict()["seed"] == (None if name in UNDRAWN else 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_every_floating_dtype(dtype: Any) -> None:
    x = rows((4, 4, 2)).astype(dtype)
    moved = transform("rotation", 0, (4, 4, 2)).apply(x)
    assert moved.dtype == dtype
    exact = transform("rotation", 0, (4, 4, 2)).apply(x.astype(np.float64))
    # rounded once: to the dtype, from products good to 2⁻³⁶ or better
    np.testing.assert_allclose(
        moved, exact.astype(dtype), rtol=0, atol=float(np.finfo(dtype).eps) * np.abs(x).max()
    )


def inner_products(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """⟨x_p, x_p'⟩ of two images between all pixels."""
    pixels = x.reshape(len(x), -1, x.shape[-1])
    return np.asarray(np.einsum("pc,qc->pq", pixels[0], pixels[1]))


def test_channels_turn_pixel_by_pixel_or_together() -> None:
    x = rows((4, 5, 3))
    before = inner_products(x)
    together = inner_products(transform("channel-rotation", 1, (4, 5, 3)).apply(x))
    np.testing.assert_allclose(together, before, atol=1e-13)
    alone = inner_products(transform("pixel-rotations", 1, (4, 5, 3)).apply(x))
    np.testing.assert_allclose(alone.diagonal(), before.diagonal(), atol=1e-13)
    assert not np.isclose(alone, before).any(where=~np.eye(20, dtype=bool))
    everything = inner_products(transform("rotation", 1, (4, 5, 3)).apply(x))
    assert everything.trace() == pytest.approx(before.trace())
    assert not np.isclose(everything, before).any()


def test_patches_turn_alike_and_stay_where_they_are() -> None:
    x = rows((4, 6, 2), 1)
    x[:, 2:, 2:4] = x[:, :2, 4:]
    τ = transform("patch-rotation", 0, (4, 6, 2), (2, 2))
    assert τ.patch == (2, 2)
    moved = τ.apply(x)
    np.testing.assert_array_equal(moved[:, 2:, 2:4], moved[:, :2, 4:])
    one = np.zeros((1, 4, 6, 2))
    one[0, 2:, :2] = 1
    assert np.count_nonzero(τ.apply(one)) == 8
    assert not np.any(τ.apply(one)[0, :2])
    assert τ.matrices is not None
    np.testing.assert_allclose(moved[0, 2:, 2:4].reshape(-1), τ.matrices[0] @ x[0, 2:, 2:4].reshape(-1))


def test_pixels_move_with_their_channels() -> None:
    x = rows((4, 4, 3))
    moved = transform("permutation", 5, (4, 4, 3)).apply(x)
    pixels = {tuple(pixel) for pixel in x[0].reshape(-1, 3)}
    assert {tuple(pixel) for pixel in moved[0].reshape(-1, 3)} == pixels
    assert not np.array_equal(moved, x)
    np.testing.assert_array_equal(transform("mirror", 0, (4, 4, 3)).apply(x), x[:, :, ::-1])
    np.testing.assert_array_equal(transform("transpose", 0, (4, 4, 3)).apply(x), x.transpose(0, 2, 1, 3))
    np.testing.assert_array_equal(
        transform("mirror", 0, (16,)).apply(x.reshape(-1, 16)), x.reshape(-1, 16)[:, ::-1]
    )


def test_shifts_are_circular_never_nothing_and_reach_everywhere() -> None:
    x = np.arange(6.0).reshape(1, 2, 3, 1)
    seen = set()
    for seed in range(60):
        moved = transform("shift", seed, (2, 3, 1)).apply(x)
        steps = [s for s in np.ndindex(2, 3) if np.array_equal(np.roll(x, s, axis=(1, 2)), moved)]
        assert len(steps) == 1
        seen.add(steps[0])
    assert seen == set(np.ndindex(2, 3)) - {(0, 0)}


def test_elements_are_those_of_earlier_versions() -> None:
    """A changed one would orphan every store of transformed data."""
    elements = {
        "rotation": "300b6efa4bc6cbba60c360d67fe6fcf4",
        "pixel-rotations": "cb646fe6706c6fbb41c6682e6a26751f",
        "channel-rotation": "2ce2fcfb72f7094d640306697048a787",
        "permutation": "7e965b729466dd0d861dd034c232fb5f",
        "shift": "b09ed4e404baaab450d69cbb62667288",
        "mirror": "17fdbc010965a581e429415b19417035",
        "transpose": "bdcf672a8293f30b4d96f96b077bbcce",
    }
    assert {name: transform(name, 0, (4, 4, 3)).hash for name in elements} == elements
    assert transform("patch-rotation", 0, (4, 4, 3), 2).hash == "a1eb1126c35f2b0b58fbf29d08061138"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("spin", 0, (4, 4, 3)), "unknown transform 'spin'; known: none, rotation"),
        (("rotation", -1, (4, 4, 3)), "seed of a transform"),
        (("rotation", True, (4, 4, 3)), "seed of a transform"),
        (("rotation", 0, (4, 4)), "vector (d,) or an image"),
        (("pixel-rotations", 0, (16,)), "needs images"),
        (("channel-rotation", 0, (16,)), "needs images"),
        (("transpose", 0, (16,)), "needs images"),
        (("transpose", 0, (4, 5, 1)), "square images, and these have 4×5"),
        (("shift", 0, (1, 1, 3)), "more than one pixel"),
        (("patch-rotation", 0, (4, 4, 3)), "needs the size of a patch"),
        (("patch-rotation", 0, (4, 4, 3), 3), "patches of 3×3 pixels do not tile a grid of 4×4"),
        (("patch-rotation", 0, (16,), 4), "patches of 4×4 pixels do not tile a grid of 1×16"),
        (("rotation", 0, (4, 4, 3), 2), "a patch belongs to patch-rotation"),
    ],
)
def test_what_has_no_such_symmetry_is_refused(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(KernregError) as refusal:
        transform(*arguments)
    assert said in str(refusal.value)


@pytest.mark.parametrize("x", [np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 3), np.int64)])
def test_other_rows_are_refused(x: NDArray[Any]) -> None:
    with pytest.raises(KernregError, match="the rotation is made for floating-point rows"):
        transform("rotation", 0, (4, 4, 3)).apply(x)
