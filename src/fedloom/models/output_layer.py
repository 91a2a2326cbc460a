"""The layer that turns hidden states into logits, fed so that one product with its weights is enough."""

from typing import Any

from torch import Tensor, nn


def feed_contiguous(llm: nn.Module) -> None:
    """Give the output layer contiguous states; the logits are the same.

    A search hands over the last position of each row, a view with gaps. For a frozen weight PyTorch on the CPU then copies the
    weight once per row: gigabytes and seconds for a batch of 64 (docs/real.md).
    """
    get = getattr(llm, "get_output_embeddings", None)
    head = get() if get is not None else None
    if isinstance(head, nn.Module):
        head.register_forward_pre_hook(_contiguous)


def _contiguous(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.contiguous() if isinstance(x, Tensor) else x for x in inputs)
