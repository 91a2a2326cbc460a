"""Adapters on disk as PEFT reads them: `adapter_config.json` and `adapter_model.safetensors`.

A LoRA folder has one rank for all layers, no rank or alpha pattern, and the plain scale `lora_alpha / r`, rsLoRA's and merged
updates (FedEx-LoRA, FLoRA) included, so that a reader that knows nothing else computes the whole model, too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedloom.models.lora.layers import PREFIX, LoRA

CONFIG, WEIGHTS, SECOND = "adapter_config.json", "adapter_model.safetensors", "local"
MERGED = "merged.json"
"""File beside an adapter with merged updates: its own `rank`, and `ranks` by place with the merged update."""
SQUARE = "square.safetensors"
"""File beside a square adapter's factors: the R of every place, from which a run goes on."""
_KEYS = {
    "lora_A": "lora_A.weight",
    "lora_B": "lora_B.weight",
    "lambda_d": "vera_lambda_d",
    "lambda_b": "vera_lambda_b",
}
_OF_SECOND = {"local_A": "lora_A", "local_B": "lora_B", "local_d": "lambda_d", "local_b": "lambda_b"}
"""Tensors of the second adapter, which is saved as an adapter of its own in `local/`."""


def save(
    folder: Path, tensors: Mapping[str, Tensor], spec: LoRA, task: str | None, *, transposed: bool = False
) -> None:
    """Write the tensors of one group, `<place>.lora_A` and so on; the same tensors give the same bytes.

    `<place>.merged_A` (q, d_in) and `merged_B` (d_out, q) become ranks r .. r+q-1 of that place; smaller places are padded with
    zeros to the largest. `task` is PEFT's task type or None. `transposed`: the layers keep their weights as (d_in, d_out), as
    GPT-2's do. A second adapter (`local_A`, `local_B`) goes to the folder `local/`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranks: dict[str, int] = {}
    own: dict[str, Tensor] = {}
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
            axis = rank_axis(kind)
            tensor = torch.cat([tensor, merged.detach().cpu().to(tensor)], dim=axis)
            ranks[place] = tensor.shape[axis]
        own[name] = tensor
    described = spec.peft().to_dict() | {
        "base_model_name_or_path": None,
        "task_type": task,
        "inference_mode": True,
    }
    if spec.kind == "lora":
        width = max([spec.rank, *ranks.values()])
        own = {n: widened(n, t, width) for n, t in own.items()}
        described |= {"r": width, "lora_alpha": _alpha(spec, width), "use_rslora": False}
        described["fan_in_fan_out"] = transposed
    write(folder, described, {key_of(name): t.contiguous() for name, t in own.items()})
    if square := {n: t.detach().cpu().contiguous() for n, t in tensors.items() if n.endswith(".lora_R")}:
        save_file(dict(sorted(square.items())), folder / SQUARE)
    if ranks:
        write_json(folder / MERGED, {"rank": spec.rank, "ranks": ranks})
    if second:
        save(folder / SECOND, second, spec, task, transposed=transposed)


def read(folder: Path, *, factors: bool = False) -> dict[str, Tensor]:
    """The tensors that `save` wrote, by the same names; of square adapters R, or with `factors` A and B."""
    if not factors and (folder / SQUARE).is_file():
        return load_file(folder / SQUARE)
    config, stored = contents(folder)
    merged = read_json(folder / MERGED) if (folder / MERGED).is_file() else None
    own_rank, ranks = (config["r"], {}) if merged is None else (merged["rank"], merged["ranks"])
    tensors: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        name = name_of(key)
        if name is None:  # a classifier's head, which PEFT keeps beside the adapter
            continue
        place, kind = name.rsplit(".", 1)
        if not kind.startswith("lora_"):
            tensors[name] = tensor
            continue
        axis = rank_axis(kind)
        # folders of earlier versions have a rank of their own for each place, and no padding
        rank = tensor.shape[axis] if merged is None else ranks.get(place, own_rank)
        if rank > own_rank:
            more = tensor.narrow(axis, own_rank, rank - own_rank)
            tensors[f"{place}.merged_{kind[-1]}"] = more.contiguous()
        tensors[name] = tensor.narrow(axis, 0, own_rank).contiguous()
    if (folder / SECOND).is_dir():
        of_second = {first: own for own, first in _OF_SECOND.items()}
        for name, tensor in read(folder / SECOND).items():
            place, kind = name.rsplit(".", 1)
            tensors[f"{place}.{of_second[kind]}"] = tensor
    return tensors


def contents(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(configuration, tensors by PEFT's keys) of a PEFT folder."""
    return read_json(folder / CONFIG), load_file(folder / WEIGHTS)


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a PEFT folder: its configuration, and its tensors by PEFT's keys."""
    write_json(folder / CONFIG, {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()})
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS, {"format": "pt"})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its keys in order."""
    text = json.dumps(content, indent=2, sort_keys=True, default=str)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def key_of(name: str) -> str:
    """PEFT's key of `<place>.lora_A` and so on."""
    place, kind = name.rsplit(".", 1)
    return f"{PREFIX}{place}.{_KEYS[kind]}"


def name_of(key: str) -> str | None:
    """The name whose key it is; None for a tensor outside the adapter."""
    for kind, ending in _KEYS.items():
        if key.endswith("." + ending):
            return f"{key.removeprefix(PREFIX).removesuffix(ending)}{kind}"
    return None


def rank_axis(kind: str) -> int:
    """The axis of the rank: 0 of A (r, d_in), 1 of B (d_out, r)."""
    return 0 if kind.endswith("A") else 1


def widened(name: str, factor: Tensor, rank: int) -> Tensor:
    """A LoRA factor padded with zeros to `rank`."""
    axis = rank_axis(name)
    missing = rank - factor.shape[axis]
    shape = (missing, factor.shape[1]) if axis == 0 else (factor.shape[0], missing)
    return torch.cat([factor, factor.new_zeros(shape)], dim=axis) if missing else factor


def _alpha(spec: LoRA, width: int) -> float:
    """`lora_alpha` for which lora_alpha / width is the adapter's scale."""
    return spec.alpha if width == spec.rank and not spec.rslora else spec.scale() * width
