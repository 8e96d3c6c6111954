"""Ensembles: E networks of one shape, whose steps are one pass of batched matrices (`kernreg.finite.stack`).

A small network is trained at the speed of Python, not of the machine: fifty of them in one pass take little longer than one.
A network on its own is called as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kernreg.finite.modules import ConvLayer, DenseLayer, LocalConvLayer
from kernreg.finite.stack import stacked

State = dict[str, Tensor]

BYTES_AT_ONCE = 128 << 20  # of activations and weights of the networks of one pass
MOST_AT_ONCE = 64
COPIES = 4  # of an activation: windows, value, gradient, and what the optimiser keeps of a weight


class Drawable(Protocol):
    """What an ensemble is made of: a module whose weights a seed draws; it maps (n, …) to (n, outputs)."""

    def reset(self, generator: int) -> None: ...


class Ensemble:
    """(E, n, …) → (E, n, outputs).

    Attributes:
        template: the module whose weights are replaced; with one seed its own are trained.
        parameters: stacked, (E, …); with one seed those of the template.
    """

    def __init__(
        self, template: Any, seeds: Sequence[int], device: str = "cpu", compiled: bool = False
    ) -> None:
        """Networks with the weights of these seeds.

        Args:
            template: a module with `reset`; it is changed.
            seeds: one for each network.
            device: of torch.
            compiled: call `torch.compile`, which pays for long trainings.
        """
        self.template = template
        self.single = len(seeds) == 1
        drawn = []
        for seed in seeds:
            template.reset(seed)
            drawn.append({name: p.detach().clone() for name, p in self.template.named_parameters()})
        self.template.to(device)
        if self.single:
            self.parameters = dict(self.template.named_parameters())
        else:
            together = {name: torch.stack([weights[name] for weights in drawn]) for name in drawn[0]}
            self.parameters = {name: p.to(device).requires_grad_() for name, p in together.items()}
        self._single: Any = torch.compile(self.template) if compiled else self.template
        self._stacked: Any = torch.compile(stacked) if compiled else stacked
        self._first: State | None = None

    def __len__(self) -> int:
        return 1 if self.single else len(next(iter(self.parameters.values())))

    def __call__(self, x: Tensor) -> Tensor:
        """f_e(x[e]), (E, n, outputs), of (E, n, …); for training."""
        if self.single:
            return self._single(x[0])[None]
        return self._stacked(self.template, self.parameters, x)

    @torch.no_grad()
    def predict(self, x: Tensor, rows: int) -> Tensor:
        """f_e(x), (E, n, outputs), of (n, …), so many rows at a time."""
        self.template.eval()
        try:
            parts = []
            for part in x.split(rows):
                parts.append(self.template(part)[None] if self.single else self._same(part))
            return torch.cat(parts, dim=1)
        finally:
            self.template.train()

    def remember(self) -> None:
        """Keep a copy of the weights as they are, for `first`."""
        self._first = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def first(self, x: Tensor) -> Tensor:
        """As a call, with the weights that were remembered; 0 if none were."""
        if self._first is None:
            return x.new_zeros(())
        if self.single:
            return functional_call(self.template, self._first, (x[0],))[None]
        return stacked(self.template, self._first, x)

    def state(self) -> State:
        """The weights, and what else a single module keeps; no copies."""
        return dict(self.template.state_dict()) if self.single else dict(self.parameters)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the values of a `state`."""
        for name, value in self.state().items():
            value.copy_(state[name])

    @torch.no_grad()
    def keep(self, kept: State, which: Tensor) -> None:
        """Copy the weights of the networks for which `which` (E,) is true into `kept`, a cloned `state`."""
        for name, value in self.state().items():
            if not self.single:
                kept[name][which] = value[which]
            elif bool(which[0]):
                kept[name].copy_(value)

    def _same(self, x: Tensor) -> Tensor:
        """f_e(x) of the same rows for all."""
        return stacked(self.template, self.parameters, x.expand(len(self), *x.shape))


def at_once(template: nn.Module, shape: tuple[int, ...], batch: int) -> int:
    """How many networks share a pass: what `BYTES_AT_ONCE` holds, at least 1; of the shapes alone, so that it is
    the same on every machine."""
    counted = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal counted
        counted += result.numel()
        if isinstance(module, DenseLayer | ConvLayer | LocalConvLayer):
            filter = getattr(module, "filter", (1, 1))
            counted += result.numel() // result.shape[-1] * given[0].shape[-1] * filter[0] * filter[1]

    hooks = [
        module.register_forward_hook(count)
        for module in template.modules()
        if not list(module.children()) or isinstance(module, ConvLayer)
    ]
    try:
        with torch.no_grad():
            template(torch.zeros((1, *shape), dtype=next(template.parameters()).dtype))
    finally:
        for hook in hooks:
            hook.remove()
    weights = sum(p.numel() for p in template.parameters())
    size = next(template.parameters()).element_size()
    return max(1, min(MOST_AT_ONCE, BYTES_AT_ONCE // (COPIES * size * (counted * batch + weights))))
