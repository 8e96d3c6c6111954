"""Haar matrices: orthogonal, uniform on the group, and the same bits however they are multiplied."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from tolerances import moments, orthogonal

from kernreg.haar import PANEL, haar, product


def source(seed: int = 0) -> np.random.PCG64:
    return np.random.PCG64(seed)


@pytest.mark.parametrize(
    ("count", "d"),
    [(1, 1), (7, 1), (1, 2), (36, 3), (2, 27), (1, PANEL - 1), (2, PANEL), (1, PANEL + 1), (1, 301)],
)
def test_matrices_are_orthogonal(count: int, d: int) -> None:
    R = haar(count, d, source())
    assert R.shape == (count, d, d)
    for product_with_transpose in (R @ np.swapaxes(R, 1, 2), np.swapaxes(R, 1, 2) @ R):
        assert np.abs(product_with_transpose - np.eye(d)).max() <= orthogonal(d)
    if count > 1 and d > 1:
        assert not np.allclose(R[0], R[1])


def traces(R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded: those of plane reflections are 0."""
    return np.asarray(np.round(np.einsum("nii->n", R), 9))


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_they_are_uniform_on_the_group(d: int) -> None:
    """E R = 0, E R_ij² = 1/d, E (tr R)² = 1, half of them reflections, columns uniform on the sphere; against SciPy's."""
    count = 4000
    R = haar(count, d, source(d))
    trace, determinant = traces(R), np.linalg.det(R)
    np.testing.assert_allclose(np.abs(determinant), 1, rtol=orthogonal(d) * d)
    assert abs(determinant.mean()) < moments(count)
    assert np.abs(R.mean(axis=0)).max() < moments(count)
    assert abs(np.square(trace).mean() - 1) < moments(count) * np.sqrt(2)
    if d > 1:
        np.testing.assert_allclose(np.square(R).mean(axis=0), 1 / d, atol=moments(count))
        theirs = stats.ortho_group.rvs(d, size=count, random_state=1)
        assert stats.ks_2samp(trace, traces(theirs)).pvalue > 1e-4
    if d == 3:
        for i, j in (
            (0, 0),
            (1, 2),
            (2, 0),
        ):  # Archimedes: a coordinate of the sphere in three dimensions is uniform
            assert stats.kstest(R[:, i, j], stats.uniform(-1, 2).cdf).pvalue > 1e-4


def test_panels_only_change_the_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = haar(2, 30, source())
    monkeypatch.setattr("kernreg.haar.PANEL", 7)
    np.testing.assert_allclose(haar(2, 30, source()), whole, rtol=0, atol=orthogonal(30))


def test_reflections_one_by_one_give_the_same_matrix() -> None:
    """The definition, literally: H₁·(1 ⊕ H₂)···, column k of the same Gaussian matrix sent to its first axis."""
    from kernreg.haar import _gaussian

    d = 9
    V = np.tril(_gaussian(source(4), (1, d, d)))[0]
    R, signs = np.eye(d), np.where(V.diagonal() < 0, -1.0, 1.0)
    for k in range(d):
        v = V[:, k] + signs[k] * np.linalg.norm(V[:, k]) * (np.arange(d) == k)
        R = R @ (np.eye(d) - 2 * np.outer(v, v) / (v @ v))
    R = -signs * R
    np.testing.assert_allclose(haar(1, d, source(4))[0], R, rtol=0, atol=orthogonal(d))


@pytest.mark.parametrize("k", [1, 2, 31, 32, 500])
def test_a_product_does_not_depend_on_the_order_of_its_sums(k: int) -> None:
    rng = np.random.default_rng(k)
    a, b = rng.standard_normal((13, k)), rng.standard_normal((k, 6))
    exact = product(a, b)
    order = rng.permutation(k)
    np.testing.assert_array_equal(product(a[:, order], b[order]), exact)
    np.testing.assert_array_equal(product(a[4:5], b), exact[4:5])
    np.testing.assert_array_equal(product(np.asfortranarray(a), b[:, ::-1])[:, ::-1], exact)
    truth = (a.astype(np.longdouble) @ b.astype(np.longdouble)).astype(np.float64)
    bound = k * np.finfo(np.float64).eps * np.outer(np.abs(a).max(axis=1), np.abs(b).max(axis=0))
    assert (np.abs(exact - truth) <= bound).all()


def test_a_product_of_rows_of_very_different_sizes() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((5, 40)) * np.array([[1e-300], [1e300], [1.0], [0.0], [1e-30]])
    b = rng.standard_normal((40, 3))
    np.testing.assert_allclose(product(a, b), a @ b, rtol=1e-12, atol=0)
    assert not np.signbit(product(-a[3:4], b)).any()


def test_another_blas_kernel_gives_the_same_bits() -> None:
    """OpenBLAS is told to take the code of an old processor, which rounds otherwise; elsewhere this repeats itself."""
    code = (
        "import hashlib, numpy as np; from kernreg.symmetry import transform; τ = transform('rotation', 0, (9, 9, 2)); "
        "x = np.random.default_rng(0).standard_normal((20, 9, 9, 2)); "
        "print(τ.hash, *(hashlib.sha256(τ.apply(v).tobytes()).hexdigest() for v in (x, x.astype('f4'))))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for settings in ({}, {"OPENBLAS_CORETYPE": "Prescott"})
    }
    assert len(said) == 1
