"""A folder of trained adapters: a PEFT folder for each adapted group, and `fedloom.json`, which lists what there is."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from fedloom.core.payload import group_of
from fedloom.models.base import PROMPT_STATES
from fedloom.models.lora import peft_files as files
from fedloom.models.lora.layers import LoRA
from fedloom.models.lora.square import as_factors

LISTING, PROMPTS, NOTE = "fedloom.json", "anchors.safetensors", "README.md"
MIXED = """This client's model mixes two adapters anew for every example: the common one, and its own in `local/`.
The weight is half the mean cosine between the example's prompt and the prompts in `anchors.safetensors`.
No format of PEFT or transformers expresses it: a plain `PeftModel.from_pretrained` computes the common
adapter alone, and other outputs. `fedloom.load(RUN, client=NAME)` is this model.
"""
"""Text of the README in the folder of a FedDPA client."""


def save_groups(
    folder: Path,
    tensors: Mapping[str, Tensor],
    specs: Mapping[str, LoRA],
    layers: Mapping[str, Any],
    *,
    tasks: Mapping[str, str] | None = None,
    prefix: str = "",
) -> None:
    """Write the tensors `<group>/<place>` of every group in `specs` to a PEFT folder of its name.

    `layers`: PEFT's layers by `<group>/<place>`. `tasks`: PEFT's task type by group. `prefix` comes before the places on disk.
    """
    tensors = {**tensors, **as_factors(tensors, layers)}
    for group, spec in specs.items():
        own = {f"{prefix}{place_of(n)}": t for n, t in tensors.items() if group_of(n) == group}
        adapted = [layer for place, layer in layers.items() if group_of(place) == group]
        transposed = any(getattr(layer, "fan_in_fan_out", False) for layer in adapted)
        files.save(folder / group, own, spec, (tasks or {}).get(group), transposed=transposed)


def read_groups(folder: Path, groups: Collection[str], prefix: str = "") -> dict[str, Tensor]:
    """The tensors that `save_groups` wrote, by the same names."""
    return {
        f"{group}/{name.removeprefix(prefix)}": tensor
        for group in groups
        for name, tensor in files.read(folder / group).items()
    }


def save_prompts(folder: Path, states: Tensor | None) -> None:
    """Write a FedDPA client's prompt states, and the note that the folder's adapters are mixed by them; None: nothing."""
    if states is not None:
        save_file({PROMPT_STATES: states.contiguous()}, folder / PROMPTS)
        write_note(folder)


def read_prompts(folder: Path) -> dict[str, Tensor]:
    """The tensor that `save_prompts` wrote, by its travelling name; empty where there is none."""
    return load_file(folder / PROMPTS) if (folder / PROMPTS).is_file() else {}


def write_note(folder: Path) -> None:
    """Say in the folder that its two adapters are mixed by example."""
    (folder / NOTE).write_text(MIXED, encoding="utf-8")


def write_listing(folder: Path, listed: Mapping[str, Any]) -> None:
    """Write `fedloom.json`."""
    files.write_json(folder / LISTING, {"format": 1, **listed})


def read_listing(folder: Path) -> dict[str, Any]:
    """The content of `fedloom.json`."""
    return files.read_json(folder / LISTING)


def place_of(name: str) -> str:
    """The part of a travelling name after its group."""
    return name.split("/", 1)[1]
