"""Adapters on disk as PEFT reads them: `adapter_config.json` and `adapter_model.safetensors`.

Updates merged into the base (FedEx-LoRA, FLoRA) are written as further ranks of the same adapter, so that plain
`PeftModel.from_pretrained(base, folder)` computes the whole model.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedloom.models.lora.layers import PREFIX, LoRA

_KEYS = {
    "lora_A": "lora_A.weight",
    "lora_B": "lora_B.weight",
    "lambda_d": "vera_lambda_d",
    "lambda_b": "vera_lambda_b",
}

_OF_SECOND = {"local_A": "lora_A", "local_B": "lora_B", "local_d": "lambda_d", "local_b": "lambda_b"}
"""Tensors of the second adapter, which is saved as an adapter of its own in `local/`."""


def save(folder: Path, tensors: Mapping[str, Tensor], spec: LoRA, task: str | None) -> None:
    """Write the tensors of one group, `<place>.lora_A` and so on; the same tensors give the same bytes.

    `<place>.merged_A` (q, d_in) and `merged_B` (d_out, q) become ranks r .. r+q-1 of that place. `task` is PEFT's task
    type or None. A second adapter (`local_A`, `local_B`) goes to the folder `local/`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = spec.peft().to_dict() | {
        "base_model_name_or_path": None,
        "task_type": task,
        "inference_mode": True,
    }
    ranks: dict[str, int] = {}
    written: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    for name in sorted(tensors):
        place, kind = name.rsplit(".", 1)
        tensor = tensors[name].detach().cpu()
        if kind.startswith("local_"):
            second[f"{place}.{_OF_SECOND[kind]}"] = tensor
        if kind not in _KEYS:
            continue
        merged = tensors.get(f"{place}.merged_{kind[-1]}") if kind.startswith("lora_") else None
        if merged is not None:
            axis = 0 if kind == "lora_A" else 1
            tensor = torch.cat([tensor, merged.detach().cpu().to(tensor)], dim=axis)
            ranks[place] = tensor.shape[axis]
        written[f"{PREFIX}{place}.{_KEYS[kind]}"] = tensor.contiguous()
    if ranks:
        described["rank_pattern"] = ranks
        described["alpha_pattern"] = {
            place: spec.scale() * (rank**0.5 if spec.rslora else rank) for place, rank in ranks.items()
        }
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in described.items()}
    text = json.dumps(plain, indent=2, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    save_file(written, folder / "adapter_model.safetensors", {"format": "pt"})
    if second:
        save(folder / "local", second, spec, task)


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors that `save` wrote, by the same names."""
    rank = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    tensors: dict[str, Tensor] = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        name = key.removeprefix(PREFIX)
        known = [(e, k) for k, e in _KEYS.items() if name.endswith("." + e)]
        if not known:  # a classifier's head, which PEFT keeps beside the adapter
            continue
        ending, kind = known[0]
        place = name.removesuffix("." + ending)
        own = tensor
        if kind.startswith("lora_") and tensor.shape[axis := 0 if kind == "lora_A" else 1] > rank:
            own, more = tensor.narrow(axis, 0, rank), tensor.narrow(axis, rank, tensor.shape[axis] - rank)
            tensors[f"{place}.merged_{kind[-1]}"] = more.contiguous()
        tensors[f"{place}.{kind}"] = own.contiguous()
    if (folder / "local").is_dir():
        of_second = {first: own for own, first in _OF_SECOND.items()}
        for name, tensor in read(folder / "local").items():
            place, kind = name.rsplit(".", 1)
            tensors[f"{place}.{of_second[kind]}"] = tensor
    return tensors
