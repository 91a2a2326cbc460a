"""Bytes that autograd keeps from a forward pass for its backward pass; the same on every run of a machine."""

from collections.abc import Collection, Sequence
from typing import Any

import torch

from fedloom.models.base import Trainable


def kept_bytes(model: Trainable, examples: Sequence[Any], names: Collection[str]) -> int:
    """Bytes kept by the loss of a batch that trains the tensors in `names`; weights are left out.

    A checkpointed block counts with what it keeps. The model is frozen again afterwards.
    """
    weights = {p.untyped_storage().data_ptr() for p in model.root.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        # The tensor itself would hold the graph that holds it, and neither would ever be freed.
        return tensor.detach()

    with torch.random.fork_rng(devices=[]):
        model.begin(names)
        reused = not any(n in names for n in model.feature_tensors)
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                model.loss(examples, model.features(examples) if reused else None)
        finally:
            model.rest()
    return sum(storage.nbytes() for at, storage in kept.items() if at not in weights)
