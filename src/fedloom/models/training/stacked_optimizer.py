"""AdamW and SGD on a client axis: one optimiser per client, its parameters stacked as (K, ...)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Stacked(ABC):
    """Steps stacked parameters (K, ...) as one optimiser per client would.

    The parameters become views of one buffer and their gradients views of another, so that a step is a few operations whatever
    the number of tensors. A client's tensor outside the loss does not move, as with a gradient of None: no decay, no momentum, no
    step count. `rates[i]` is the initial learning rate of parameter i.
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
        """Set the learning rates, by client (K) and parameter."""
        known = {rate for own in rates for rate in own}
        self.table = torch.tensor(rates, dtype=torch.float64)
        self.lr = known.pop() if len(known) == 1 else self.wide(self.table)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.gradients.zero_()

    def touched(self) -> Tensor:
        """(K, tensors), bool: whether the gradient is not zero."""
        return torch.stack([g.any(1) for g in self.parts], dim=1).cpu()

    def clip(self, largest: float) -> None:
        """`clip_grad_norm_` per client, by its own norm over all tensors."""
        norms = torch.stack([g.square().sum(1) for g in self.parts]).sum(0).sqrt()
        factors = (largest / (norms + 1e-6)).clamp(max=1.0)[:, None]
        for gradient in self.parts:
            gradient.mul_(factors)

    @torch.no_grad()
    def step(self, active: Tensor) -> None:
        """One step of the tensors with `active` (K, tensors), bool."""
        still = None if bool(active.all()) else self.wide(~active)
        before = [] if still is None else [t.clone() for t in self.state()]
        self.move(active)
        if still is not None:
            for tensor, old in zip(self.state(), before, strict=True):
                torch.where(still, old, tensor, out=tensor)

    @abstractmethod
    def state(self) -> tuple[Tensor, ...]:
        """Buffers that a step changes; inactive entries are restored."""

    @abstractmethod
    def move(self, active: Tensor) -> None:
        """One step of all tensors."""

    def wide(self, table: Tensor) -> Tensor:
        """Broadcast (K, tensors) to one entry per number in the buffers."""
        each = (
            torch.tensor(self.sizes).div(self.clients, rounding_mode="floor").repeat_interleave(self.clients)
        )
        wide = table.t().flatten().repeat_interleave(each, output_size=len(self.values))
        return wide.to(self.values.device, torch.bool if table.dtype == torch.bool else self.values.dtype)


class StackedSGD(Stacked):
    """v <- m v + (g + decay w), w <- w - lr v: one `torch.optim.SGD` per client, without dampening or Nesterov."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        rates: Sequence[float],
        *,
        momentum: float,
        weight_decay: float,
    ) -> None:
        super().__init__(parameters, rates)
        self.momentum, self.decay = momentum, weight_decay
        self.velocity = torch.zeros_like(self.values)

    def state(self) -> tuple[Tensor, ...]:
        """Values and velocities."""
        return self.values, self.velocity

    def move(self, active: Tensor) -> None:
        """One step of all tensors."""
        self.velocity.mul_(self.momentum).add_(self.gradients).add_(self.values, alpha=self.decay)
        self.values.sub_(self.velocity * self.lr)


class StackedAdamW(Stacked):
    """AdamW (Loshchilov and Hutter, 2019): one `torch.optim.AdamW` per client, moments and step counts per client and tensor."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        rates: Sequence[float],
        *,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, rates)
        self.betas, self.decay, self.eps = betas, weight_decay, eps
        self.first, self.second = (torch.zeros_like(self.values) for _ in range(2))
        self.steps = torch.zeros(self.clients, len(parameters), dtype=torch.float64)

    def state(self) -> tuple[Tensor, ...]:
        """Values and moments."""
        return self.values, self.first, self.second

    def move(self, active: Tensor) -> None:
        """One step of all tensors; only active ones count it."""
        self.steps += active
        one, two = self.betas
        bias, root = 1 - one**self.steps, (1 - two**self.steps).sqrt()
        size: float | Tensor
        scale: float | Tensor
        if isinstance(self.lr, float) and bool((self.steps == self.steps[0, 0]).all()):
            size, scale = self.lr / bias[0, 0].item(), root[0, 0].item()
        else:  # a tensor that has never moved has no bias to correct, and does not move now
            size = self.wide((self.table / bias).nan_to_num(posinf=0.0))
            scale = self.wide(root.clamp(min=self.eps))
        self.values.mul_(1 - self.lr * self.decay)
        self.first.lerp_(self.gradients, 1 - one)
        self.second.mul_(two).addcmul_(self.gradients, self.gradients, value=1 - two)
        self.values.sub_(self.first / (self.second.sqrt().div_(scale).add_(self.eps)) * size)
