"""Stochastic gradient descent with momentum on a client axis."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedloom.models.training.stacked_optimizer import Stacked


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
        """A step of everything."""
        self.velocity.mul_(self.momentum).add_(self.gradients).add_(self.values, alpha=self.decay)
        self.values.sub_(self.velocity * self.lr)
