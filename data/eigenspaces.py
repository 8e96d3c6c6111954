"""eigenspaces: eight polynomials on p³ spheres, one for each way in which a hierarchical network can be better.

The task of Xiao, "Eigenspace Restructuring: a Principle of Space and Frequency in Neural Networks", COLT 2022,
Figure 3. A row has d = p⁴ coordinates on a circular grid [p]⁴, the last index within a patch; every patch of p is
uniform on the sphere of radius √p. Each target is Σ_k c_k·Y(x; k) with independent normal c_k and E[Y²] = 1; e1 … e4
are the unit steps of the grid:

    Y1   x_k                                    Y5*  x_k·x_{k+e4}·x_{k+2e4}·(x_k² − x_{k+e4}²)
    Y2   x_k·x_{k+e4}                           Y5   x_k·x_{k+e1}
    Y3   x_{k+e3}·x_{k+e4}                      Y6   x_k·x_{k+e3}·(3x²_{k−e3} − x_k²)
    Y4   x_{k+e3+e4}·x_{k+e4}·x_k               Y7   x_{k−e3+e4}·x_{k+e2}·(3x_k² − x²_{k−e3+e4})

Y6 and Y7 as printed there are not of one degree on these spheres, because E[x⁴] = 3p/(p + 2): here x² stands for
x² − 1 and x³ for x³ − (3p/(p + 2))·x, their parts of degree 2 and 3.

m = d^r samples teach a network the targets whose learning index (`kernreg.complexity.learning_index`) is below r.
Rows are images (1, d, 1), so that filters of p^j×1 pixels with as large a stride see whole patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from kernreg.data.dataset import Dataset
from kernreg.data.polynomials import Pattern, Target
from kernreg.data.source import check_sizes
from kernreg.data.spheres import COEFFICIENTS, normal, of_spheres, stream
from kernreg.errors import KernregError

Step: TypeAlias = tuple[int, int, int, int]
Terms: TypeAlias = Sequence[tuple[float, Mapping[Step, int]]]  # factor, and the exponent at each step from k

NAMES = ("Y1", "Y2", "Y3", "Y4", "Y5*", "Y5", "Y6", "Y7")
HERE, E1, E2, E3, E4 = (0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)


def eigenspaces(n: int = 512, test: int = 512, p: int = 4, seed: int = 0, dtype: str = "float64") -> Dataset:
    """n train and `test` test rows (1, p⁴, 1) with the eight targets Y1, Y2, Y3, Y4, Y5*, Y5, Y6, Y7.

    Args:
        p: dimensions of a sphere, 3 … 12; the paper has 4, d = 256.
        seed: of rows and coefficients; other sizes give the same rows in the same order.

    Raises:
        KernregError: a setting out of range.
    """
    check_sizes("eigenspaces", n, test, seed, dtype, p=(p, 3))
    if p > 12:
        raise KernregError(f"eigenspaces: p is {p}; rows of p⁴ numbers go up to p = 12")
    return of_spheres("eigenspaces", (1, p**4, 1), p, targets(p, seed), n, test, seed, dtype, {"p": int(p)})


def targets(p: int, seed: int) -> list[Target]:
    """The eight targets, orthonormal up to what their random coefficients leave."""
    source = stream(seed, COEFFICIENTS)
    index = np.arange(p**4).reshape(p, p, p, p)
    made = []
    for name, terms in polynomials(p).items():
        c = normal(source, (p**4,))
        patterns = []
        for factor, exponents in terms:
            steps = [tuple(-s for s in step) for step in exponents]
            places = np.stack([np.roll(index, step, axis=(0, 1, 2, 3)).reshape(-1) for step in steps])
            patterns.append(Pattern(places, tuple(exponents.values()), factor * c))
        made.append(Target(name, tuple(patterns)).normalised(p))
    return made


def polynomials(p: int) -> dict[str, Terms]:
    """Y(x; k) by name, each of one degree on spheres of p dimensions."""
    fourth = 3 * p / (p + 2)  # E[x⁴]
    a, b = _sum(_minus(E3), E4), E2
    return {
        "Y1": [(1, {HERE: 1})],
        "Y2": [(1, {HERE: 1, E4: 1})],
        "Y3": [(1, {E3: 1, E4: 1})],
        "Y4": [(1, {_sum(E3, E4): 1, E4: 1, HERE: 1})],
        "Y5*": [(1, {HERE: 3, E4: 1, _sum(E4, E4): 1}), (-1, {HERE: 1, E4: 3, _sum(E4, E4): 1})],
        "Y5": [(1, {HERE: 1, E1: 1})],
        "Y6": [
            (3, {HERE: 1, E3: 1, _minus(E3): 2}),
            (-1, {HERE: 3, E3: 1}),
            (fourth - 3, {HERE: 1, E3: 1}),
        ],
        "Y7": [(3, {a: 1, b: 1, HERE: 2}), (-1, {a: 3, b: 1}), (fourth - 3, {a: 1, b: 1})],
    }


def _sum(one: Step, other: Step) -> Step:
    a, b, c, d = (i + j for i, j in zip(one, other, strict=True))
    return (a, b, c, d)


def _minus(step: Step) -> Step:
    a, b, c, d = (-i for i in step)
    return (a, b, c, d)
