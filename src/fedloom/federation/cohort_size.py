"""The automatic cohort size: the largest number of clients that still speeds a round up and fits into memory."""

import os
from collections.abc import Sequence

import torch
from torch import nn

from fedloom.data.sample import Sample
from fedloom.models.base import Trainable

ENOUGH = {"cpu": 4096, "cuda": 65_536}
"""Positions (samples in a step times tokens) beyond which a larger batch makes a device no faster."""
SHARE = {"cpu": 0.25, "cuda": 0.5}
"""Share of the memory that a cohort's activations and stacked tensors may take."""
LARGEST = 256


def cohort_size(model: Trainable, samples: Sequence[Sample], batch_size: int) -> int:
    """The number of clients trained together, from the shapes of model and `samples` and the device's memory; at least 1."""
    if not model.stackable:
        return 1
    lengths = [model.positions(model.prepare(s)) for s in samples]
    if not lengths:
        return 1
    device = next(iter(model.tensors.values())).device
    kind = "cuda" if device.type == "cuda" else "cpu"
    positions = batch_size * sum(lengths) / len(lengths)
    size = next(iter(model.tensors.values())).element_size()
    widths = sum(m.out_features for m in model.root.modules() if isinstance(m, nn.Linear))
    activations = 2 * size * widths * positions
    stacks = 4 * size * sum(t.numel() for t in model.tensors.values())  # values, gradients and two moments
    fits = SHARE[kind] * memory(device) / (activations + stacks)
    return max(1, min(LARGEST, int(ENOUGH[kind] / positions), int(fits)))


def memory(device: torch.device) -> int:
    """The device's total memory in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not a POSIX system
        return 4 * 2**30
