"""Optimisers on a client axis: what they have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Stacked(ABC):
    """Steps stacked parameters (K, ...) as one optimiser per client would.

    The parameters become views of one buffer and their gradients views of another, so that a step is a few operations whatever
    the number of tensors. Where a client's tensor took no part in the loss, nothing of it moves, as with a gradient of None: no
    decay, no momentum, no step count. `rates[i]` is the learning rate of parameter i at first.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rates: Sequence[float]) -> None:
        self.clients = len(parameters[0])
        self.values = torch.cat([p.detach().flatten() for p in parameters])
        self.gradients = torch.zeros_like(self.values)
        self.sizes = [p.numel() for p in parameters]
        self.parts: list[Tensor] = []
        slices = zip(*(torch.split(t, self.sizes) for t in (self.values, self.gradients)), strict=True)
        for parameter, (value, gradient) in zip(parameters, slices, strict=True):
            parameter.data = value.view(parameter.shape)
            parameter.grad = gradient.view(parameter.shape)
            self.parts.append(gradient.view(self.clients, -1))
        self.table = torch.empty(0)
        self.lr: float | Tensor = 0.0
        self.at_rates([rates] * self.clients)

    def at_rates(self, rates: Sequence[Sequence[float]]) -> None:
        """The learning rates from now on: of every client (K) and parameter."""
        known = {rate for own in rates for rate in own}
        self.table = torch.tensor(rates, dtype=torch.float64)
        self.lr = known.pop() if len(known) == 1 else self.wide(self.table)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.gradients.zero_()

    def touched(self) -> Tensor:
        """(K, tensors), bool: which have a gradient other than zero."""
        return torch.stack([g.any(1) for g in self.parts], dim=1).cpu()

    def clip(self, largest: float) -> None:
        """As `clip_grad_norm_` for each client, by its own norm over all tensors."""
        norms = torch.stack([g.square().sum(1) for g in self.parts]).sum(0).sqrt()
        factors = (largest / (norms + 1e-6)).clamp(max=1.0)[:, None]
        for gradient in self.parts:
            gradient.mul_(factors)

    @torch.no_grad()
    def step(self, active: Tensor) -> None:
        """One step of the tensors that `active` (K, tensors), bool, names."""
        still = None if bool(active.all()) else self.wide(~active)
        before = [] if still is None else [t.clone() for t in self.state()]
        self.move(active)
        if still is not None:
            for tensor, old in zip(self.state(), before, strict=True):
                torch.where(still, old, tensor, out=tensor)

    @abstractmethod
    def state(self) -> tuple[Tensor, ...]:
        """What a step changes and must not change where nothing moves."""

    @abstractmethod
    def move(self, active: Tensor) -> None:
        """A step of everything."""

    def wide(self, table: Tensor) -> Tensor:
        """(K, tensors) to one entry for each number in the buffers."""
        each = (
            torch.tensor(self.sizes).div(self.clients, rounding_mode="floor").repeat_interleave(self.clients)
        )
        wide = table.t().flatten().repeat_interleave(each, output_size=len(self.values))
        return wide.to(self.values.device, torch.bool if table.dtype == torch.bool else self.values.dtype)
