"""`load` a data set by name or path, and `reload` the one that a provenance describes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernreg.data.dataset import Dataset, differences
from kernreg.data.files import SUFFIXES, default_normalise, read_file
from kernreg.data.registry import Entry, find, folder_of, function
from kernreg.data.source import take
from kernreg.errors import KernregError
from kernreg.reloadable import require_provenance
from kernreg.symmetry import Window


def load(
    name: str | Path,
    n: int | None = None,
    test: int | None = None,
    data_dir: str | Path | None = None,
    normalise: str | None = None,
    seed: int = 0,
    balanced: bool = True,
    dtype: str = "float32",
    transform: str = "none",
    transform_seed: int = 0,
    patch: Window | None = None,
    **settings: Any,
) -> Dataset:
    """n train and `test` test rows of a data set of the registry or of a .npz, .npy, .h5 or .hdf5 file.

    n, test    by default everything that is not for testing, and 1000 test rows or what there is (a fifth at
               most where train and test rows share the data); 1000 + 1000 of synthetic-images
    data_dir   where the original files lie; by default $KERNREG_DATA or the platform's cache folder
    normalise  "standard", "per-image", "unit" or "none" (`kernreg.data.normalise`); None: the data set's own
    seed       of the row order, or of the generator
    balanced   every prefix in the class mix of the whole (`kernreg.data.subsample`), else a plain shuffle
    dtype      "float32" or "float64" of x
    transform  of all rows, train and test alike, by name (`kernreg.symmetry`), drawn from transform_seed; patch is
               the size of the patches of "patch-rotation"
    settings   of the generated data sets alone, passed on to them

    Raises KernregError: unknown name or setting, missing or damaged files, n or test beyond the data, a transform
    that rows of this shape do not have.
    """
    rows = _load(name, n, test, data_dir, normalise, seed, balanced, dtype, settings)
    return rows.transformed(transform, transform_seed, patch)


def _load(
    name: str | Path,
    n: int | None,
    test: int | None,
    data_dir: str | Path | None,
    normalise: str | None,
    seed: int,
    balanced: bool,
    dtype: str,
    settings: dict[str, Any],
) -> Dataset:
    entry = find(name)
    if entry is not None and entry.kind == "generated":
        return _generate(entry, n, test, normalise, seed, balanced, dtype, settings)
    if settings:
        raise KernregError(
            f"{name} has no setting {', '.join(settings)}; generated data sets alone have settings"
        )
    if entry is None:
        path = Path(name).expanduser()
        source = read_file(path)
        return take(source, path.name, n, test, seed, balanced, normalise or default_normalise(source), dtype)
    source = function(entry)(folder_of(data_dir))
    return take(source, entry.name, n, test, seed, balanced, normalise or entry.normalise, dtype)


def reload(provenance: Mapping[str, Any], data_dir: str | Path | None = None) -> Dataset:
    """The data set a provenance describes, loaded again from the same files.

    A user's file is looked for at its old path, then under its name in data_dir. Raises KernregError when
    the files are not there or when anything, a file's sha256 first of all, is not as it was.
    """
    require_provenance(provenance)
    lacking = [key for key in ("name", "n", "test", "seed", "dtype") if key not in provenance]
    if lacking:
        raise KernregError(f"this provenance cannot be loaded again: it lacks {', '.join(lacking)}")
    name = str(provenance["name"])
    wanted = {key: provenance[key] for key in _parameters(name) if key in provenance} | _transform(provenance)
    if Path(name).suffix in SUFFIXES:
        places = [Path(str(provenance.get("path")))]
        if data_dir is not None:
            places.append(Path(data_dir).expanduser() / Path(name).name)
        found = [path for path in places if path.is_file()]
        if not found:
            raise KernregError(
                f"{name} is not at {' or '.join(map(str, places))}; name its folder with --data-dir"
            )
        name = str(found[0])
    dataset = load(name, data_dir=data_dir, **wanted)
    different = differences(provenance, dataset.provenance)
    if "hashes" in different:
        old, new = provenance.get("hashes") or {}, dataset.provenance.get("hashes") or {}
        files = sorted(file for file in old.keys() | new.keys() if old.get(file) != new.get(file))
        raise KernregError(
            f"{dataset.name}: the content of {', '.join(files)} is not what it was; bring back the old files"
        )
    if "transform" in different:
        raise KernregError(
            f"{dataset.name}: the {wanted['transform']} of seed {wanted['transform_seed']} is another one here than "
            "when the store was made; use the version of kernreg that made it"
        )
    if different:
        raise KernregError(f"{dataset.name} loads differently now: {', '.join(different)} changed")
    return dataset


def _generate(
    entry: Entry,
    n: int | None,
    test: int | None,
    normalise: str | None,
    seed: int,
    balanced: bool,
    dtype: str,
    settings: dict[str, Any],
) -> Dataset:
    generator = function(entry)
    given = {"seed": seed, "balanced": balanced, "dtype": dtype, "normalise": normalise or entry.normalise}
    sizes = {key: value for key, value in (("n", n), ("test", test)) if value is not None}
    known = inspect.signature(generator).parameters
    if "normalise" not in known and normalise not in (None, "none"):
        raise KernregError(f"{entry.name} is generated to scale; leave normalise away")
    strange = [key for key in settings if key not in known]
    if strange:
        own = [key for key in known if key not in given and key not in ("n", "test")]
        raise KernregError(f"{entry.name} has no setting {', '.join(strange)}; it has {', '.join(own)}")
    dataset: Dataset = generator(**sizes, **{k: v for k, v in given.items() if k in known}, **settings)
    return dataset


def _transform(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `load` that make the transform of a provenance, if it has one."""
    made = provenance.get("transform")
    if made is None:
        return {}
    return {"transform": made["name"], "transform_seed": made["seed"] or 0, "patch": made["patch"]}


def _parameters(name: str) -> set[str]:
    """What determines the rows of a data set, apart from its name: all of it stands in the provenance."""
    entry = find(name)
    if entry is not None and entry.kind == "generated":
        return set(inspect.signature(function(entry)).parameters)
    return {"n", "test", "seed", "balanced", "normalise", "dtype"}
