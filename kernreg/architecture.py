"""Architecture: which infinite-width network a kernel belongs to.

Frozen, hashable and printable. The presets are the ladder of Xiao & Pennington (2022), each rung one symmetry
poorer than the one before: FCN → LCN (locality) → VEC (weight sharing) → GAP (translation invariance).
NNGP and NTK are two kernels *of* an architecture, so the choice between them is an argument of `kernreg.gram`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from kernreg.errors import KernregError, reason
from kernreg.layers import (
    Activation,
    AvgPool,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Layer,
    LocalConv,
    Padding,
    layer_from_dict,
    layer_to_dict,
)

Window: TypeAlias = int | tuple[int, int]

DEPTH = 3
FILTER = 3
RADIUS = 2
WEIGHT_VARIANCE = 2.0
BIAS_VARIANCE = 0.01
DEEPEST = 1000  # hidden layers of a preset
MOST_LAYERS = 4096
LONGEST_NAME = 100


@dataclass(frozen=True)
class Architecture:
    """A sequence of layers from input to output.

    Attributes:
        layers: the whole network, readout included.
        name: what tables and figures call it; takes no part in equality, hash and digest.
    """

    layers: tuple[Layer, ...]
    name: str = ""

    def __post_init__(self) -> None:
        if not self.layers:
            raise KernregError("an architecture needs at least one layer")
        if len(self.name) > LONGEST_NAME or not self.name.isprintable() or "$" in self.name:
            raise KernregError(
                f"an architecture's name has at most {LONGEST_NAME} characters, all of them printable, "
                "and no $, which figures take for a formula"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self.layers == other.layers

    def __hash__(self) -> int:
        return hash(self.layers)

    def __str__(self) -> str:
        return f"{self.name or 'network'}: " + " → ".join(_short(layer) for layer in self.layers)

    @property
    def digest(self) -> str:
        """Hexadecimal, 16 digits; equal for equal layers, the same on every machine and in every version."""
        text = json.dumps(self.to_dict()["layers"], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def depth(self) -> int:
        """The number of hidden layers, that is of activations outside residual branches."""
        return sum(isinstance(layer, Activation) for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """`{"name": …, "layers": [{"type": …}, …]}`, ready for JSON."""
        return {"name": self.name, "layers": [layer_to_dict(layer) for layer in self.layers]}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Architecture:
        """The inverse of `to_dict`; "name" may be absent.

        Raises:
            KernregError: unknown layer type, missing or unknown key, value out of range.
        """
        if not isinstance(d, Mapping) or not isinstance(d.get("layers"), list | tuple):
            raise KernregError('an architecture is an object {"layers": [...]}')
        if len(d["layers"]) > MOST_LAYERS:
            raise KernregError(f"an architecture has at most {MOST_LAYERS} layers, not {len(d['layers'])}")
        name = d.get("name", "")
        if not isinstance(name, str):
            raise KernregError(f"the name of an architecture is a text, not a {type(name).__name__}")
        return cls(tuple(layer_from_dict(layer) for layer in d["layers"]), name)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """The architecture of a JSON text, see `from_dict`.

        Raises:
            KernregError: not JSON, or as `from_dict`.
        """
        try:
            d = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise KernregError(f"not JSON: {reason(error)}") from None
        return cls.from_dict(d)

    @classmethod
    def fcn(
        cls,
        depth: int = DEPTH,
        weight_variance: float = WEIGHT_VARIANCE,
        bias_variance: float = BIAS_VARIANCE,
        *,
        activation: str = "relu",
        readout_weight_variance: float | None = None,
        readout_bias_variance: float | None = None,
    ) -> Architecture:
        """[dense → activation] × depth → dense. Images are flattened: S₀ = ⟨x, z⟩/(H·W·C)."""
        hidden = (Dense(weight_variance, bias_variance), Activation(activation)) * _depth(depth)
        readout = _readout(weight_variance, bias_variance, readout_weight_variance, readout_bias_variance)
        return cls((*hidden, readout), "fcn")

    @classmethod
    def lcn(cls, depth: int = DEPTH, filter: Window = FILTER, **settings: Any) -> Architecture:
        """[local conv → activation] × depth → flatten → dense; the kernel of `vec`, see docs/kernels.md."""
        return _convolutional("lcn", LocalConv, Flatten(), depth, filter, **settings)

    @classmethod
    def vec(cls, depth: int = DEPTH, filter: Window = FILTER, **settings: Any) -> Architecture:
        """[conv → activation] × depth → flatten → dense.

        Keyword arguments of `lcn`, `vec`, `gap` and `lcn_gap`: padding ("SAME", "CIRCULAR" or "VALID"), stride (of
        every layer), weight_variance, bias_variance, activation ("relu" or "erf"), readout_weight_variance,
        readout_bias_variance (both default to those of the hidden layers).
        """
        return _convolutional("vec", Conv, Flatten(), depth, filter, **settings)

    @classmethod
    def gap(cls, depth: int = DEPTH, filter: Window = FILTER, **settings: Any) -> Architecture:
        """[conv → activation] × depth → global average pool → dense. Keyword arguments as in `vec`."""
        return _convolutional("gap", Conv, GlobalAvgPool(), depth, filter, **settings)

    @classmethod
    def lcn_gap(cls, depth: int = DEPTH, filter: Window = FILTER, **settings: Any) -> Architecture:
        """[local conv → activation] × depth → global average pool → dense. Keyword arguments as in `vec`."""
        return _convolutional("lcn-gap", LocalConv, GlobalAvgPool(), depth, filter, **settings)

    @classmethod
    def lap(
        cls, depth: int = DEPTH, filter: Window = FILTER, radius: int = RADIUS, **settings: Any
    ) -> Architecture:
        """[conv → activation] × depth → average over (2·radius + 1)² places → flatten → dense.

        The local average pooling of Li et al. (2019), *Enhanced convolutional neural tangent kernels*: between `vec` (radius 0)
        and `gap` (CIRCULAR, 2·radius + 1 = H = W). The pool has stride 1 and the padding of the network (SAME if that is VALID);
        with SAME a window over the border counts what it misses as zeros. Keyword arguments as in `vec`.
        """
        if not isinstance(radius, int) or radius < 0:
            raise KernregError(f"radius must be a whole number ≥ 0, not {radius!r}")
        padding: Padding = "CIRCULAR" if settings.get("padding") == "CIRCULAR" else "SAME"
        pool = AvgPool((2 * radius + 1,) * 2, (1, 1), padding)
        return _convolutional("lap", Conv, pool, depth, filter, **settings)

    @classmethod
    def patches(
        cls,
        depth: int = 3,
        filter: Window = 2,
        *,
        hidden: int = 1,
        pooled: bool = False,
        weight_variance: float = WEIGHT_VARIANCE,
        bias_variance: float = BIAS_VARIANCE,
        activation: str = "relu",
        readout_weight_variance: float | None = None,
        readout_bias_variance: float | None = None,
        name: str = "patches",
    ) -> Architecture:
        """[conv, stride = filter → activation] × depth → flatten or gap → [dense → activation] × hidden → dense.

        Windows do not overlap; what does not fill one is dropped (VALID). The presets s-cnn, d-cnn, hr-cnn, hr-cnn-flatten and
        hr-cnn-gap of Xiao (2022) are these.
        """
        window = _window(filter)
        act = Activation(activation)
        convs = (Conv(window, window, "VALID", weight_variance, bias_variance), act) * _depth(depth)
        head = (Dense(weight_variance, bias_variance), act) * _depth(hidden)
        readout = _readout(weight_variance, bias_variance, readout_weight_variance, readout_bias_variance)
        return cls((*convs, GlobalAvgPool() if pooled else Flatten(), *head, readout), name)

    @classmethod
    def preset(cls, name: str, **settings: Any) -> Architecture:
        """A preset by the name that the command line uses; for fcn the settings of windows are refused.

        Raises:
            KernregError: unknown preset or setting.
        """
        key = {"cnn-vec": "vec", "cnn-gap": "gap"}.get(name.lower(), name.lower())
        makers: dict[str, Callable[..., Architecture]] = {
            "fcn": cls.fcn,
            "lcn": cls.lcn,
            "vec": cls.vec,
            "gap": cls.gap,
            "lcn-gap": cls.lcn_gap,
            "lap": cls.lap,
            "s-cnn": partial(cls.patches, depth=1, filter=4, name="s-cnn"),
            "d-cnn": partial(cls.patches, depth=2, filter=4, name="d-cnn"),
            "hr-cnn": partial(cls.patches, name="hr-cnn"),
            "hr-cnn-flatten": partial(cls.patches, hidden=0, name="hr-cnn-flatten"),
            "hr-cnn-gap": partial(cls.patches, hidden=0, pooled=True, name="hr-cnn-gap"),
        }
        if key not in makers:
            raise KernregError(f"unknown architecture {name!r}; known: {', '.join(PRESETS)}")
        try:
            return makers[key](**settings)
        except TypeError:
            foreign = {"lap": [], "fcn": ["filter", "padding", "stride", "radius"]} | {
                name: ["padding", "stride", "radius"] for name in PATCHES
            }
            wrong = [s for s in settings if s in foreign.get(key, ["radius"])] or [
                s for s in settings if s not in _SETTINGS
            ]
            if not wrong:
                raise
            raise KernregError(f"architecture {key!r} has no setting {wrong[0]!r}") from None


PATCHES = ("s-cnn", "d-cnn", "hr-cnn", "hr-cnn-flatten", "hr-cnn-gap")
PRESETS = ("fcn", "lcn", "vec", "cnn-vec", "gap", "cnn-gap", "lcn-gap", "lap", *PATCHES)
_SETTINGS = (
    "depth",
    "filter",
    "radius",
    "padding",
    "stride",
    "weight_variance",
    "bias_variance",
    "activation",
    "readout_weight_variance",
    "readout_bias_variance",
)


def _convolutional(
    name: str,
    conv: type[Conv],
    pool: Flatten | GlobalAvgPool | AvgPool,
    depth: int,
    filter: Window,
    *,
    padding: Padding = "SAME",
    stride: Window = 1,
    weight_variance: float = WEIGHT_VARIANCE,
    bias_variance: float = BIAS_VARIANCE,
    activation: str = "relu",
    readout_weight_variance: float | None = None,
    readout_bias_variance: float | None = None,
) -> Architecture:
    window, strides = _window(filter), _window(stride)
    hidden = (conv(window, strides, padding, weight_variance, bias_variance), Activation(activation))
    readout = _readout(weight_variance, bias_variance, readout_weight_variance, readout_bias_variance)
    end: tuple[Layer, ...] = (pool, Flatten()) if isinstance(pool, AvgPool) else (pool,)
    return Architecture((*(hidden * _depth(depth)), *end, readout), name)


def _readout(weight: float, bias: float, own_weight: float | None, own_bias: float | None) -> Dense:
    return Dense(weight if own_weight is None else own_weight, bias if own_bias is None else own_bias)


def _depth(depth: int) -> int:
    if not isinstance(depth, int) or not 0 <= depth <= DEEPEST:
        raise KernregError(f"depth must be a whole number from 0 to {DEEPEST}, not {depth!r}")
    return depth


def _window(value: Window) -> tuple[int, int]:
    if isinstance(value, int):
        return (value, value)
    h, w = value
    return (h, w)


def _short(layer: Layer) -> str:
    d = layer_to_dict(layer)
    kind = d.pop("type")
    if kind == "act":
        return str(d["fn"])
    if kind == "residual":
        return f"residual({len(d['branch'])} + {len(d['shortcut'])} layers)"
    parts = []
    for key in ("filter", "window"):
        if key in d:
            parts.append("×".join(map(str, d[key])))
            if tuple(d["strides"]) != (1, 1):
                parts.append("/" + "×".join(map(str, d["strides"])))
            parts.append(d["padding"])
    if "W_var" in d:
        parts.append(f"σw²={d['W_var']:g} σb²={d['b_var']:g}")
    return f"{kind}({' '.join(parts)})" if parts else kind
