"""The jobs: commands whose work takes long where it is done for real, and what of their results must be equal."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernreg.curvefile import load
from kernreg.provenance import checksum
from kernreg.solutionfile import SavedSolution
from kernreg.store import GramStore

STORE, READER = "a.gram", "reader"
ROWS = ("--data", "synthetic-images", "--setting", "size=4", "--setting", "channels=1")
STUDY = """
[study]
name = "small"
kernels = ["ntk"]
backend = "reference"

[data]
name = "synthetic-images"
n = 24
test = 12
settings = { size = 4, channels = 1, classes = 3, signal = 0.5 }

[fit]
ridge = 1e-3
spectrum = 0

[[architecture]]
preset = "fcn"
depth = 1

[[architecture]]
preset = "fcn"
depth = 2
name = "deep"
"""


def gram(store: str, *settings: str, depth: int = 2, n: int = 40, test: int = 12) -> tuple[str, ...]:
    """The command that fills a store."""
    sizes = ("--depth", str(depth), "--n", str(n), "--test", str(test))
    kernels = ("--kernel", "both", "--dtype", "float64", "--backend", "reference")
    return ("gram", "--arch", "fcn", *ROWS, *sizes, *kernels, *settings, "--out", store)


@dataclass(frozen=True)
class Job:
    """Commands that end in files.

    Attributes:
        name: of the job.
        commands: of a store → the commands in their order; the last one is what is disturbed.
        given: files that the earlier commands have made.
        work: patterns of files that hold finished work: none of them may be made twice.
        lasting: of those, the ones that are superseded only by the result itself.
        result: the file that ends the job: behind it only tiles need not be made twice.
        numbers: folder, store → what must be equal, by name.
        reader: of a store → a command that must give the right numbers in `READER`, or refuse.
        small, fresh: whether constants are small, and whether the interpreter is a new one.
    """

    name: str
    commands: Callable[[str], tuple[tuple[str, ...], ...]]
    given: tuple[str, ...]
    work: tuple[str, ...]
    numbers: Callable[[Path, str], Mapping[str, str]]
    lasting: tuple[str, ...] = ()
    result: str = ""
    reader: Callable[[str], tuple[str, ...]] | None = None
    small: bool = True
    fresh: bool = False
    has_store: bool = True


def store_numbers(path: Path) -> dict[str, str]:
    """Of every number of a complete store, a checksum by name."""
    store = GramStore.open(path)
    arrays = {f"{k} {part}": getattr(store, part)(k) for k in store.kernels for part in ("train", "test")}
    arrays |= {"y train": store.y_train, "y test": store.y_test, "rows": store.rows_train}
    return {name: checksum(array) for name, array in arrays.items()}


def _gram_numbers(folder: Path, store: str) -> dict[str, str]:
    return store_numbers(folder / store)


def _fit_numbers(folder: Path, store: str) -> dict[str, str]:
    with (folder / "fit" / "fit.csv").open(encoding="utf-8", newline="") as file:
        rows = [row[1:] for row in csv.reader(file)]
    return {**store_numbers(folder / store), "fit.csv": _digest(rows), "fit.json": fit_result(folder / "fit")}


def fit_result(folder: Path) -> str:
    """A checksum of what fit.json says, the names and places of the stores aside."""
    records = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    return _digest([{k: v for k, v in record.items() if k not in ("path", "label")} for record in records])


def _solution_numbers(folder: Path, store: str) -> dict[str, str]:
    saved = SavedSolution.read(folder / "x.solution.h5")
    facts = {k: v for k, v in saved.facts.items() if k != "seconds"}
    told = {"coefficients": checksum(saved.coefficients), "facts": _digest(facts)}
    return {**store_numbers(folder / store), **told}


def _study_numbers(folder: Path, store: str) -> dict[str, str]:
    numbers = {}
    for path in sorted((folder / "out" / "curves").glob("*.npz")):
        curve = load(path).curve
        for name in ("loss", "mse", "loo", "gcv", "squared_errors"):
            numbers[f"{path.name} {name}"] = checksum(getattr(curve, name))
    results = json.loads((folder / "out" / "small" / "results.json").read_text(encoding="utf-8"))
    for curve_record in results["curves"]:
        del curve_record["about"]
    return {**numbers, "results.json": _digest(results)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _fit_in_memory(store: str) -> tuple[str, ...]:
    settings = ("--kernel", "ntk", "--ridge", "1e-3", "--no-loo", "--no-exponent")
    return ("fit", store, *settings, "--out", READER)


SOLVE = ("--solver", "cg", "--ridge", "1e-4", "--rank", "4", "--rtol", "1e-9", "--out", "x.solution.h5")
TILES = "**/*.gram/tiles/*.h5"
JOBS = {
    job.name: job
    for job in (
        Job(
            name="gram",
            commands=lambda store: (gram(store),),
            given=(),
            work=(TILES,),
            numbers=_gram_numbers,
            reader=_fit_in_memory,
        ),
        Job(
            name="fit",
            commands=lambda store: (
                gram(store),
                ("fit", store, "--kernel", "ntk", "--ridge", "1e-3", "--scratch", "scratch", "--out", "fit"),
            ),
            given=(STORE,),
            work=(TILES, *(f"scratch/*/*/{name}" for name in ("panel-*", "test-*.npz", "loo-*.npz"))),
            lasting=("scratch/*/curve-*.npz",),
            result="fit/fit.json",
            numbers=_fit_numbers,
        ),
        Job(
            name="solve",
            commands=lambda store: (gram(store), ("solve", store, *SOLVE)),
            given=(STORE,),
            work=(TILES,),
            result="x.solution.h5",
            numbers=_solution_numbers,
        ),
        Job(
            name="study",
            commands=lambda store: (("study", "run", "study.toml", "--out", "out"),),
            given=("study.toml",),
            work=(TILES, "out/curves/*.npz"),
            numbers=_study_numbers,
            has_store=False,
        ),
        Job(
            name="fresh",
            commands=lambda store: (gram(store, n=150, test=70),),
            given=(),
            work=(TILES,),
            numbers=_gram_numbers,
            small=False,
            fresh=True,
        ),
    )
}
