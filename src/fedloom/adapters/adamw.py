"""AdamW (Loshchilov and Hutter, 2019) on a client axis: every client and tensor has its own moments and its own step count."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StackedAdamW:
    """Steps stacked parameters (K, ...) as one `torch.optim.AdamW` per client would.

    The parameters become views of one buffer and their gradients views of another, so that a step is a few operations whatever
    the number of tensors. Where a client's tensor took no part in the loss, nothing of it moves, as with a gradient of None: no
    decay, no momentum, no step count.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        lr: float | Sequence[float],
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        self.lr: float | Sequence[float] = lr
        self.betas, self.decay, self.eps = betas, weight_decay, eps
        self.clients = len(parameters[0])
        self.values = torch.cat([p.detach().flatten() for p in parameters])
        self.gradients, self.first, self.second = (torch.zeros_like(self.values) for _ in range(3))
        self.steps = torch.zeros(self.clients, len(parameters), dtype=torch.float64)
        self.sizes = [p.numel() for p in parameters]
        self.parts: list[Tensor] = []
        slices = zip(*(torch.split(t, self.sizes) for t in (self.values, self.gradients)), strict=True)
        for parameter, (value, gradient) in zip(parameters, slices, strict=True):
            parameter.data = value.view(parameter.shape)
            parameter.grad = gradient.view(parameter.shape)
            self.parts.append(gradient.view(self.clients, -1))

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
        state = (self.values, self.first, self.second)
        still = None if bool(active.all()) else self._wide(~active)
        before = [] if still is None else [t.clone() for t in state]
        self.steps += active
        one, two = self.betas
        bias, root = 1 - one**self.steps, (1 - two**self.steps).sqrt()
        rates = [self.lr] if isinstance(self.lr, float) else list(self.lr)
        size: float | Tensor
        scale: float | Tensor
        kept: float | Tensor
        if bool((self.steps == self.steps[0, 0]).all()) and len({*rates}) == 1:
            size, scale = rates[0] / bias[0, 0].item(), root[0, 0].item()
        else:  # a tensor that has never moved has no bias to correct, and does not move now
            each = torch.tensor(rates, dtype=torch.float64)[:, None]
            size = self._wide((each / bias).nan_to_num(posinf=0.0))
            scale = self._wide(root.clamp(min=self.eps))
        if len({*rates}) == 1:
            kept = 1 - rates[0] * self.decay
        else:
            kept = self._wide((1 - torch.tensor(rates)[:, None] * self.decay).expand_as(self.steps))
        self.values.mul_(kept)
        self.first.lerp_(self.gradients, 1 - one)
        self.second.mul_(two).addcmul_(self.gradients, self.gradients, value=1 - two)
        self.values.sub_(self.first / (self.second.sqrt().div_(scale).add_(self.eps)) * size)
        if still is not None:
            for tensor, old in zip(state, before, strict=True):
                torch.where(still, old, tensor, out=tensor)

    def _wide(self, table: Tensor) -> Tensor:
        """(K, tensors) to one entry for each number in the buffers."""
        each = (
            torch.tensor(self.sizes).div(self.clients, rounding_mode="floor").repeat_interleave(self.clients)
        )
        wide = table.t().flatten().repeat_interleave(each, output_size=len(self.values))
        return wide.to(self.values.device, torch.bool if table.dtype == torch.bool else self.values.dtype)
