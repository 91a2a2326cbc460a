"""Precision of a frozen foundation, transfers to its device, and compilation of its frozen blocks."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

Precision = Literal["float32", "bfloat16", "auto"]
"""Dtype of the frozen weights; auto: that of each checkpoint, bfloat16 for a float16 one."""
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
F = TypeVar("F", bound=Callable[..., Any])


def arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast for a bfloat16 foundation: products in bfloat16, sensitive sums in float32; none for another, inside one too."""
    if dtype == torch.bfloat16:
        return torch.autocast(device.type, dtype)
    inside = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if inside else nullcontext()


def in_precision(method: F) -> F:
    """A model's method, run in the precision of its foundation (`self.precision`)."""

    @wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with arithmetic(self.device, self.precision):
            return method(self, *args, **kwargs)

    return cast(F, run)


@torch.no_grad()
def settle(
    module: torch.nn.Module,
    dtype: torch.dtype,
    device: torch.device | None = None,
    trained: Collection[int] = (),
) -> None:
    """Cast the frozen weights to `dtype` and move all to `device` (None: they stay), one tensor at a time.

    The parameters with an id in `trained` become float32. Quantised weights and buffers keep their dtype, but float16 buffers
    and the statistics of a batch norm take `dtype`: it refuses weights of another.
    """
    for parameter in module.parameters():
        plain = parameter.is_floating_point() and type(parameter.data) is Tensor
        wanted = torch.float32 if id(parameter) in trained else dtype
        parameter.data = parameter.data.to(device=device, dtype=wanted if plain else None)
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                cast_too = buffer.dtype == torch.float16 or (
                    isinstance(part, _BatchNorm) and buffer.is_floating_point()
                )
                part._buffers[name] = buffer.to(device=device, dtype=dtype if cast_too else None)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; to a GPU through pinned memory, so that the copy overlaps with computation."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def placed(values: Sequence[Any], device: torch.device) -> Tensor:
    """A tensor of the values on `device`, brought there as by `moved`: no step waits for it."""
    return moved(torch.tensor(values), device)


def read_later(tensor: Tensor) -> Callable[[], list[float]]:
    """The reading of a tensor (n,): a GPU copies it meanwhile, so that the reader waits for no work that was queued after it."""
    if tensor.device.type != "cuda":
        return tensor.tolist
    here = torch.empty_like(tensor, device="cpu", pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return here.tolist()

    return read


def compile_frozen(root: torch.nn.Module, adapted: set[int], **options: Any) -> int:
    """`torch.compile` every block without an adapter in it, such as an LLM's MLPs; returns their number.

    `adapted`: ids of the modules that hold adapters or trained tensors. Blocks around them are left alone: cohort training
    replaces their layers' `forward`. Sizes are dynamic, because batches differ in length.
    """
    count = 0
    for child in root.children():
        inside = list(child.modules())
        listed = isinstance(child, torch.nn.ModuleList | torch.nn.ModuleDict)  # has no forward of its own
        if listed or any(id(m) in adapted or _noisy(m) for m in inside):
            count += compile_frozen(child, adapted, **options)
        elif len(inside) > 1 and next(child.parameters(), None) is not None:
            child.compile(dynamic=True, **options)
            count += 1
    return count


def _noisy(module: torch.nn.Module) -> bool:
    """Whether it is an active dropout, which draws from its client's stream in cohort training."""
    return isinstance(module, torch.nn.Dropout) and module.p > 0
