"""AdamW (Loshchilov and Hutter, 2019) on a client axis: every client and tensor has its own moments and its own step count."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedloom.models.training.stacked_optimizer import Stacked


class StackedAdamW(Stacked):
    """One `torch.optim.AdamW` per client."""

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
        """A step of everything; only what is active counts it."""
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
