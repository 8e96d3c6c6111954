"""Polynomials on products of spheres: their values, and their moments exactly.

A row has d coordinates in patches of p consecutive ones; each patch is uniform on the sphere of radius √p in p
dimensions, so that every coordinate has mean square 1. Over one patch

    E Π x_i^{a_i} = p^{|a|/2}·Π (a_i − 1)!! / (p·(p + 2)···(p + |a| − 2)),   and 0 if an a_i is odd

(Folland, Amer. Math. Monthly 108, 446, 2001); over several patches the moments multiply.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernreg.data.dataset import Floats, Integers

Monomial: TypeAlias = tuple[tuple[int, int], ...]  # (coordinate, exponent ≥ 1), by coordinate
ROWS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Pattern:
    """Σ_k coefficients[k]·Π_j x[places[j, k]]^exponents[j]: one monomial, moved about.

    places (r, K) int64 coordinates, different ones for each k; exponents (r,); coefficients (K,) float64.
    """

    places: Integers
    exponents: tuple[int, ...]
    coefficients: Floats

    def values(self, x: Floats) -> Floats:
        """(n,) float64 at rows x (n, d). Row by row sums: a row's value does not depend on the other rows."""
        terms = np.ones((len(x), self.places.shape[1]))
        for place, exponent in zip(self.places, self.exponents, strict=True):
            factor = x[:, place]
            for _ in range(exponent):
                terms *= factor
        terms *= self.coefficients
        return np.asarray(terms.sum(axis=1))

    def monomials(self) -> Iterator[tuple[Monomial, float]]:
        """Each monomial and its coefficient."""
        for places, coefficient in zip(self.places.T.tolist(), self.coefficients.tolist(), strict=True):
            yield tuple(sorted(zip(places, self.exponents, strict=True))), coefficient


@dataclass(frozen=True, eq=False)
class Target:
    """A polynomial by name: the sum of its patterns."""

    name: str
    patterns: tuple[Pattern, ...]

    def values(self, x: Floats) -> Floats:
        """(n,) float64 at rows x (n, d), a block of rows at a time."""
        out = np.empty(len(x))
        for start in range(0, len(x), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            block = x[rows].astype(np.float64)
            out[rows] = sum(pattern.values(block) for pattern in self.patterns)
        return out

    @cached_property
    def monomials(self) -> dict[Monomial, float]:
        """Its monomials with their coefficients, none of them 0."""
        total: dict[Monomial, float] = {}
        for pattern in self.patterns:
            for monomial, coefficient in pattern.monomials():
                total[monomial] = total.get(monomial, 0.0) + coefficient
        return {monomial: c for monomial, c in total.items() if c}

    def normalised(self, p: int) -> Target:
        """Divided by √E[f²] on spheres of p dimensions."""
        size = 1 / sqrt(inner(self.monomials, self.monomials, p))
        patterns = tuple(replace(a, coefficients=a.coefficients * size) for a in self.patterns)
        return Target(self.name, patterns)


def moment(monomial: Monomial, p: int) -> float:
    """E of a monomial; p coordinates a patch."""
    if any(exponent % 2 for _, exponent in monomial):
        return 0.0
    patches: dict[int, list[int]] = {}
    for coordinate, exponent in monomial:
        patches.setdefault(coordinate // p, []).append(exponent)
    return prod(_of_one_patch(exponents, p) for exponents in patches.values())


def inner(f: dict[Monomial, float], g: dict[Monomial, float], p: int) -> float:
    """E[f·g] exactly, but for rounding."""
    by_parity: dict[tuple[int, ...], list[tuple[Monomial, float]]] = {}
    for monomial, coefficient in g.items():
        by_parity.setdefault(_odd(monomial), []).append((monomial, coefficient))
    return sum(
        a * b * moment(_times(one, other), p)
        for one, a in f.items()
        for other, b in by_parity.get(_odd(one), [])
    )


def gram(targets: Sequence[Target], p: int) -> NDArray[np.float64]:
    """E[f_i·f_j] of all pairs, exactly: the identity for orthonormal targets."""
    return np.array([[inner(f.monomials, g.monomials, p) for g in targets] for f in targets])


def _of_one_patch(exponents: list[int], p: int) -> float:
    total = sum(exponents)
    odd_factorials = prod(prod(range(1, a, 2)) for a in exponents)
    return float(p ** (total // 2) * odd_factorials / prod(p + 2 * i for i in range(total // 2)))


def _odd(monomial: Monomial) -> tuple[int, ...]:
    return tuple(coordinate for coordinate, exponent in monomial if exponent % 2)


def _times(one: Monomial, other: Monomial) -> Monomial:
    total = dict(one)
    for coordinate, exponent in other:
        total[coordinate] = total.get(coordinate, 0) + exponent
    return tuple(sorted(total.items()))
