"""kernreg: images → Gram matrix → learning curve → scaling exponent, for infinitely wide networks.

The names below are loaded when they are first used, so that `import kernreg` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernreg.architecture import Architecture as Architecture
    from kernreg.curve import learning_curve as learning_curve
    from kernreg.data import load as load
    from kernreg.errors import KernregError as KernregError
    from kernreg.exponent import fit_exponent as fit_exponent
    from kernreg.gram import gram as gram
    from kernreg.solve import solve as solve
    from kernreg.store import GramStore as GramStore

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "GramStore",
    "KernregError",
    "__version__",
    "fit_exponent",
    "gram",
    "learning_curve",
    "load",
    "solve",
]

_ROOMS = {
    "Architecture": "kernreg.architecture",
    "GramStore": "kernreg.store",
    "KernregError": "kernreg.errors",
    "fit_exponent": "kernreg.exponent",
    "gram": "kernreg.gram",
    "learning_curve": "kernreg.curve",
    "load": "kernreg.data",
    "solve": "kernreg.solve",
}


class _Package(ModuleType):
    """`kernreg.gram` and `kernreg.solve` are the functions, also after something has imported the modules of these names."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("gram", "solve") or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'kernreg' has no attribute {name!r}")
    value = getattr(import_module(_ROOMS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
