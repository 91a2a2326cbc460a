"""LoRA adapters (Hu et al., 2022) through PEFT: attached with a seeded start, named for travel, written as PEFT reads them.

`W = W0 + s B A` with A (r, d_in), B (d_out, r) and s = alpha / r, or alpha / sqrt(r) with rsLoRA.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn

from fedloom.errors import ExperimentError
from fedloom.streams import torch_stream

_FACTORS = {"lora_A.default.weight": "lora_A", "lora_B.default.weight": "lora_B"}
_PREFIX = "base_model.model."


class LoRA(BaseModel):
    """One LoRA adapter's shape."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(8, ge=1, description="r, the inner width of both factors")
    alpha: float = Field(8.0, gt=0, description="scale numerator: s = alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input, in training only")
    rslora: bool = Field(False, description="s = alpha / sqrt(r) instead (rsLoRA)")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        min_length=1,
        description="names of the Linear modules that are adapted",
    )

    def peft(self) -> LoraConfig:
        """The same adapter as PEFT describes it."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            target_modules=list(self.targets),
            bias="none",
        )


def attach(module: nn.Module, spec: LoRA, group: str, seed: int) -> PeftModel:
    """Wrap `module` by PEFT; A ~ U(-1/sqrt(d_in), 1/sqrt(d_in)) from the stream of (seed, group), B = 0.

    Raises ExperimentError where a target names no Linear module, or where the rank exceeds an adapted layer's size.
    """
    linear = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    adapted = {n: m for n, m in linear.items() if n.rsplit(".", 1)[-1] in spec.targets}
    if not adapted:
        known = ", ".join(sorted({n.rsplit(".", 1)[-1] for n in linear}))
        raise ExperimentError(
            f"the LoRA targets {', '.join(spec.targets)} name no layer of {group}; it has {known}"
        )
    for name, layer in adapted.items():
        if spec.rank > min(layer.in_features, layer.out_features):
            raise ExperimentError(
                f"LoRA rank {spec.rank} is above the size of {group} {name} "
                f"({layer.out_features} x {layer.in_features}); at most {min(layer.in_features, layer.out_features)} is right"
            )
    wrapped = get_peft_model(module, spec.peft())
    with torch.no_grad():
        for name, parameter in named_factors(wrapped).items():
            if name.endswith("lora_A"):
                bound = parameter.shape[1] ** -0.5
                start = (
                    torch.rand(parameter.shape, generator=torch_stream(seed, "lora", group, name)) * 2 * bound
                    - bound
                )
                parameter.copy_(start)
            else:
                parameter.zero_()
    return wrapped


def named_factors(wrapped: nn.Module) -> dict[str, nn.Parameter]:
    """`{place.lora_A | place.lora_B: parameter}` of a PEFT-wrapped module; place is the adapted layer's path."""
    found = {}
    for name, parameter in wrapped.named_parameters():
        for ending, short in _FACTORS.items():
            if name.endswith(ending):
                found[name.removeprefix(_PREFIX).removesuffix(ending) + short] = parameter
    return found


def save(folder: Path, factors: Mapping[str, Tensor], spec: LoRA, base: str | None, task: str | None) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, which `PeftModel.from_pretrained(base, folder)` reads.

    The same factors give the same bytes. `base` is the base model's id or None; `task` PEFT's task type or None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = spec.peft().to_dict() | {
        "base_model_name_or_path": base,
        "task_type": task,
        "inference_mode": True,
    }
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in described.items()}
    text = json.dumps(plain, indent=2, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    tensors = {
        f"{_PREFIX}{name}.weight": factors[name].detach().cpu().contiguous() for name in sorted(factors)
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def place(key: str) -> str:
    """The short name of a tensor in a PEFT file: `base_model.model.<place>.lora_A.weight` to `<place>.lora_A`."""
    return key.removeprefix(_PREFIX).removesuffix(".weight")
