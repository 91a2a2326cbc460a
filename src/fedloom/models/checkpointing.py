"""Gradient checkpointing: the backward pass computes a block's activations again instead of keeping them.

Models of transformers are switched on by their own switch, which works in training mode only. The frozen base stays in eval mode:
a block's flag is set for the switch alone, and its own code runs without it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError

Replay = Callable[[], AbstractContextManager[Any]]
"""Called at a block's forward pass; returns the context of its second one."""


@runtime_checkable
class Recomputing(Protocol):
    """A module of ours that checkpoints its blocks."""

    def set_gradient_checkpointing(self, enabled: bool = True, **options: Any) -> None:
        """Compute each block again in the backward pass; `options` go to `torch.utils.checkpoint.checkpoint`."""


def enable_checkpointing(root: nn.Module, parts: Mapping[str, nn.Module], replay: Replay) -> list[str]:
    """Switch checkpointing on in a model; returns a sentence for each of its named parts that does not support it.

    Raises ExperimentError where no part does.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), replay()

    on = _switch_on(root, {"context_fn": contexts})
    without = [name for name, part in parts.items() if not any(id(m) in on for m in part.modules())]
    if len(without) == len(parts):
        raise ExperimentError(
            f"engine.checkpointing: no part of the model supports it ({', '.join(parts)}); leave it out, "
            "and set training.accumulate to save memory"
        )
    return [f"{name} does not support checkpointing, and keeps its activations" for name in without]


def _switch_on(module: nn.Module, options: Mapping[str, Any]) -> set[int]:
    """Ids of the modules that now checkpoint."""
    from transformers import PreTrainedModel

    if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
        module.activation_checkpointing_enable({"use_reentrant": False, **options})
        module.disable_input_require_grads()  # only reentrant checkpointing needs them
        return _flag_blocks(module)
    if isinstance(module, Recomputing) and not isinstance(module, PreTrainedModel):
        module.set_gradient_checkpointing(True, **options)
        return {id(m) for m in module.modules()}
    return {i for child in module.children() for i in _switch_on(child, options)}


def _flag_blocks(model: nn.Module) -> set[int]:
    """Set the training flag of the model's blocks, which the switch asks for; returns their ids."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks: list[Any] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for block in blocks:
        block.training = True
        block._gradient_checkpointing_func = partial(_in_eval, block, block._gradient_checkpointing_func)
    return {id(block) for block in blocks}


def _in_eval(
    block: nn.Module, checkpointed: Callable[..., Any], forward: Callable[..., Any], *args: Tensor
) -> Any:
    """The checkpointed forward pass of a block whose own code sees eval mode."""

    def run(*args: Tensor) -> Any:
        block.training = False
        try:
            return forward(*args)
        finally:
            block.training = True

    return checkpointed(run, *args)


def recomputed(block: Any, run: Callable[..., Any], *args: Tensor) -> Any:
    """`run(*args)`, a pass through a block beside its forward; computed again in the backward pass if the block checkpoints."""
    if getattr(block, "gradient_checkpointing", False) and block.training and torch.is_grad_enabled():
        return block._gradient_checkpointing_func(run, *args)
    return run(*args)
