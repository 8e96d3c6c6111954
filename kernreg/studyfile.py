"""Study files: TOML → what is to be measured, with every key checked (docs/study.md)."""

from __future__ import annotations

import inspect
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernreg.architecture import Architecture
from kernreg.data.normalise import NORMALISATIONS
from kernreg.data.registry import find, function
from kernreg.errors import KernregError, reason
from kernreg.keys import REQUIRED, Keys, choice, choices, integer, integers, number, tables_of, text
from kernreg.provenance import DTYPES, KERNELS
from kernreg.ridge import RidgeMode
from kernreg.studynetworks import architectures, finite_networks, is_window_size
from kernreg.symmetry import NAMES, UNDRAWN
from kernreg.training import Trained

COINCIDE = 1e-6  # largest relative difference of two curves that are one, unless the file says otherwise
AXES = ("architecture", "kernel", "transform", "transform_seed", "seed", "n")
LARGEST_TEXT = 1 << 16  # characters: a study has a few thousand
MOST_DOTS = 200  # of a line: TOML takes time in the square of the length of a dotted key
MOST_CURVES = 100_000


@dataclass(frozen=True)
class Data:
    """The table [data]: what `kernreg.load` is called with.

    Attributes:
        name: of a data set, or the path of a file, relative to the study file.
        sizes: training rows, increasing; one learning curve for each.
        test: test rows.
        seeds: of the row order.
        normalise, balanced, dtype: as in `kernreg.load`; None: the data set's own.
        settings: of a generated data set.
    """

    name: str
    sizes: tuple[int, ...]
    test: int
    seeds: tuple[int, ...] = (0,)
    normalise: str | None = None
    balanced: bool = True
    dtype: str = "float64"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """The table [fit]: from a Gram matrix to an exponent, see `learning_curve` and `fit_exponent`."""

    ridge: float | str = 1e-6
    ridge_mode: RidgeMode = "absolute"
    model: str = "auto"
    window: tuple[float, float] | None = None
    breaks: bool = False
    spectrum: int = 2048


@dataclass(frozen=True)
class Pair:
    """A table [[compare]] or [[coincide]]: what two sides must have, axis by axis; see `kernreg.entries.matches`.

    Attributes:
        first, second: values by axis; an axis that they do not name must be equal on both sides.
        tolerance: of [[coincide]], the largest relative difference of the losses at any sample count.
    """

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    tolerance: float = COINCIDE


@dataclass(frozen=True)
class StudyFile:
    """A study file, checked.

    Attributes:
        name: of the study's folder.  title, note: for the page.
        data, fit: see there.
        architectures: with the names that tables and figures call them.
        networks: finite ones, likewise; each is trained under every transform, seed and n.
        kernels: "nngp", "ntk" or both.
        transforms: names known to `kernreg.symmetry`, "none" for the data as they are.
        transform_seeds: of the group elements.  patch: of "patch-rotation", a size or (height, width).
        backend, dtype: of the Gram matrices.
        ladder: compare neighbouring architectures, and each transform with "none".
        theory: check that the curves coincide which theory says are one.  tolerance: to which relative difference.
        compare, coincide: further pairs.
        source: the text of the file.
    """

    name: str
    data: Data
    architectures: tuple[Architecture, ...]
    fit: Fit = Fit()
    title: str = ""
    note: str = ""
    kernels: tuple[str, ...] = ("ntk",)
    transforms: tuple[str, ...] = ("none",)
    transform_seeds: tuple[int, ...] = (0,)
    patch: int | tuple[int, int] | None = None
    backend: str = "auto"
    dtype: str = "float64"
    ladder: bool = True
    theory: bool = True
    tolerance: float = COINCIDE
    compare: tuple[Pair, ...] = ()
    coincide: tuple[Pair, ...] = ()
    networks: tuple[Trained, ...] = ()
    source: str = ""


