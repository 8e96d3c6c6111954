"""Polynomials on spheres: exact moments against known ones and Monte Carlo; degrees; the eight eigenfunctions."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from tolerances import moments

from kernreg.data.eigenspaces import NAMES, eigenspaces, polynomials, targets
from kernreg.data.polynomials import Monomial, Pattern, Target, gram, inner, moment
from kernreg.data.spheres import normal, stream
from kernreg.errors import KernregError

DEGREES = {"Y1": 1, "Y2": 2, "Y3": 2, "Y4": 3, "Y5*": 5, "Y5": 2, "Y6": 4, "Y7": 4}


def spheres(n: int, patches: int, p: int) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((n, patches, p))
    return np.asarray(x * np.sqrt(p / np.square(x).sum(axis=2, keepdims=True))).reshape(n, -1)


@pytest.mark.parametrize("p", [2, 3, 4, 7])
def test_moments_of_one_sphere(p: int) -> None:
    assert moment((), p) == 1
    assert moment(((0, 2),), p) == pytest.approx(1)
    assert moment(((1, 4),), p) == pytest.approx(3 * p / (p + 2))
    assert moment(((0, 2), (1, 2)), p) == pytest.approx(p / (p + 2))
    assert moment(((0, 6),), p) == pytest.approx(15 * p**2 / ((p + 2) * (p + 4)))
    assert moment(((0, 1), (1, 2)), p) == 0
    # Σ_i x_i² = p, to the third power
    total = sum(
        moment(tuple(sorted({c: 2 * [i, j, k].count(c) for c in (i, j, k)}.items())), p)
        for i in range(p) for j in range(p) for k in range(p)
    )  # fmt: skip
    assert total == pytest.approx(p**3)


def test_moments_of_several_spheres_multiply_and_agree_with_monte_carlo() -> None:
    p, n = 3, 100_000
    x = spheres(n, 2, p)
    monomials: list[Monomial] = [
        ((0, 2), (3, 2)),
        ((0, 2), (1, 2), (4, 4)),
        ((0, 1), (3, 1)),
        ((2, 4), (5, 2)),
    ]
    for monomial in monomials:
        values = np.prod([x[:, c] ** a for c, a in monomial], axis=0)
        assert abs(values.mean() - moment(monomial, p)) < moments(n) * values.std()
    assert moment(((0, 4), (3, 4)), p) == pytest.approx(moment(((0, 4),), p) ** 2)


def test_inner_products_are_exact_for_a_target_that_repeats_its_monomials() -> None:
    places = np.array([[0, 1], [1, 0]])
    f = Target("f", (Pattern(places, (1, 1), np.array([1.0, 2.0])),))
    assert f.monomials == {((0, 1), (1, 1)): 3.0}
    assert inner(f.monomials, f.monomials, 4) == pytest.approx(9 * 4 / 6)
    assert gram([f.normalised(4)], 4) == pytest.approx(np.ones((1, 1)))


@pytest.mark.parametrize("p", [3, 4, 5])
def test_the_eigenfunctions_are_orthonormal_exactly(p: int) -> None:
    made = targets(p, seed=1)
    assert tuple(target.name for target in made) == NAMES
    np.testing.assert_allclose(gram(made, p), np.eye(8), rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [3, 4])
def test_each_eigenfunction_is_of_one_degree(p: int) -> None:
    """Orthogonal to every monomial of lower degree on the coordinates of one place, and not to all of its own."""
    from kernreg.data.eigenspaces import Step

    def coordinate(step: Step) -> int:
        return int(np.ravel_multi_index(tuple(s % p for s in step), (p,) * 4))

    for name, terms in polynomials(p).items():
        f: dict[Monomial, float] = {}
        for factor, exponents in terms:
            f[tuple(sorted((coordinate(step), a) for step, a in exponents.items()))] = factor
        places = sorted({c for monomial in f for c, _ in monomial})
        places += (
            [next(c for c in range(p**4) if c not in places and c // p == places[0] // p)] if p > 3 else []
        )
        for degree in range(DEGREES[name] + 1):
            overlaps = []
            for chosen in combinations_with_replacement(places, degree):
                monomial = tuple((c, chosen.count(c)) for c in sorted(set(chosen)))
                overlaps.append(abs(inner(f, {monomial: 1.0}, p)))
            assert (max(overlaps) > 1e-3) == (degree == DEGREES[name]), (name, degree)


def test_as_printed_y6_and_y7_would_not_be_of_one_degree() -> None:
    """E x⁴ is 2 and not 3 on spheres of four dimensions: without the correction they overlap with degree 2."""
    fourth = moment(((0, 4),), 4)
    assert fourth == 2
    assert [factor for factor, _ in polynomials(4)["Y6"]] == [3, -1, fourth - 3]
    a, b, c = 0, 4, 8  # in three patches
    printed: dict[Monomial, float] = {((a, 1), (b, 1), (c, 2)): 3.0, ((a, 3), (b, 1)): -1.0}
    assert inner(printed, {((a, 1), (b, 1)): 1.0}, 4) == pytest.approx(3 - fourth)


def test_the_eigenfunctions_are_orthonormal_on_the_rows() -> None:
    n = 20_000
    data = eigenspaces(n, 0, p=3, seed=2, dtype="float64")
    y = data.y_train
    fourth_moments = np.sqrt(np.einsum("ni,nj->ij", y**2, y**2) / n)
    assert (np.abs(y.T @ y / n - np.eye(8)) < moments(n) * np.maximum(fourth_moments, 1)).all()


def test_values_are_the_sum_of_the_monomials() -> None:
    x = spheres(4, 27, 3)
    for target in targets(3, seed=0):
        expected = sum(c * np.prod([x[:, i] ** a for i, a in m], axis=0) for m, c in target.monomials.items())
        np.testing.assert_allclose(target.values(x), expected, rtol=1e-10, atol=1e-10)


def test_the_data_set_is_the_papers() -> None:
    data = eigenspaces(20, 7, seed=3)
    assert data.shape == (1, 256, 1)
    assert (data.y_train.shape, data.y_test.shape) == ((20, 8), (7, 8))
    assert data.provenance["target_names"] == list(NAMES)
    np.testing.assert_allclose(np.square(data.x_train.reshape(20, 64, 4)).sum(axis=2), 4)
    c = normal(stream(3, 2), (256,))
    first = data.x_train.reshape(20, -1) @ c / np.sqrt(np.square(c).sum())
    np.testing.assert_allclose(data.y_train[:, 0], first, atol=1e-12)
    with pytest.raises(KernregError, match="p is 2"):
        eigenspaces(3, 3, p=2)
    with pytest.raises(KernregError, match="up to p = 12"):
        eigenspaces(3, 3, p=13)
