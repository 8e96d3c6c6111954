"""What is read of a provenance: it may come from a file that somebody else wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kernreg.errors import KernregError, shown


def require_provenance(given: Any) -> None:
    """What is read of a provenance must have the types that `kernreg.data` writes; it may come from a file of anyone.

    Raises:
        KernregError: names the field.
    """
    if not isinstance(given, Mapping):
        raise KernregError(f"a provenance is a table, not {shown(given)}")
    for field, (what, valid) in _PROVENANCE.items():
        if given.get(field) is not None and not valid(given[field]):
            raise KernregError(f"provenance.{field} is {shown(given[field])}; it must be {what}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _is_transform(value: object) -> bool:
    if not isinstance(value, Mapping) or {"name", "seed", "patch", "hash"} - value.keys():
        return False
    patch, seed = value["patch"], value["seed"]
    sizes = patch is None or (
        isinstance(patch, list | tuple) and len(patch) == 2 and all(map(_is_whole, patch))
    )
    return (
        sizes
        and (seed is None or _is_whole(seed))
        and all(isinstance(value[k], str) for k in ("name", "hash"))
    )


def _numbers(value: object) -> bool:
    return isinstance(value, list | tuple) and all(type(v) in (int, float) and abs(v) < 1e300 for v in value)


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)


_PROVENANCE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "transform": ("a table of name, seed, patch and hash", _is_transform),
    "hashes": ("a table of texts", lambda v: isinstance(v, Mapping) and _texts(list(v.values()))),
    "classes": ("a whole number", _is_whole),
    "class_names": ("an array of texts", _texts),
    "mean": ("an array of finite numbers", _numbers),
    "std": ("an array of finite numbers", _numbers),
}