def read(path: str | os.PathLike[str]) -> StudyFile:
    """A study file from its path.

    Raises:
        KernregError: no such file, not TOML, a key or value that is not known; one line that names it.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            source = stream.read(LARGEST_TEXT + 1).decode()
    except UnicodeDecodeError as error:
        raise KernregError(f"{path} is not UTF-8 text: {error.reason}") from None
    except OSError as error:
        raise KernregError(f"cannot read the study file {path}: {error.strerror}") from None
    try:
        return parse(source, path.parent)
    except KernregError as error:
        raise KernregError(f"{path}: {error}") from None


def parse(source: str, folder: Path = Path()) -> StudyFile:
    """A study file from its text; `folder` is what paths of data files are relative to.

    Raises:
        KernregError: as `read`, without the path.
    """
    if len(source) > LARGEST_TEXT:
        raise KernregError(f"it has more than {LARGEST_TEXT} characters, which no study file needs: split it")
    for row, line in enumerate(source.split("\n"), 1):
        if line.count(".") > MOST_DOTS:
            raise KernregError(f"line {row} has more than {MOST_DOTS} dots: no key is nested so deeply")
    try:
        whole = Keys("the file", tomllib.loads(source))
    except (ValueError, RecursionError) as error:
        raise KernregError(f"not TOML: {reason(error)}") from None
    study = Keys("[study]", whole.take("study", "a table", lambda v: isinstance(v, dict)))
    data = Keys("[data]", whole.take("data", "a table", lambda v: isinstance(v, dict)))
    fit = Keys("[fit]", whole.take("fit", "a table", lambda v: isinstance(v, dict), {}))
    networks = whole.take("network", *tables_of(), ())
    kernels = architectures(whole.take("architecture", *tables_of(), () if networks else REQUIRED))
    trained = finite_networks(networks, kernels)
    compare, coincide = (whole.take(key, *tables_of(), ()) for key in ("compare", "coincide"))
    whole.close()
    dtype = study.take("dtype", *choice(DTYPES), "float64")
    settings: dict[str, Any] = {
        "name": study.take("name", "a name of letters, digits, . _ and -", _is_name),
        "title": study.take("title", *text(), ""),
        "note": study.take("note", *text(), ""),
        "kernels": tuple(study.take("kernels", *choices(KERNELS), ("ntk",))),
        "transforms": tuple(study.take("transforms", *choices(NAMES), ("none",))),
        "transform_seeds": tuple(study.take("transform_seeds", *integers(0), (0,))),
        "patch": _patch(study.take("patch", "a whole number or two of them", is_window_size, None)),
        "backend": study.take("backend", *text(), "auto"),
        "dtype": dtype,
        "ladder": study.take("ladder", "true or false", _is_bool, True),
        "theory": study.take("theory", "true or false", _is_bool, True),
        "tolerance": float(study.take("tolerance", *number(0), COINCIDE)),
    }
    study.close()
    if ("patch-rotation" in settings["transforms"]) != (settings["patch"] is not None):
        raise KernregError("[study] patch belongs to the transform patch-rotation: give both or neither")
    file = StudyFile(
        data=_data(data, dtype, folder),
        fit=_fit(fit),
        architectures=kernels,
        networks=trained,
        source=source,
        **settings,
    )
    for network in trained:
        for n in file.data.sizes:
            network.samples(n)
    _require_countable(file)
    known = _axes(file)
    return StudyFile(
        **{
            **vars(file),
            "compare": tuple(_pair(f"[[compare]] {i}", table, known) for i, table in enumerate(compare, 1)),
            "coincide": tuple(
                _pair(f"[[coincide]] {i}", table, known, trained, file.tolerance)
                for i, table in enumerate(coincide, 1)
            ),
        }
    )


def _patch(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", value) is not None


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _data(keys: Keys, dtype: str, folder: Path) -> Data:
    name = keys.take("name", *text())
    n = keys.take("n", "a whole number of at least 2, or an array of different ones", _is_size)
    given = keys.take("settings", "a table", lambda v: isinstance(v, dict), {})
    data = {
        "test": keys.take("test", *integer(1)),
        "seeds": tuple(keys.take("seeds", *integers(0), (0,))),
        "normalise": keys.take("normalise", *choice(NORMALISATIONS), None),
        "balanced": keys.take("balanced", "true or false", _is_bool, True),
        "dtype": keys.take("dtype", *choice(DTYPES), dtype),
    }
    keys.close()
    entry = find(name)
    if entry is None:
        name = str(folder / Path(name).expanduser())
    _settings(name, given, set() if entry is None or entry.kind != "generated" else _of(function(entry)))
    sizes = tuple(sorted(n if isinstance(n, list) else [n]))
    return Data(name=name, sizes=sizes, settings=dict(given), **data)


def _of(generator: Any) -> set[str]:
    own = {"n", "test", "seed", "balanced", "normalise", "dtype"}
    return set(inspect.signature(generator).parameters) - own


def _settings(name: str, given: Mapping[str, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            has = f"it has {', '.join(sorted(known))}" if known else "only generated data sets have settings"
            raise KernregError(f"[data.settings] {key}: {name} has no such setting; {has}")


def _is_size(value: object) -> bool:
    valid = integers(2)[1]
    return valid(value) if isinstance(value, list) else valid([value])


def _fit(keys: Keys) -> Fit:
    ridge = keys.take("ridge", 'a finite number ≥ 0, "loo" or "gcv"', _is_ridge, 1e-6)
    window = keys.take("window", "[low, high] with 0 < low < high", _is_window, None)
    fit = Fit(
        ridge=ridge if isinstance(ridge, str) else float(ridge),
        ridge_mode=keys.take("ridge_mode", *choice(("absolute", "relative")), "absolute"),
        model=keys.take("model", *choice(("auto", "power", "offset", "broken")), "auto"),
        window=None if window is None else (float(window[0]), float(window[1])),
        breaks=keys.take("breaks", "true or false", _is_bool, False),
        spectrum=keys.take("spectrum", *integer(0), 2048),
    )
    keys.close()
    return fit


def _is_ridge(value: object) -> bool:
    return value in ("loo", "gcv") or number(0)[1](value)


def _is_window(value: object) -> bool:
    finite = number(0)[1]
    return isinstance(value, list) and len(value) == 2 and all(map(finite, value)) and 0 < value[0] < value[1]


def _require_countable(file: StudyFile) -> None:
    drawn = sum(1 if name in UNDRAWN else len(file.transform_seeds) for name in file.transforms)
    networks = len(file.architectures) * len(file.kernels) + len(file.networks)
    data = len(file.data.seeds) * len(file.data.sizes)
    if (curves := networks * data * drawn) > MOST_CURVES:
        raise KernregError(f"it asks for {curves:,} curves; a study has at most {MOST_CURVES:,}: split it")


def _axes(file: StudyFile) -> dict[str, tuple[Any, ...]]:
    """The values that each axis has in this study."""
    return {
        "architecture": (
            *(a.name for a in file.architectures),
            *(network.label for network in file.networks),
        ),
        "kernel": tuple(
            dict.fromkeys((*file.kernels, *(network.training.optimizer for network in file.networks)))
        ),
        "transform": file.transforms,
        "transform_seed": file.transform_seeds,
        "seed": file.data.seeds,
        "n": file.data.sizes,
    }


def _pair(
    where: str,
    table: Mapping[str, Any],
    known: Mapping[str, Any],
    networks: tuple[Trained, ...] = (),
    tolerance: float | None = None,
) -> Pair:
    keys = Keys(where, table)
    sides = []
    for side in ("first", "second"):
        chosen = Keys(f"{where} {side}", keys.take(side, "a table", lambda v: isinstance(v, dict)))
        sides.append({axis: chosen.take(axis, *choice(known[axis])) for axis in AXES if axis in chosen})
        chosen.close(AXES)
    if tolerance is not None:
        tolerance = float(keys.take("tolerance", *number(0), tolerance))
    keys.close()
    for axis in (set(sides[0]) ^ set(sides[1])) - {"transform_seed"}:
        raise KernregError(f"{where} names {axis} on one side only; name it on both, or on neither")
    if sides[0] == sides[1]:
        raise KernregError(f"{where}: both sides are the same")
    trained = {network.label for network in networks}
    if tolerance is not None and any(side.get("architecture") in trained for side in sides):
        raise KernregError(f"{where}: trained networks scatter and never coincide; use [[compare]]")
    return Pair(sides[0], sides[1], COINCIDE if tolerance is None else tolerance)
