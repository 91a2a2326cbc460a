"""Gradient check: finds adapters that are counted and sent but never trained."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import torch_stream


def check_adapters(
    module: nn.Module, *inputs: Tensor, marker: str = "lora_", named: Mapping[str, Tensor] | None = None
) -> None:
    """One backward pass in which every adapter tensor must receive a gradient; values and gradients are restored.

    Adapters are the trainable parameters with `marker` in their name. All are drawn at random for the pass, since
    with B = 0 no gradient reaches A. It finds wrappers around a layer whose `forward` is never called, such as
    `out_proj` of `nn.MultiheadAttention`, whose weight is read directly.

    Args:
        module: the wrapped model, e.g. a trunk.
        inputs: arguments of its `forward`; of what it returns, the last hidden state or a tuple's first entry counts.
        marker: part of the name of adapter parameters.
        named: further arguments of `forward` by name.

    Raises:
        ExperimentError: there are no adapters, or some stay without gradient; it names them.

    """
    adapters = {name: p for name, p in module.named_parameters() if marker in name and p.requires_grad}
    if not adapters:
        raise ExperimentError(
            f"there is no trainable parameter with '{marker}' in its name; wrap the model first"
        )
    values = {name: p.detach().clone() for name, p in adapters.items()}
    rng = torch_stream(0, "check_adapters")
    try:
        with torch.no_grad():
            for p in adapters.values():
                p.copy_(torch.randn(p.shape, generator=rng) * 0.1)
        with torch.enable_grad():
            out: Any = module(*inputs, **(named or {}))
            out = getattr(out, "last_hidden_state", out)
            out = out[0] if isinstance(out, tuple) else out
            loss = (out * torch.randn(out.shape, generator=rng).to(out)).sum()
            gradients = torch.autograd.grad(loss, list(adapters.values()), allow_unused=True)
    finally:
        with torch.no_grad():
            for name, p in adapters.items():
                p.copy_(values[name])
    dead = [name for name, g in zip(adapters, gradients, strict=True) if g is None or not g.any()]
    if dead:
        more = f" and {len(dead) - 3} more" if len(dead) > 3 else ""
        raise ExperimentError(
            f"adapters without any gradient: {', '.join(dead[:3])}{more}; "
            "choose LoRA targets whose forward is called, such as auto: all projections of the attention"
        )
