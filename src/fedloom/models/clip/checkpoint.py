"""CLIP on disk: checkpoints in Hugging Face's format, read without pickle and remote code; and folders of trained adapters.

PEFT has none of these adapters: S works in two towers at once, and PEFT's prompts stand before a whole sequence. So a group is a
plain safetensors file, and `fedloom.json` describes the adapter, so that fedloom can build it again.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import loading
from fedloom.core.hf_logging import quiet_hf
from fedloom.core.payload import group_of
from fedloom.data.pictures.class_names import Classes
from fedloom.models.clip.adapter import CLIPAdapter
from fedloom.models.clip.conditional_prompt import ConditionalContext
from fedloom.models.clip.mixture_of_prompts import MixtureOfPrompts
from fedloom.models.clip.multimodal_adapter import MultimodalAdapter
from fedloom.models.clip.other_towers import TOWERS
from fedloom.models.clip.prompt import Context, LowRankContext
from fedloom.models.clip.towers import Towers
from fedloom.models.clip.two_prompts import TwoContexts
from fedloom.models.clip.zero_shot import ZeroShotCLIP
from fedloom.models.image_processing import Pixels, read_pixels
from fedloom.models.weights import Weights

KINDS: dict[str, type[CLIPAdapter]] = {
    "Nothing": ZeroShotCLIP,
    "Context": Context,
    "LowRankContext": LowRankContext,
    "ConditionalContext": ConditionalContext,
    "TwoContexts": TwoContexts,
    "Experts": MixtureOfPrompts,
    "MultimodalAdapter": MultimodalAdapter,
}
"""Adapter classes by their names in `fedloom.json`; the names stay when a class is renamed."""
_NAMES = {kind: name for name, kind in KINDS.items()}


def load_clip_checkpoint(source: str | Path, weights: Weights | None = None) -> tuple[Towers, Pixels]:
    """The towers (float32 on the CPU unless `weights`) and the preprocessing of a shipped CLIP, a folder, or a Hugging Face id.

    A CLIPModel, a SiglipModel or a VisionTextDualEncoderModel. Raises ExperimentError for one that cannot be read.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    shipped = Path(str(files("fedloom.models"))) / "shipped" / str(source)
    where = shipped if (shipped / "config.json").is_file() else source
    with loading("model.clip", source):
        kind = AutoConfig.from_pretrained(where, trust_remote_code=False).model_type
        if kind not in TOWERS:
            raise ExperimentError(
                f"model.clip: {source} is a {kind} model; name one of the kinds {', '.join(TOWERS)}"
            )
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        with quiet_hf(), torch.random.fork_rng(devices=[]):
            clip, report = (weights or Weights()).read(AutoModel, where, "model.clip")
    if missing := sorted(map(str, report["missing_keys"])):
        raise ExperimentError(
            f"model.clip: {source} is no CLIP: it lacks {missing[0]} and {len(missing) - 1} more"
        )
    return TOWERS[kind](clip, tokenizer), read_pixels(where)


def save(folder: Path, tensors: Mapping[str, Tensor], adapter: CLIPAdapter, classes: Classes) -> None:
    """`<group>.safetensors` with plain names for every group, and `fedloom.json`; equal tensors give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    groups, kind = sorted(set(map(group_of, tensors))), type(adapter)
    for group in groups:
        own = {n: t.detach().cpu().contiguous() for n, t in sorted(tensors.items()) if group_of(n) == group}
        save_file({n.removeprefix(f"{group}/"): t for n, t in own.items()}, folder / f"{group}.safetensors")
    listed = {
        "format": 1,
        "kind": "clip",
        "adapters": groups,
        "attachment": {"type": _NAMES.get(kind, kind.__name__), **adapter.model_dump(mode="json")},
        "classes": {"base": list(classes.base), "novel": list(classes.novel)},
    }
    (folder / "fedloom.json").write_text(
        json.dumps(listed, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )


def read(folder: Path) -> dict[str, Tensor]:
    """The tensors that `save` wrote, by their travelling names."""
    listed = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))
    return {
        f"{group}/{name}": tensor
        for group in listed["adapters"]
        for name, tensor in load_file(folder / f"{group}.safetensors").items()
    }


def read_adapter(folder: Path) -> CLIPAdapter:
    """The description that `save` wrote. Raises ExperimentError for an adapter that fedloom does not have."""
    fields = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))["attachment"]
    name = fields.pop("type")
    if name not in KINDS:
        raise ExperimentError(
            f"{folder / 'fedloom.json'} names the adapter {name}; known are {', '.join(KINDS)}"
        )
    return KINDS[name].model_validate(fields)
