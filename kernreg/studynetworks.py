"""The networks of a study file: architectures, whose kernels are measured, and finite networks, which are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernreg.architecture import DEEPEST, PRESETS, Architecture
from kernreg.errors import KernregError
from kernreg.keys import Keys, Kind, choice, integer, integers, number, tables_of, text
from kernreg.training import Trained, Training, sizes_from


def architectures(tables: Sequence[Mapping[str, Any]]) -> tuple[Architecture, ...]:
    """The networks that the tables [[architecture]] describe, with names of their own.

    Raises:
        KernregError: a key or value that is not known, a name given twice.
    """
    made: list[Architecture] = []
    for i, table in enumerate(tables, 1):
        keys = Keys(f"[[architecture]] {i}", table)
        name = keys.take("name", *text(), None)
        architecture = _architecture(keys, table, name)
        keys.close()
        if any(architecture.name == other.name for other in made):
            raise KernregError(f"{keys.where}: the name {architecture.name!r} is taken; give another one")
        made.append(architecture)
    return tuple(made)


def finite_networks(
    tables: Sequence[Mapping[str, Any]], named: Sequence[Architecture]
) -> tuple[Trained, ...]:
    """The trained networks that the tables [[network]] describe, with names of their own.

    Args:
        named: the architectures of the file, which a network may name.

    Raises:
        KernregError: a key or value that is not known, a name given twice.
    """
    made: list[Trained] = []
    known = {architecture.name: architecture for architecture in named}
    for i, table in enumerate(tables, 1):
        keys = Keys(f"[[network]] {i}", table)
        name = keys.take("name", *text(), "")
        if "architecture" in keys:
            architecture = known[keys.take("architecture", *choice(tuple(known)))]
        else:
            architecture = _architecture(keys, table, None)
        sizes = keys.take("sizes", *integers(1), None)
        anything: Kind = ("", lambda value: True)
        settings = {key: keys.take(key, *anything) for key in Training.names() if key in table}
        keys.close((*keys.known, *Training.names()))
        try:
            training = Training(**settings)
            network = Trained(architecture, training, None if sizes is None else sizes_from(sizes), name)
        except KernregError as error:
            raise KernregError(f"{keys.where}: {error}") from None
        if network.label in (*known, *(other.label for other in made)):
            raise KernregError(f"{keys.where}: the name {network.label!r} is taken; give another one")
        made.append(network)
    return tuple(made)


def is_window_size(value: object) -> bool:
    """k, or [h, w]."""
    valid = integer(1)[1]
    return valid(value) or (isinstance(value, list) and len(value) == 2 and all(map(valid, value)))


def _architecture(keys: Keys, table: Mapping[str, Any], name: str | None) -> Architecture:
    """What preset and its settings, or layers, say."""
    layers = keys.take("layers", *tables_of(), None)
    preset = keys.take("preset", *choice(PRESETS), None)
    if (layers is None) == (preset is None):
        raise KernregError(f"{keys.where} needs one of preset and layers; presets: {', '.join(PRESETS)}")
    settings = {key: keys.take(key, *_SETTING[key]) for key in _SETTING if key in table}
    try:
        if layers is not None:
            if settings:
                raise KernregError(f"{next(iter(settings))} belongs to a preset; layers say it themselves")
            return Architecture.from_dict({"layers": layers, "name": name or "network"})
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        made = Architecture.preset(preset, **settings)
        return Architecture(made.layers, name or made.name)
    except (KernregError, TypeError, ValueError) as error:
        raise KernregError(f"{keys.where}: {error}") from None


_SETTING: dict[str, Kind] = {
    "depth": integer(0, DEEPEST),
    "filter": ("a whole number or two of them", is_window_size),
    "stride": ("a whole number or two of them", is_window_size),
    "padding": text(),
    "weight_variance": number(0),
    "bias_variance": number(0),
    "activation": text(),
    "readout_weight_variance": number(0),
    "readout_bias_variance": number(0),
}
