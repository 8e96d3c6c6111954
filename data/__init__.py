"""Data sets: one file per data set, a registry of names, and rows in a seeded, nested order.

`load(name_or_path, n, test, …)` gives a `Dataset`; docs/data.md tells the rules.
"""

from kernreg.data.dataset import Dataset, differences, identity, one_hot
from kernreg.data.loading import load, reload
from kernreg.data.places import default_data_dir
from kernreg.data.registry import describe, listing, names

__all__ = [
    "Dataset",
    "default_data_dir",
    "describe",
    "differences",
    "identity",
    "listing",
    "load",
    "names",
    "one_hot",
    "reload",
]
