"""The layers of a network at infinite width, and their JSON.

A layer is a frozen value that says *what* is computed; how is the business of `kernreg.kernels`.
Variances are those of the NTK parameterization: a weight has variance W_var / fan-in, a bias b_var.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from kernreg.errors import KernregError, shown

Padding: TypeAlias = Literal["SAME", "CIRCULAR", "VALID"]
PADDINGS = ("SAME", "CIRCULAR", "VALID")
LARGEST_WINDOW = 2**16  # pixels along an axis, also of strides
MOST_NESTED = 32  # residual layers in residual layers


@dataclass(frozen=True)
class Dense:
    """Fully connected: S ← σw²·S + σb². On an image it mixes channels only (a 1×1 convolution)."""

    weight_variance: float
    bias_variance: float

    def __post_init__(self) -> None:
        _check_variances(self)


@dataclass(frozen=True)
class Conv:
    """Convolution with shared weights: S[p,p'] ← σw²/k²·Σ_δ S[s·p+δ, s·p'+δ] + σb²."""

    filter: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding
    weight_variance: float
    bias_variance: float

    def __post_init__(self) -> None:
        _check_variances(self)
        _check_window(self, "filter", self.filter)


@dataclass(frozen=True)
class LocalConv(Conv):
    """Convolution whose weights and biases differ from place to place: S[p,p'] ← 0 wherever p ≠ p'."""


@dataclass(frozen=True)
class Activation:
    """Pointwise nonlinearity: relu, erf, rbf (φ(t) = √2·sin(√2·t + π/4)), abs, identity or leaky_relu_SLOPE."""

    fn: str

    def __post_init__(self) -> None:
        if self.fn not in ("relu", "erf", "rbf", "abs", "identity") and self.slope is None:
            raise KernregError(
                f"unknown activation {shown(self.fn)}; use relu, erf, rbf, abs, identity or leaky_relu_SLOPE"
            )

    @property
    def slope(self) -> float | None:
        """The negative slope a of φ(t) = max(t, a·t) for relu, abs, identity and leaky_relu_a, else None."""
        named = {"relu": 0.0, "abs": -1.0, "identity": 1.0}
        if self.fn in named:
            return named[self.fn]
        leaky = re.fullmatch(r"leaky_relu_([0-9]{1,9}(?:\.[0-9]{0,30})?(?:e-?[0-9]{1,2})?)", self.fn)
        return float(leaky[1]) if leaky else None


@dataclass(frozen=True)
class AvgPool:
    """Local average; with SAME padding `normalize_edges` divides by the number of real pixels."""

    window: tuple[int, int]
    strides: tuple[int, int]
    padding: Padding
    normalize_edges: bool = False

    def __post_init__(self) -> None:
        _check_window(self, "window", self.window)


@dataclass(frozen=True)
class GlobalAvgPool:
    """S ← mean over p, p' of S[p,p']."""


@dataclass(frozen=True)
class Flatten:
    """S ← mean over p of S[p,p]."""


@dataclass(frozen=True)
class Residual:
    """Sum of two independent paths from the same input; an empty path is the identity."""

    branch: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()


Layer: TypeAlias = Dense | Conv | LocalConv | Activation | AvgPool | GlobalAvgPool | Flatten | Residual


def layer_from_dict(d: dict[str, Any], nested: int = 0) -> Layer:
    """One layer from its JSON object, in so many residual layers; the inverse of `layer_to_dict`.

    Raises:
        KernregError: unknown type, missing, unknown or ill-typed key.
    """
    if nested > MOST_NESTED:
        raise KernregError(f"residual layers are nested at most {MOST_NESTED} times")
    if not isinstance(d, dict) or "type" not in d:
        raise KernregError(f"a layer is an object with a 'type', not {shown(d)}")
    kind = d["type"]
    if not isinstance(kind, str) or kind not in _KEYS:
        raise KernregError(f"unknown layer type {shown(kind)}; known: {', '.join(_KEYS)}")
    if unknown := set(d) - set(_KEYS[kind]) - {"type"}:
        raise KernregError(
            f"layer {kind!r} has no key {shown(min(unknown, key=str))}; known: {', '.join(_KEYS[kind])}"
        )
    try:
        match kind:
            case "dense":
                return Dense(float(d["W_var"]), float(d["b_var"]))
            case "conv" | "conv_local":
                make = Conv if kind == "conv" else LocalConv
                window, strides = _pair(d["filter"]), _pair(d.get("strides", (1, 1)))
                return make(window, strides, d.get("padding", "SAME"), float(d["W_var"]), float(d["b_var"]))
            case "act":
                return Activation(str(d["fn"]))
            case "avg_pool":
                window = _pair(d["window"])
                strides = _pair(d.get("strides", window))
                return AvgPool(
                    window, strides, d.get("padding", "VALID"), bool(d.get("normalize_edges", False))
                )
            case "gap":
                return GlobalAvgPool()
            case "flatten":
                return Flatten()
            case _:
                branch, shortcut = (_path(d.get(k, ()), nested + 1) for k in ("branch", "shortcut"))
                return Residual(branch, shortcut)
    except KeyError as missing:
        raise KernregError(f"layer {kind!r} lacks the key {missing}") from None
    except (TypeError, ValueError, OverflowError) as wrong:
        raise KernregError(f"layer {kind!r}: {wrong}") from None


def layer_to_dict(layer: Layer) -> dict[str, Any]:
    """The JSON object of one layer."""
    match layer:
        case Dense():
            return {"type": "dense", "W_var": layer.weight_variance, "b_var": layer.bias_variance}
        case Conv():
            return {
                "type": "conv_local" if isinstance(layer, LocalConv) else "conv",
                "filter": list(layer.filter),
                "strides": list(layer.strides),
                "padding": layer.padding,
                "W_var": layer.weight_variance,
                "b_var": layer.bias_variance,
            }
        case Activation():
            return {"type": "act", "fn": layer.fn}
        case AvgPool():
            return {
                "type": "avg_pool",
                "window": list(layer.window),
                "strides": list(layer.strides),
                "padding": layer.padding,
                "normalize_edges": layer.normalize_edges,
            }
        case GlobalAvgPool():
            return {"type": "gap"}
        case Flatten():
            return {"type": "flatten"}
        case Residual():
            return {
                "type": "residual",
                "branch": [layer_to_dict(b) for b in layer.branch],
                "shortcut": [layer_to_dict(s) for s in layer.shortcut],
            }


_KEYS: dict[str, tuple[str, ...]] = {
    "dense": ("W_var", "b_var"),
    "conv": ("filter", "strides", "padding", "W_var", "b_var"),
    "conv_local": ("filter", "strides", "padding", "W_var", "b_var"),
    "act": ("fn",),
    "avg_pool": ("window", "strides", "padding", "normalize_edges"),
    "gap": (),
    "flatten": (),
    "residual": ("branch", "shortcut"),
}


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if (
        not isinstance(pair, list | tuple)
        or len(pair) != 2
        or any(isinstance(v, bool) or int(v) != v for v in pair)
    ):
        raise ValueError(f"expected two whole numbers, not {shown(value)}")
    return (int(pair[0]), int(pair[1]))


def _path(layers: Any, nested: int) -> tuple[Layer, ...]:
    if not isinstance(layers, list | tuple):
        raise TypeError(f"expected a list of layers, not {shown(layers)}")
    return tuple(layer_from_dict(layer, nested) for layer in layers)


def _check_variances(layer: Dense | Conv) -> None:
    for name in ("weight_variance", "bias_variance"):
        v = getattr(layer, name)
        if not (math.isfinite(v) and v >= 0):
            raise KernregError(f"{name} must be a finite number ≥ 0, not {shown(v)}")


def _check_window(layer: Conv | AvgPool, name: str, window: tuple[int, int]) -> None:
    if layer.padding not in PADDINGS:
        raise KernregError(f"padding must be one of {', '.join(PADDINGS)}, not {shown(layer.padding)}")
    if not all(1 <= size <= LARGEST_WINDOW for size in (*window, *layer.strides)):
        raise KernregError(
            f"{name} and strides must be from 1 to {LARGEST_WINDOW}, not {shown(window)} and {shown(layer.strides)}"
        )
