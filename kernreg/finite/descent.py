"""Gradient descent of an ensemble: steps, early stopping, checkpoints.

The state after a block of steps is a file; what was killed goes on from it and ends with the same bits as what was not, since
batches and augmentation depend on the number of the step alone (`kernreg.finite.batches`). On the CPU all of it is deterministic
for one number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from kernreg.durable import replace
from kernreg.errors import KernregError
from kernreg.finite.batches import Batches, Images
from kernreg.finite.ensemble import Ensemble
from kernreg.progress import Interruption
from kernreg.training import Training

CHECKPOINT_SECONDS = 30.0
ROWS_AT_ONCE = 512  # of a prediction


@dataclass
class Descent:
    """Where a training is.

    Attributes:
        block: blocks that are done.  stopped: whether it ended early.
        train: (E,) mean squared error, summed over outputs, of the batches of the last block.
        best: (E,) the smallest error on the validation rows.  best_step: (E,) when.
        waited: (E,) evaluations since.
    """

    block: int
    stopped: bool
    train: Tensor
    best: Tensor
    best_step: Tensor
    waited: Tensor

    @classmethod
    def begin(cls, networks: int, device: str) -> Descent:
        """Before the first step."""
        infinite = torch.full((networks,), math.inf, dtype=torch.float64, device=device)
        zero = torch.zeros(networks, dtype=torch.int64, device=device)
        return cls(0, False, infinite.clone(), infinite, zero, zero.clone())


def descend(
    ensemble: Ensemble,
    images: Images,
    batches: Batches,
    training: Training,
    lr: float,
    centred: bool = False,
    device: str = "cpu",
    checkpoint: Path | None = None,
    report: Callable[[int], object] = lambda steps: None,
) -> Descent:
    """Train an ensemble; its weights are those of the last step, or with validation the best ones.

    Args:
        ensemble: as drawn.  images: on the device.  batches: of its members.
        lr: the step size at the beginning.
        centred: train f − f₀, see `Training`.
        device: "cpu" or "cuda".
        checkpoint: a file that is written every `CHECKPOINT_SECONDS` and read if it is there; None for none.
        report: called with the steps done since the last call; those of an earlier run count at once.

    Raises:
        KernregError: a loss that is not finite, or a disk that refuses.
        KeyboardInterrupt: SIGINT or SIGTERM, once the steps in hand are in the checkpoint.
    """
    optimizer = _optimizer(ensemble, training, lr)
    start = _start(ensemble, images, batches, centred)
    at = Descent.begin(len(ensemble), device)
    held = _held_out(ensemble, images, batches, start, device)
    kept = {} if held is None else {name: value.detach().clone() for name, value in ensemble.state().items()}
    if checkpoint is not None and checkpoint.is_file():
        at = _resume(checkpoint, ensemble, optimizer, kept, device)
        report(min(at.block * batches.block, batches.steps))
    written = time.monotonic()
    with Interruption(lambda text: None) as interruption:
        while at.block < batches.blocks and not at.stopped:
            _block(ensemble, images, batches, training, lr, optimizer, at, start, device)
            at.block += 1
            if held is not None:
                _evaluate(ensemble, held, training, kept, at, batches)
            due = interruption.requested or time.monotonic() - written > CHECKPOINT_SECONDS
            if checkpoint is not None and due and at.block < batches.blocks:
                _write(checkpoint, ensemble, optimizer, kept, at)
                written = time.monotonic()
            if interruption.requested:
                raise KeyboardInterrupt
            report(batches.length(at.block - 1))
    if at.stopped:
        report(max(batches.steps - at.block * batches.block, 0))
    if held is not None:
        ensemble.load(kept)
    return at


def _block(
    ensemble: Ensemble,
    images: Images,
    batches: Batches,
    training: Training,
    lr: float,
    optimizer: torch.optim.Optimizer,
    at: Descent,
    start: Tensor | None,
    device: str,
) -> None:
    """All steps up to the next evaluation."""
    rows, moves = batches.rows(at.block).to(device), batches.moves(at.block)
    moves = None if moves is None else moves.to(device)
    same = _batch(ensemble, images, rows[0], None, start) if batches.constant else None
    summed = torch.zeros(len(ensemble), device=device)
    first = at.block * batches.block
    for step in range(len(rows)):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(training.schedule, first + step, batches.steps)
        x, y = same or _batch(ensemble, images, rows[step], None if moves is None else moves[step], start)
        with _precision(training, device):
            f = ensemble(x)
        squared = (f.float() if training.precision == "bfloat16" else f).sub(y).square().sum(dim=(1, 2))
        optimizer.zero_grad(set_to_none=True)
        (squared.sum() / (2 * batches.batch)).backward()
        optimizer.step()
        summed += squared.detach()
    at.train = summed / (len(rows) * batches.batch)
    if not bool(torch.isfinite(at.train).all()):
        raise KernregError(
            f"training diverged within {first + len(rows)} steps at a step size of {lr:.3g}: use a smaller lr"
        )


def _start(ensemble: Ensemble, images: Images, batches: Batches, centred: bool) -> Tensor | None:
    """f₀ on all rows, (E, n, outputs); augmented rows have theirs batch by batch, from the weights remembered."""
    if not centred:
        return None
    if batches.moving:
        ensemble.remember()
        return None
    return ensemble.predict(images.x, max(1, ROWS_AT_ONCE // len(ensemble)))


def _batch(
    ensemble: Ensemble, images: Images, rows: Tensor, moves: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    """x and the targets of f, y + f₀(x)."""
    x, y = images.batch(rows, moves)
    if start is None:
        return x, y + ensemble.first(x)
    return x, y + start[torch.arange(len(rows), device=rows.device)[:, None], rows]


def schedule(name: str, step: int, steps: int) -> float:
    """The factor of the step size at a step."""
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    if name == "steps":
        return 1.0 if 2 * step < steps else 0.1 if 4 * step < 3 * steps else 0.01
    return 1.0


def _optimizer(ensemble: Ensemble, training: Training, lr: float) -> torch.optim.Optimizer:
    """Elementwise in the weights, so that a stack of networks is trained as each would be."""
    weights = list(ensemble.parameters.values())
    settings: dict[str, Any] = {"lr": lr, "weight_decay": training.weight_decay, "fused": True}
    if training.optimizer == "adam":
        return torch.optim.Adam(weights, **settings)
    return torch.optim.SGD(weights, momentum=training.momentum, **settings)


def _precision(training: Training, device: str) -> AbstractContextManager[Any]:
    if training.precision != "bfloat16":
        return nullcontext()
    context: AbstractContextManager[Any] = torch.autocast(device.split(":")[0], dtype=torch.bfloat16)
    return context


@dataclass
class _HeldOut:
    """Validation rows, padded to one length; weight 0 where there is none."""

    x: Tensor
    y: Tensor
    weight: Tensor


def _held_out(
    ensemble: Ensemble, images: Images, batches: Batches, start: Tensor | None, device: str
) -> _HeldOut | None:
    longest = max(len(rows) for rows in batches.validation)
    if not longest:
        return None
    rows = torch.zeros((len(batches.validation), longest), dtype=torch.int64, device=device)
    weight = torch.zeros(rows.shape, dtype=images.x.dtype, device=device)
    for e, given in enumerate(batches.validation):
        rows[e, : len(given)] = torch.from_numpy(given)
        weight[e, : len(given)] = 1 / len(given)
    return _HeldOut(*_batch(ensemble, images, rows, None, start), weight)


@torch.no_grad()
def _evaluate(
    ensemble: Ensemble,
    held: _HeldOut,
    training: Training,
    kept: dict[str, Tensor],
    at: Descent,
    batches: Batches,
) -> None:
    ensemble.template.eval()
    error = ((ensemble(held.x) - held.y).square().sum(dim=2) * held.weight).sum(dim=1)
    ensemble.template.train()
    better = (error < at.best) & (at.waited < training.patience)
    ensemble.keep(kept, better)
    at.best = torch.where(better, error.to(at.best), at.best)
    step = min(at.block * batches.block, batches.steps)
    at.best_step = torch.where(better, step, at.best_step)
    at.waited = torch.where(better, 0, at.waited + 1)
    at.stopped = bool((at.waited >= training.patience).all())


def _write(
    path: Path, ensemble: Ensemble, optimizer: torch.optim.Optimizer, kept: dict[str, Tensor], at: Descent
) -> None:
    state = {"weights": ensemble.state(), "optimizer": optimizer.state_dict(), "kept": kept, "at": vars(at)}
    replace(path, lambda partial: torch.save(state, partial))


def _resume(
    path: Path, ensemble: Ensemble, optimizer: torch.optim.Optimizer, kept: dict[str, Tensor], device: str
) -> Descent:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        ensemble.load(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        for name in kept:
            kept[name].copy_(state["kept"][name])
        return Descent(**state["at"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KernregError(
            f"the checkpoint {path} cannot be read ({reason}): remove it to begin again"
        ) from error
