"""The parts of a model whose family is not in the table, found by the names of its modules and of its configuration."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from fedloom.core.errors import ExperimentError
from fedloom.models.native.families import FAMILIES, Family, Tower

ENCODERS = {
    "image": ("vision_tower", "vision_model", "vision_encoder", "visual", "image_encoder", "vision"),
    "audio": ("audio_tower", "audio_encoder", "audio_model", "speech_encoder", "encoder"),
}
CONFIGS = {"image": ("vision_config", "vision"), "audio": ("audio_config", "encoder_config", "speech_config")}
INPUTS = {"image": "pixel_values", "audio": "input_features"}
PROJECTORS = ("project", "connector", "align", "merger", "adapter", "abstractor", "resampler", "embed_vision")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "qkv", "proj", "projection_layer")
MORE_ATTENTION = ("query", "key", "value", "to_q", "to_k", "to_v", "to_kv", "to_out", "q", "k", "v")


def family_of(model: Any, source: str) -> Family:
    """The row of the table, or the parts found by name; a model found by name trains its clients one after another.

    Raises ExperimentError, in one sentence, where a part is not found.
    """
    kind = model.config.model_type
    return FAMILIES[kind] if kind in FAMILIES else _found(model, source)


def _found(model: Any, source: str) -> Family:
    modules = dict(model.named_modules())
    paths = {id(m): n for n, m in reversed(modules.items())}
    llm = paths.get(id(model.get_decoder()), "") if hasattr(model, "get_decoder") else ""
    missing = [] if llm else ["the language model (get_decoder)"]
    towers: dict[str, Tower] = {}
    for modality, names in ENCODERS.items():
        if not any(getattr(model.config, c, None) is not None for c in CONFIGS[modality]):
            continue
        path = next((n for name in names for n in modules if n.rsplit(".", 1)[-1] == name), None)
        if path is None:
            missing.append(f"the encoder for {modality}")
            continue
        projectors = _projectors(modules, path, llm, modality)
        if not projectors:
            missing.append(f"the projector for {modality}")
            continue
        targets = attention(n for n, m in modules[path].named_modules() if isinstance(m, nn.Linear))
        towers[modality] = Tower(path, projectors, targets, INPUTS[modality], rows=None)
    if missing or not towers:
        what = " and ".join(missing) or "an encoder for pictures or sounds"
        raise ExperimentError(
            f"model.native: {source} is of the family {model.config.model_type}, which fedloom has no table row for, and {what} "
            f"cannot be found by name; families with a row: {', '.join(FAMILIES)}"
        )
    own = modules[llm]
    targets = attention(n for n, m in own.named_modules() if isinstance(m, nn.Linear))
    return Family(towers, llm, targets, several=False)


def _projectors(modules: dict[str, nn.Module], tower: str, llm: str, modality: str) -> tuple[str, ...]:
    """Siblings of the encoder with trained tensors and a projector's name, the modality's own if there are such."""
    parent = tower.rpartition(".")[0]
    siblings = [
        n
        for n, m in modules.items()
        if n.rpartition(".")[0] == parent
        and n not in (tower, llm)
        and any(p in n.rsplit(".", 1)[-1] for p in PROJECTORS)
        and next(m.parameters(), None) is not None
    ]
    inside = [n for n in modules if n.startswith(f"{tower}.") and n.rsplit(".", 1)[-1] == "merger"]
    words = {"image": ("vision", "visual", "image"), "audio": ("audio", "speech")}
    other = [w for m, ws in words.items() if m != modality for w in ws]
    return tuple(n for n in siblings if not any(w in n.rsplit(".", 1)[-1] for w in other)) or tuple(inside)


def attention(linear: Iterable[str]) -> tuple[str, ...]:
    """The ends of paths of attention's Linear layers among these; all last names where none is known."""
    ends = {n.removesuffix(".linear").rsplit(".", 1)[-1]: n.endswith(".linear") for n in linear}
    known = [n for n in (*ATTENTION, *MORE_ATTENTION) if n in ends]  # Gemma 4 wraps a Linear named linear
    return tuple(f"{n}.linear" if ends[n] else n for n in known or sorted(ends))
