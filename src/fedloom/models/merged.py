"""Whole models: a run's adapters merged into the frozen weights, for folders that transformers loads without PEFT."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fedloom.core.dtypes import at_least_float32
from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import loading
from fedloom.core.hf_logging import quiet_hf
from fedloom.core.payload import group_of
from fedloom.models.adapter_folder import place_of
from fedloom.models.base import Trainable
from fedloom.models.lora.square import as_factors
from fedloom.models.lora.uniform import pairs

SHARD = "5GB"
"""Largest weight file of a whole model, as transformers reads it."""
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


@torch.no_grad()
def merge(model: Trainable) -> None:
    """Add each layer's update to its frozen weight, in float32; the model is then for PEFT's `unload` alone.

    A weight is rounded once, to its own dtype. Raises ExperimentError for adapters that are mixed by example (FedDPA), and for
    a weight that is quantised.
    """
    if model.own_prompts is not None:
        raise ExperimentError(
            "the client's model mixes two adapters by example, which no merged model expresses; export it without --merge, or "
            "the common model without --client"
        )
    tensors = model.exported()
    model.load({n: t for n, t in tensors.items() if n in model.tensors})
    tensors |= as_factors(tensors, model.layers)
    frozen = model.frozen
    for group, scale in model.scales.items():
        own = {place_of(n): t for n, t in tensors.items() if group_of(n) == group}
        named = {place_of(n): t for n, t in frozen.items() if group_of(n) == group}
        for place, (A, B) in pairs(own, scale, named).items():
            _add(model.layers[f"{group}/{place}"], B.to(model.device) @ A.to(model.device), place)


def _add(layer: Any, update: Tensor, place: str) -> None:
    """Add an update (d_out, d_in) to a layer's weight."""
    weight = layer.get_base_layer().weight
    if not weight.is_floating_point():
        raise ExperimentError(
            f"the frozen weight of {place} is quantised, and a merged model needs it whole; export the adapters, or uniform ones"
        )
    change = update.T if getattr(layer, "fan_in_fan_out", False) else update  # GPT-2's Conv1D: (d_in, d_out)
    weight.copy_(at_least_float32(weight) + change)


def stored_dtype(source: str | Path) -> torch.dtype:
    """The dtype of a checkpoint's weights: a folder's, or a Hugging Face id's. Raises ExperimentError."""
    files = sorted(Path(source).glob("*.safetensors"))
    if not files:
        from transformers import AutoConfig

        with loading("model", source), quiet_hf():
            dtype = AutoConfig.from_pretrained(source, trust_remote_code=False).dtype
        return dtype if isinstance(dtype, torch.dtype) else torch.float32
    with safe_open(files[0], framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            if (dtype := _TYPES.get(file.get_slice(name).get_dtype())) is not None:
                return dtype
    return torch.float32
