"""The order in which the rows of a source are used: seeded, nested, in every stretch the source's class mix.

Rule "stratified-1" (docs/data.md). Shuffle the rows; let r = 0, 1, … number the N_c rows of class c in that
order; sort all rows by (r + ½)/N_c, ties in random order. A prefix of m rows then holds m·N_c/N rows of
class c to within one or two: with equal classes this is a round-robin over shuffled classes, with unequal
ones every prefix, suffix and block of the order keeps the mix of the whole, so that the distribution does
not drift along a learning curve. Rule "shuffled-1" is the shuffle alone.

The random numbers are raw 64-bit outputs of PCG64, whose stream NumPy promises not to change, and a shuffle
is a stable argsort of them.
"""

from __future__ import annotations

import numpy as np

from kernreg.data.dataset import Integers
from kernreg.errors import KernregError

TRAIN, TEST = 0, 1  # the streams of the train rows and of an official test set


def require_seed(seed: int) -> None:
    """Raise KernregError unless seed is an integer in 0..2**64-1."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise KernregError(f"seed is {seed!r}; it must be an integer from 0 to 2**64 - 1")


def row_order(rows: int, seed: int, stream: int = TRAIN, labels: Integers | None = None) -> Integers:
    """A permutation (rows,) int64 of 0..rows-1.

    labels (rows,) int64 ≥ 0 asks for the stratified rule, None for the plain shuffle.
    """
    require_seed(seed)
    source = np.random.PCG64(np.random.SeedSequence([int(seed), stream]))
    shuffled = np.argsort(source.random_raw(rows), kind="stable").astype(np.int64)
    if labels is None:
        return shuffled
    ties = source.random_raw(rows)
    classes = labels[shuffled]
    counts = np.bincount(classes)
    grouped = np.argsort(classes, kind="stable")
    rank = np.empty(rows, dtype=np.int64)
    rank[grouped] = np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (2 * rank + 1) / (2 * counts[classes])
    return shuffled[np.lexsort((ties, share))]


def split_sizes(
    name: str, n: int | None, test: int | None, rows: int, official_test: int | None
) -> tuple[int, int]:
    """The sizes (n, test) of a load, defaults filled in.

    rows is the size of the training pool, official_test that of the official test set or None: then both
    splits share the pool. By default test is 1000 or what there is, at most a fifth of a shared pool, and n
    is everything else. Raises KernregError when there are not so many rows.
    """
    for what, size, least in (("n", n, 1), ("test", test, 0)):
        if size is not None and (isinstance(size, bool) or not isinstance(size, int | np.integer)):
            raise KernregError(f"{what} is {size!r}; it must be an integer")
        if size is not None and size < least:
            raise KernregError(f"{what} is {size}; it must be at least {least}")
    if official_test is not None:
        test = min(1000, official_test) if test is None else int(test)
        n = rows if n is None else int(n)
        if n > rows:
            raise KernregError(f"{name} has {rows} train rows, n={n} asked; use n of at most {rows}")
        if test > official_test:
            raise KernregError(
                f"{name} has {official_test} test rows, test={test} asked; use at most {official_test}"
            )
        return n, test
    if test is None:
        test = min(1000, -(-rows // 5), max(0, rows - (1 if n is None else int(n))))
        if test == 0 and (n is None or n <= rows):
            raise KernregError(
                f"{name} has {rows} rows in all, which leaves none to test on; "
                "use a smaller n, or test=0 if you want no test rows"
            )
    n = rows - int(test) if n is None else int(n)
    if n + test > rows or n < 1:
        raise KernregError(
            f"{name} has {rows} rows and no test set of its own, so that n + test share them: "
            f"n={n} and test={test} need {n + test}; "
            f"use n of at most {max(0, rows - int(test))} or fewer test rows"
        )
    return n, int(test)
