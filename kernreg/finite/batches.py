"""Batches: which rows each network of an ensemble sees at each step, from seeds and the number of the step alone.

Nothing is remembered between steps, so that a training that was killed goes on with the rows that it would have seen. A network
goes through its rows in one order after another, without a break between them, so that all batches have one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernreg.training import Training, seeds_of

Rows = NDArray[np.int64]

ORDERS_AT_ONCE = 4096  # rows of the orders that one generator draws
EVALUATIONS = 50
LONGEST = 256  # steps between two evaluations
SPLIT, ORDER, AUGMENT = range(3)


@dataclass(frozen=True)
class Member:
    """One network of an ensemble: rows start…start+m−1 of the data, the replicate-th network on them."""

    m: int
    start: int
    replicate: int

    def seeds(self, training: Training) -> tuple[int, int]:
        """Of its weights and of its data order."""
        return seeds_of(training.seed + self.replicate, self.start, self.m)


class Batches:
    """The batches of an ensemble, block by block of steps.

    Attributes:
        steps, batch: of each network.  block: steps between two evaluations.
        trained, validation: rows of each network, (m',) and (v,).
        constant: every step sees all rows.  moving: they are augmented.
    """

    def __init__(self, members: Sequence[Member], training: Training) -> None:
        """Members with equal steps and batch."""
        first = members[0].m
        self.steps, self.batch = training.steps_of(first), training.batch_of(first)
        self.block = min(LONGEST, -(-self.steps // EVALUATIONS))
        self.seeds = [member.seeds(training)[1] for member in members]
        self.trained: list[Rows] = []
        self.validation: list[Rows] = []
        for member, seed in zip(members, self.seeds, strict=True):
            rows = np.arange(member.start, member.start + member.m)
            held = training.validation_rows(member.m)
            mixed = _generator(seed, SPLIT, 0).permutation(rows) if held else rows
            self.trained.append(mixed[held:])
            self.validation.append(mixed[:held])
        self.crop, self.flip = training.crop, training.flip
        whole = all(len(rows) == self.batch for rows in self.trained)
        self.moving = self.flip or self.crop > 0
        self.constant = whole and not self.moving

    @property
    def blocks(self) -> int:
        """How many there are."""
        return -(-self.steps // self.block)

    def length(self, block: int) -> int:
        """Steps of a block."""
        return min(self.block, self.steps - block * self.block)

    def rows(self, block: int) -> Tensor:
        """(steps, E, batch) row numbers."""
        if self.constant:
            rows = torch.from_numpy(np.stack(self.trained))
            return rows.expand(self.length(block), *rows.shape)
        first, count = block * self.block * self.batch, self.length(block) * self.batch
        streams = [_stream(r, s, first, count) for r, s in zip(self.trained, self.seeds, strict=True)]
        drawn = np.stack(streams, axis=0).reshape(len(streams), -1, self.batch)
        return torch.from_numpy(np.ascontiguousarray(drawn.transpose(1, 0, 2)))

    def moves(self, block: int) -> Tensor | None:
        """(steps, E, batch, 3): mirrored or not, shift of the rows, shift of the columns; None without augmentation."""
        if not self.moving:
            return None
        shape, drawn = (self.length(block), self.batch), []
        for seed in self.seeds:
            rng = _generator(seed, AUGMENT, block)
            mirrored = rng.integers(0, 2, shape) if self.flip else np.zeros(shape, dtype=np.int64)
            shifts = rng.integers(-self.crop, self.crop + 1, (2, *shape))
            drawn.append(np.stack([mirrored, *shifts], axis=-1))
        return torch.from_numpy(np.stack(drawn, axis=1))


class Images:
    """The rows of a data set on the device, and those of a batch.

    Attributes:
        x: (n, …).  y: (n, outputs).
    """

    def __init__(
        self, x: NDArray[Any], y: NDArray[Any], dtype: torch.dtype, device: str, crop: int = 0
    ) -> None:
        self.x = torch.from_numpy(np.ascontiguousarray(x)).to(device, dtype)
        self.y = torch.from_numpy(np.ascontiguousarray(y)).to(device, dtype)
        self.crop = crop
        self._bordered = torch.nn.functional.pad(self.x, (0, 0, crop, crop, crop, crop)) if crop else self.x

    def batch(self, rows: Tensor, moves: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (E, batch, …) and y (E, batch, outputs) of row numbers (E, batch)."""
        y = self.y[rows]
        if moves is None:
            return self.x[rows], y
        H, W = self.x.shape[1:3]
        down, right = torch.arange(H, device=rows.device), torch.arange(W, device=rows.device)
        columns = torch.where(moves[..., :1] == 1, W - 1 - right, right) + moves[..., 2:] + self.crop
        lines = down + moves[..., 1:2] + self.crop
        return self._bordered[rows[..., None, None], lines[..., :, None], columns[..., None, :]], y


def _stream(rows: Rows, seed: int, first: int, count: int) -> Rows:
    """Places first…first+count−1 of an endless sequence of orders of the rows."""
    m = len(rows)
    at_once = max(
        1, ORDERS_AT_ONCE // m
    )  # orders of one generator: making it takes longer than a small order
    begin, end = first // (m * at_once), (first + count - 1) // (m * at_once)
    drawn = [
        _generator(seed, ORDER, part).permuted(np.tile(rows, (at_once, 1)), axis=1).ravel()
        for part in range(begin, end + 1)
    ]
    skipped = first - begin * m * at_once
    return np.concatenate(drawn)[skipped : skipped + count]


def _generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, number])
