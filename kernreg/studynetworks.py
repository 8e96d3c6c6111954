"""The networks of a study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kernreg.architecture import DEEPEST, PRESETS, Architecture
from kernreg.errors import KernregError
from kernreg.keys import Keys, Kind, choice, integer, number, tables_of, text


def architectures(tables: Sequence[Mapping[str, Any]]) -> tuple[Architecture, ...]:
    """The networks that the tables [[architecture]] describe, with names of their own.

    Raises:
        KernregError: a key or value that is not known, a name given twice.
    """
    made: list[Architecture] = []
    for i, table in enumerate(tables, 1):
        keys = Keys(f"[[architecture]] {i}", table)
        name = keys.take("name", *text(), None)
        layers = keys.take("layers", *tables_of(), None)
        preset = keys.take("preset", *choice(PRESETS), None)
        if (layers is None) == (preset is None):
            raise KernregError(f"{keys.where} needs one of preset and layers; presets: {', '.join(PRESETS)}")
        settings = {key: keys.take(key, *_SETTING[key]) for key in _SETTING if key in table}
        keys.close()
        try:
            if layers is not None:
                if settings:
                    raise KernregError(
                        f"{next(iter(settings))} belongs to a preset; layers say it themselves"
                    )
                architecture = Architecture.from_dict({"layers": layers, "name": name or "network"})
            else:
                settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
                preset_made = Architecture.preset(preset, **settings)
                architecture = Architecture(preset_made.layers, name or preset_made.name)
        except (KernregError, TypeError, ValueError) as error:
            raise KernregError(f"{keys.where}: {error}") from None
        if any(architecture.name == other.name for other in made):
            raise KernregError(f"{keys.where}: the name {architecture.name!r} is taken; give another one")
        made.append(architecture)
    return tuple(made)


def is_window_size(value: object) -> bool:
    """k, or [h, w]."""
    valid = integer(1)[1]
    return valid(value) or (isinstance(value, list) and len(value) == 2 and all(map(valid, value)))


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
