"""The precision of sums: at least float32, and float64 where the numbers came so."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor of float16 or bfloat16 as float32; one of float32 or float64 as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
