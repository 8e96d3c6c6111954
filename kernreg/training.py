"""How a finite network is trained: the settings, checked; what they do is the business of `kernreg.finite`.

The loss is ½·mean over rows of |f(x) − y|², summed over outputs, y the targets of the kernel regression. With step η full-batch
gradient descent therefore follows the kernel's gradient flow of K/m to the time η·steps.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any

import numpy as np

from kernreg.architecture import Architecture
from kernreg.errors import KernregError

PARAMETERIZATIONS = ("ntk", "standard")
OPTIMIZERS = ("sgd", "gd", "adam")
SCHEDULES = ("constant", "cosine", "steps")
PRECISIONS = ("float32", "float64", "bfloat16")
AUTO = "auto"
STEMS, READOUTS = ("cifar", "imagenet"), ("gap", "flatten")
BLOCKS = {"resnet10": (1, 1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
SMALLEST = 16  # training rows of the first point of a curve, unless asked otherwise
HALVINGS = 4  # as of a kernel's learning curve: up to 16 disjoint training sets


@dataclass(frozen=True)
class Training:
    """Width, parameterization and training of a network.

    Attributes:
        width: channels of every hidden layer.
        parameterization: "ntk" or "standard", see `kernreg.finite.networks`.
        optimizer: "sgd" (with momentum), "gd" (the whole training set in every step) or "adam".
        lr: step size η, or "auto": see `kernreg.finite.stepsize`.
        momentum: of "sgd" and "gd".  weight_decay: of all three, added to the gradient.
        batch: rows of a step, all if there are fewer; "gd" takes all.
        epochs: passes over the training rows.  steps: at least so many steps, whatever the epochs are.
        schedule: of the step size: "constant", "cosine" (to 0), "steps" (a tenth after 1/2 and 3/4 of the steps).
        validation: share of the training rows that is not trained on; the weights with the smallest error on them are kept.
        patience: evaluations without a smaller one after which training ends; 50 are made.  Only with validation.
        replicates: networks of each training set; their mean loss is the curve.  seed: of the first of them.
        halvings: how often the rows are halved for disjoint training sets, as in `kernreg.learning_curve`.
        centred: train f − f₀, f₀ the function before the first step: it starts at 0, as a kernel's gradient flow does, and the
            mean over f₀ is not left to the average over networks.  Of a ResNet never.
        flip, crop: augmentation of every batch: mirror images at random, shifts of up to so many pixels (zeros come in).
        precision: "float32", "float64", or "bfloat16" for mixed precision.
    """

    width: int = 64
    parameterization: str = "ntk"
    optimizer: str = "sgd"
    lr: float | str = AUTO
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch: int = 32
    epochs: float = 100.0
    steps: int = 0
    schedule: str = "constant"
    validation: float = 0.0
    patience: int = 10
    replicates: int = 1
    seed: int = 0
    halvings: int = HALVINGS
    centred: bool = True
    flip: bool = False
    crop: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, known in (
            ("parameterization", PARAMETERIZATIONS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise KernregError(f"{name} is {getattr(self, name)!r}; use {', '.join(known)}")
        for name, least in (("width", 1), ("batch", 1), ("steps", 0), ("patience", 1), ("replicates", 1)):
            _require(name, getattr(self, name), least)
        for name in ("seed", "halvings", "crop"):
            _require(name, getattr(self, name), 0)
        for name in ("centred", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise KernregError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        if self.lr != AUTO and not (_is_number(self.lr) and 0 < float(self.lr) < math.inf):
            raise KernregError(f"lr is {self.lr!r}; it must be a positive number or {AUTO!r}")
        for name, low, high in (("momentum", 0, 1), ("validation", 0, 0.9), ("weight_decay", 0, math.inf)):
            value = getattr(self, name)
            if not (_is_number(value) and low <= value < high):
                raise KernregError(f"{name} is {value!r}; it must be a number in [{low:g}, {high:g})")
        if not (_is_number(self.epochs) and 0 <= self.epochs < math.inf) or not (self.epochs or self.steps):
            raise KernregError("epochs must be a number ≥ 0, and steps a whole number, not both of them 0")
        if self.optimizer == "gd" and (self.flip or self.crop):
            raise KernregError("augmentation draws every batch anew: use optimizer sgd or adam, not gd")

    def trained_rows(self, m: int) -> int:
        """Of m training rows those that are not left for validation."""
        return m - self.validation_rows(m)

    def validation_rows(self, m: int) -> int:
        """Of m training rows those that stop the training early: at least one, if any are asked for and two are there."""
        if not self.validation or m < 2:
            return 0
        return min(max(1, round(self.validation * m)), m - 1)

    def batch_of(self, m: int) -> int:
        """Rows of a step on m training rows."""
        rows = self.trained_rows(m)
        return rows if self.optimizer == "gd" else min(self.batch, rows)

    def steps_of(self, m: int) -> int:
        """Steps on m training rows."""
        return max(math.ceil(self.epochs * self.trained_rows(m) / self.batch_of(m)), self.steps, 1)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the settings."""
        return tuple(f.name for f in fields(cls))


