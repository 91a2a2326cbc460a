"""Adapters in their plainest form: one LoRA of one rank with `lora_alpha = r`, so that a layer's update is `B A` and no more.

Scales are folded into B; merged updates and a second adapter become further ranks; VeRA's `diag(b) B diag(d) A` is a LoRA of its
own rank. The form is exact up to the rounding of one product per element.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fedloom.models.lora import peft_files as files
from fedloom.models.lora.layers import LoRA

Pair = tuple[Tensor, Tensor]
"""A (q, d_in) and B (d_out, q) in float32, whose product B A is a layer's whole update."""


def pairs(tensors: Mapping[str, Tensor], scale: float, frozen: Mapping[str, Tensor]) -> dict[str, Pair]:
    """The update of every place in `tensors`, `<place>.lora_A` and so on; merged factors and a second adapter count in full.

    `scale` is LoRA's s. `frozen`: VeRA's `<place>.vera_A` (r, d_in) and `<place>.vera_B` (d_out, r). Raises KeyError where they
    are missing.
    """
    wide = {name: tensor.detach().cpu().double() for name, tensor in tensors.items()}
    found: dict[str, list[Pair]] = {}
    for name in sorted(wide):
        place, kind = name.rsplit(".", 1)
        if kind in ("lora_A", "merged_A", "local_A"):
            found.setdefault(place, []).append((wide[name], scale * wide[name[:-1] + "B"]))
        elif kind in ("lambda_d", "local_d"):
            A, B = (frozen[f"{place}.vera_{factor}"].detach().cpu().double() for factor in "AB")
            b = wide[name[:-1] + "b"]
            found.setdefault(place, []).append((wide[name][:, None] * A, b[:, None] * B))
    return {
        place: (torch.cat([A for A, _ in own]).float(), torch.cat([B for _, B in own], dim=1).float())
        for place, own in found.items()
    }


def make_uniform(folder: Path, frozen: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> int:
    """Rewrite a PEFT folder in the plainest form, a second adapter in `local/` included; returns its rank.

    Tensors outside the adapter, such as a classifier's head, are kept. `frozen` as in `pairs`, by the folder's places; `dtype` is
    that of the stored factors (None: float32).
    """
    config, stored = files.contents(folder)
    layers = pairs(files.read(folder, factors=True), _scale(config), frozen)
    rank = max(A.shape[0] for A, _ in layers.values())
    plain = LoRA(rank=rank, alpha=rank, targets=tuple(config["target_modules"]))
    described = plain.peft().to_dict() | {
        name: config[name]
        for name in ("base_model_name_or_path", "task_type", "inference_mode", "modules_to_save")
    }
    described |= {"lora_alpha": rank, "fan_in_fan_out": config.get("fan_in_fan_out", False)}
    tensors = {key: t for key, t in stored.items() if files.name_of(key) is None}
    for place, factors in layers.items():
        for factor, kind in zip(factors, ("lora_A", "lora_B"), strict=True):
            name = f"{place}.{kind}"
            tensors[files.key_of(name)] = (
                files.widened(name, factor, rank).to(dtype or torch.float32).contiguous()
            )
    shutil.rmtree(folder / files.SECOND, ignore_errors=True)
    for name in (files.MERGED, files.SQUARE):
        (folder / name).unlink(missing_ok=True)
    files.write(folder, described, tensors)
    return rank


def _scale(config: Mapping[str, float]) -> float:
    """s of a stored adapter; VeRA has none."""
    if "lora_alpha" not in config:
        return 1.0
    return config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
