"""The demonstration: four architectures on the digits of scikit-learn, from images to exponents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from kernreg.architecture import Architecture
from kernreg.data import load
from kernreg.gram import build
from kernreg.measure import Measurement, measure

ARCHITECTURES = ("fcn", "lcn", "vec", "gap")
# All 1,797 images, a fifth of them for testing.
TRAIN, TEST = 1437, 360
RIDGE = 1e-6


def demo(
    folder: Path,
    n: int = TRAIN,
    test: int = TEST,
    backend: str = "auto",
    progress: bool | Callable[[int, int], object] = False,
    announce: Callable[[Architecture], object] = id,
) -> Iterator[Measurement]:
    """One measurement after another: NTK in float32, solved in float64, ridge 1e-6 (absolute).

    The stores in `folder` are resumed or taken as they are when they exist.

    Args:
        folder: for the stores.
        n, test: train and test images, together at most 1,797.
        backend, progress: as in `kernreg.gram.build`.
        announce: called with each architecture before its turn.

    Raises:
        KernregError: as `load`, `build` and `measure`.
    """
    digits = load("digits", n=n, test=test)
    for name in ARCHITECTURES:
        architecture = Architecture.preset(name)
        announce(architecture)
        path = folder / f"digits-{name}-{n}-{test}.gram"
        store = build(path, digits, architecture, "ntk", backend, "float32", progress=progress)
        yield measure(store, "ntk", RIDGE)