@dataclass(frozen=True)
class ResNetShape:
    """A ResNet of `kernreg.finite.resnet`, which no kernel belongs to.

    Attributes:
        name: resnet10, resnet18 or resnet34.
        stem: "cifar" or "imagenet".  readout: "gap" or "flatten".
    """

    name: str = "resnet18"
    stem: str = "cifar"
    readout: str = "gap"

    def __post_init__(self) -> None:
        for value, known in ((self.name, tuple(BLOCKS)), (self.stem, STEMS), (self.readout, READOUTS)):
            if value not in known:
                raise KernregError(f"{value!r} is none of {', '.join(known)}")

    def __str__(self) -> str:
        return f"{self.name}: {self.stem} stem, {self.readout} readout"

    @property
    def digest(self) -> str:
        """What tells it from others."""
        return f"{self.name}-{self.stem}-{self.readout}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Trained:
    """One learning curve of trained networks: an architecture, its training, and the sample counts.

    Attributes:
        architecture: what the network is the finite one of, or a ResNet.
        training: how it is trained.
        sizes: increasing sample counts; None: those of a kernel's curve, n/√2^j, from 16 on.
        name: what tables and figures call it.
    """

    architecture: Architecture | ResNetShape
    training: Training = field(default_factory=Training)
    sizes: tuple[int, ...] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        sizes = self.sizes
        if sizes is not None and (not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes))):
            raise KernregError(f"sizes must be increasing sample counts of at least 1, not {list(sizes)}")

    @property
    def label(self) -> str:
        """The name, or architecture and width: "vec-w64"."""
        return self.name or f"{self.architecture.name or 'network'}-w{self.training.width}"

    def samples(self, n: int) -> tuple[int, ...]:
        """The sample counts of a curve on n rows; n is the last.

        Raises:
            KernregError: a size beyond n.
        """
        if self.sizes is None:
            return default_samples(n)
        if self.sizes[-1] > n:
            raise KernregError(f"{self.label}: a size of {self.sizes[-1]} is beyond the {n} training rows")
        return tuple(sorted({*self.sizes, n}))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of what determines the numbers; sizes and name are no part of it."""
        told = {"architecture": self.architecture.digest, "training": self.training.to_dict()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def default_samples(n: int, smallest: int = SMALLEST) -> tuple[int, ...]:
    """n/√2^j, rounded down, from `smallest` on: the anchors of a kernel's learning curve."""
    steps = (int(n / 2 ** (j / 2)) for j in range(2 * n.bit_length()))
    return tuple(sorted({m for m in steps if m >= min(smallest, n)}))


def seeds_of(*numbers: int) -> tuple[int, int]:
    """Seeds of the weights and of the data order, independent of those of all other numbers."""
    weights, order = np.random.SeedSequence(list(numbers)).generate_state(2, np.uint64)
    return int(weights >> np.uint64(1)), int(order >> np.uint64(1))


def sizes_from(values: Sequence[int]) -> tuple[int, ...]:
    """Sizes in any order as a tuple that increases."""
    return tuple(sorted(set(values)))


def _require(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise KernregError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
