"""The data sets by name: what they are, where they come from, whether their files are here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kernreg.data.files import SUFFIXES
from kernreg.data.places import default_data_dir
from kernreg.errors import KernregError

CITE_CIFAR = "A. Krizhevsky, 2009, https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class Entry:
    """One data set of the registry.

    kind      "embedded" (comes with a dependency), "files" (original files under --data-dir) or "generated"
    function  "module:function": data_dir → Source, or for "generated" (n, test, seed, …) → Dataset
    """

    name: str
    title: str
    kind: str
    function: str
    shape: tuple[int, ...] | None
    train: int | None
    test: int | None
    classes: int | None
    source: str
    licence: str
    normalise: str = "standard"


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "digits",
            "handwritten digits, inside scikit-learn",
            "embedded",
            "kernreg.data.digits:digits",
            (8, 8, 1),
            1797,
            None,
            10,
            "E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998",
            "CC BY 4.0",
        ),
        Entry(
            "cifar10",
            "photographs of 10 classes",
            "files",
            "kernreg.data.cifar:cifar10",
            (32, 32, 3),
            50_000,
            10_000,
            10,
            CITE_CIFAR,
            "none stated",
        ),
        Entry(
            "cifar100",
            "photographs of 100 classes (fine labels)",
            "files",
            "kernreg.data.cifar:cifar100",
            (32, 32, 3),
            50_000,
            10_000,
            100,
            CITE_CIFAR,
            "none stated",
        ),
        Entry(
            "mnist",
            "handwritten digits",
            "files",
            "kernreg.data.idx:mnist",
            (28, 28, 1),
            60_000,
            10_000,
            10,
            "Y. LeCun, C. Cortes, C. Burges, http://yann.lecun.com/exdb/mnist",
            "none stated on the original page",
        ),
        Entry(
            "fashion-mnist",
            "pictures of clothing",
            "files",
            "kernreg.data.idx:fashion_mnist",
            (28, 28, 1),
            60_000,
            10_000,
            10,
            "H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747",
            "MIT",
        ),
        Entry(
            "synthetic",
            "regression whose exponent is known in closed form",
            "generated",
            "kernreg.data.synthetic:synthetic",
            None,
            None,
            None,
            None,
            "generated",
            "BSD-3-Clause",
            "none",
        ),
        Entry(
            "sphere",
            "one sphere, polynomials of chosen degree, range and symmetry",
            "generated",
            "kernreg.data.spheres:sphere",
            None,
            None,
            None,
            None,
            "generated",
            "BSD-3-Clause",
            "none",
        ),
        Entry(
            "sphere-product",
            "a grid of spheres, polynomials of chosen degree, range and symmetry",
            "generated",
            "kernreg.data.spheres:sphere_product",
            None,
            None,
            None,
            None,
            "generated",
            "BSD-3-Clause",
            "none",
        ),
        Entry(
            "eigenspaces",
            "64 spheres in a hierarchy, eight polynomials (Xiao 2022)",
            "generated",
            "kernreg.data.eigenspaces:eigenspaces",
            (1, 256, 1),
            None,
            None,
            None,
            "generated",
            "BSD-3-Clause",
            "none",
        ),
        Entry(
            "synthetic-images",
            "random fields with the spectrum of photographs, 10 classes, any number",
            "generated",
            "kernreg.data.images:synthetic_images",
            (32, 32, 3),
            None,
            None,
            10,
            "generated",
            "BSD-3-Clause",
            "none",
        ),
    )
}


def names() -> tuple[str, ...]:
    """Names that `load` knows."""
    return tuple(name for name, entry in ENTRIES.items() if _available(entry))


def describe(name: str, data_dir: str | Path | None = None) -> dict[str, Any]:
    """What `kernreg data show NAME` prints, JSON-able: facts, and whether its files are here."""
    entry = find(name)
    if entry is None:
        raise KernregError(f"{name} is a file; `kernreg data show` describes data sets by name")
    folder = folder_of(data_dir) if entry.kind == "files" else None
    where = None if folder is None else _where(entry, folder)
    return {
        "name": entry.name,
        "title": entry.title,
        "kind": entry.kind,
        "shape": None if entry.shape is None else list(entry.shape),
        "train": entry.train,
        "test": entry.test,
        "classes": entry.classes,
        "normalise": entry.normalise,
        "present": entry.kind != "files" or where is not None,
        "where": {"embedded": "embedded", "generated": "generated"}.get(entry.kind, where),
        "data_dir": None if folder is None else str(folder),
        "source": entry.source,
        "licence": entry.licence,
    }


def listing(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """`describe` of every data set: the rows of `kernreg data list`."""
    return [describe(name, data_dir) for name in names()]


def find(name: str | Path) -> Entry | None:
    """The entry of a name, or None for the path of a file."""
    if str(name) in names():
        return ENTRIES[str(name)]
    if Path(name).suffix in SUFFIXES:
        return None
    raise KernregError(
        f"unknown data set {str(name)!r}; known are {', '.join(names())}, "
        f"or the path of a {', '.join(SUFFIXES)} file"
    )


def _available(entry: Entry) -> bool:
    return find_spec(entry.function.partition(":")[0]) is not None


def function(entry: Entry) -> Any:
    """The function that reads or generates the data, its module imported only now."""
    module, _, function = entry.function.partition(":")
    return getattr(import_module(module), function)


def folder_of(data_dir: str | Path | None) -> Path:
    """data_dir, or the default one."""
    return default_data_dir() if data_dir is None else Path(data_dir).expanduser()


def _where(entry: Entry, folder: Path) -> str | None:
    """Where the files of an entry lie, or None."""
    if entry.function.startswith("kernreg.data.cifar:"):
        from kernreg.data import cifar

        found = cifar.locate(entry.name, folder)
        return None if found is None else str(found[1])
    from kernreg.data import idx

    paths = idx.locate(entry.name, folder)
    return str(next(iter(paths.values())).parent) if len(paths) == len(idx.FILES) else None
