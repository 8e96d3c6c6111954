"""Keys of a configuration table: what is taken is checked, what is left over is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

from kernreg.errors import KernregError, shown

Valid: TypeAlias = Callable[[Any], bool]
Kind: TypeAlias = tuple[str, Valid]  # what a value must be, in words and as a test

REQUIRED: Any = object()
_LARGEST = 1e300  # also of whole numbers: a float must hold them


class Keys:
    """One table, which `where` names in errors."""

    def __init__(self, where: str, table: Mapping[str, Any]) -> None:
        self.where, self._left, self._known = where, dict(table), list[str]()

    @property
    def known(self) -> tuple[str, ...]:
        """The keys that were asked for."""
        return tuple(self._known)

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str, what: str, valid: Valid, default: Any = REQUIRED) -> Any:
        """The value of a key, or the default.

        Raises:
            KernregError: the key is required and absent, or its value is not `what` it must be.
        """
        self._known.append(key)
        if key not in self._left:
            if default is REQUIRED:
                raise KernregError(f"{self.where} lacks the key {key}, {what}")
            return default
        value = self._left.pop(key)
        if not valid(value):
            raise KernregError(f"{self.where} {key} is {shown(value)}; it must be {what}")
        return value

    def close(self, known: Sequence[str] | None = None) -> None:
        """Raise KernregError if a key was not taken; `known` lists the keys, by default those asked for."""
        for key in self._left:
            names = list(known or self._known)
            near = get_close_matches(key[:60], names, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise KernregError(f"{self.where} has no key {shown(key)}; {hint}known keys: {', '.join(names)}")


def tables_of() -> Kind:
    """An array of tables, at least one."""
    return (
        "an array of tables",
        lambda v: isinstance(v, list) and bool(v) and all(isinstance(t, dict) for t in v),
    )


def text() -> Kind:
    """A string that is not empty."""
    return "a string", lambda v: isinstance(v, str) and bool(v)


def integer(least: int, most: int = 2**63 - 1) -> Kind:
    """A whole number."""
    words = f"from {least} to {most}" if most < 2**63 - 1 else f"of at least {least}"
    return f"a whole number {words}", lambda v: _is_integer(v) and least <= v <= most


def integers(least: int) -> Kind:
    """Different whole numbers, at least one."""
    return (
        f"an array of different whole numbers of at least {least}",
        lambda v: (
            isinstance(v, list) and all(_is_integer(i) and least <= i < 2**63 for i in v) and _distinct(v)
        ),
    )


def number(least: float) -> Kind:
    """A finite number."""
    return (
        f"a finite number ≥ {least:g}",
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and least <= v <= _LARGEST,
    )


def choice(known: Sequence[Any]) -> Kind:
    """One of several values."""
    return f"one of {', '.join(map(str, known))}", lambda v: any(v == k and type(v) is type(k) for k in known)


def choices(known: Sequence[Any]) -> Kind:
    """Different ones of several values, at least one."""
    one = choice(known)[1]
    return (
        f"an array of different ones of {', '.join(map(str, known))}",
        lambda v: isinstance(v, list) and all(map(one, v)) and _distinct(v),
    )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _distinct(values: list[Any]) -> bool:
    return bool(values) and len(set(values)) == len(values)
