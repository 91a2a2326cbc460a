"""Quantisation of a frozen LLM to 8 or 4 bits by bitsandbytes or torchao, through transformers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from fedloom.core.errors import ExperimentError

Bits = Literal["8bit", "4bit"]
Quantizer = Literal["auto", "bitsandbytes", "torchao"]
BITSANDBYTES_DEVICES = ("cpu", "cuda", "xpu")
GROUP = 32
"""Weights that share a scale in torchao's 4-bit mode; the largest group that fits every usual width."""
SAID = {
    ("8bit", "torchao"): "8-bit weights (int8, a scale per row)",
    ("4bit", "torchao"): f"4-bit weights (int4, a scale per {GROUP}), each kept in a byte",
    ("8bit", "bitsandbytes"): "8-bit weights and inputs (LLM.int8 without outliers)",
    ("4bit", "bitsandbytes"): "4-bit weights (NF4)",
}


@dataclass(frozen=True)
class Quantization:
    """The number of bits, and the library that is used."""

    bits: Bits
    library: Literal["bitsandbytes", "torchao"]

    @classmethod
    def chosen(cls, bits: Bits, quantizer: Quantizer, device: torch.device) -> "Quantization":
        """The library of `auto`: torchao for 8 bits, where inputs stay whole; bitsandbytes for 4, which packs two in a byte.

        Raises ExperimentError for a library that is not installed, or that does not know the device.
        """
        known = device.type in BITSANDBYTES_DEVICES
        library = quantizer
        if library == "auto":
            library = "bitsandbytes" if bits == "4bit" and known else "torchao"
        if library == "bitsandbytes" and not known:
            raise ExperimentError(
                f"model.quantizer: bitsandbytes does not run on {device.type}; use torchao, or leave the setting out"
            )
        for name in (library, "accelerate"):
            if find_spec(name) is None:
                raise ExperimentError(
                    f"model.quantize needs {name}, which is not installed: pip install 'fedloom[quantize]'"
                )
        return cls(bits, library)

    def config(self, dtype: torch.dtype, skipped: Sequence[str] | None) -> Any:
        """The settings for transformers; `skipped` modules stay whole, by default the output layer."""
        from transformers import BitsAndBytesConfig, TorchAoConfig

        skip = None if skipped is None else list(skipped)
        if self.library == "bitsandbytes":
            # A threshold would find outliers over the whole batch, so that one sample changed the answer to another.
            return BitsAndBytesConfig(
                load_in_8bit=self.bits == "8bit",
                load_in_4bit=self.bits == "4bit",
                llm_int8_threshold=0.0,
                llm_int8_skip_modules=skip,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
        from torchao.quantization.granularity import PerGroup

        four = IntxWeightOnlyConfig(
            weight_dtype=torch.int4,  # type: ignore[attr-defined]
            granularity=PerGroup(GROUP),
        )
        return TorchAoConfig(
            Int8WeightOnlyConfig() if self.bits == "8bit" else four, modules_to_not_convert=skip
        )

    def described(self, device: torch.device) -> str:
        """The mode in words."""
        slow = ", unpacked for each product on the CPU" if device.type == "cpu" else ""
        return f"{SAID[self.bits, self.library]} by {self.library}{slow}"


def is_quantised(layer: nn.Module) -> bool:
    """Whether a layer's weight is quantised."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.Tensor):  # none, or a parametrised one
        return False
    return not weight.is_floating_point() or "torchao" in type(weight.data).__module__


def make_repeatable(model: nn.Module, dtype: torch.dtype) -> None:
    """Let bitsandbytes' layers compute in `dtype`, and never repack their weights.

    On some CPUs the first forward pass in eval mode repacks them, and later products round otherwise than before.
    """
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # a line for every product
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            linear: Any = layer
            linear.support_avx512bf16_for_cpu = False
            linear.compute_dtype, linear.compute_type_is_set = dtype, True


def outside(model: nn.Module, path: str, also: Sequence[str] = ()) -> list[str]:
    """The modules beside the one at `path`, outermost first, and those of `also`: all that is not to be quantised."""
    found, at = [], ""
    for part in path.split(".") if path else ():
        siblings = model.get_submodule(at).named_children()
        found += [f"{at}.{name}".lstrip(".") for name, _ in siblings if name != part]
        at = f"{at}.{part}".lstrip(".")
    return sorted({*found, *also})
