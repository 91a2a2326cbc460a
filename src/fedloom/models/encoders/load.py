"""Loading towers from checkpoints of transformers: the part that reads one modality, without its pooling head."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import loading
from fedloom.core.hf_logging import quiet_hf
from fedloom.models.encoders.readers import Reader, own_seconds, picture_reader, sound_reader
from fedloom.models.encoders.towers import CONFIG, KIND, Tower, TowerEncoder
from fedloom.models.weights import Weights

PARTS = {"image": ("vision_model", "vision_tower", "visual"), "audio": ("audio_model", "audio_tower")}
"""Attributes under which models of several modalities keep the tower of one."""
MAIN = {"image": ("pixel_values",), "audio": ("input_features", "input_values")}


def load_towers(
    sources: Mapping[str, str | Path],
    seconds: float | None = None,
    modalities: Sequence[str] | None = None,
    weights: Weights | None = None,
) -> TowerEncoder:
    """Towers from Hugging Face ids or folders by modality, of `modalities` only if given.

    `seconds`: the length of sound that the audio tower reads. `weights`: their dtype and place, float32 on the CPU by default.
    Raises ExperimentError.
    """
    chosen = [m for m in sources if modalities is None or m in modalities]
    towers = {}
    for modality in chosen:
        field = f"model.encoder.{modality}"
        with loading(field, sources[modality]):
            towers[modality] = _load(sources[modality], modality, seconds, field, weights or Weights())
    source = ", ".join(str(sources[m]) for m in chosen)
    with loading("model.encoder", source):
        return TowerEncoder(towers)


def load_saved(
    folder: Path, modalities: Sequence[str] | None = None, weights: Weights | None = None
) -> TowerEncoder:
    """The encoder in a folder that `TowerEncoder.save_pretrained` wrote."""
    listed = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["modalities"]
    seconds = [entry["seconds"] for entry in listed.values() if entry["seconds"] is not None]
    return load_towers({m: folder / m for m in listed}, seconds[0] if seconds else None, modalities, weights)


def is_saved(folder: Path) -> bool:
    """Whether a folder holds an encoder of towers."""
    file = folder / CONFIG
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("model_type") == KIND


def _load(source: str | Path, modality: str, seconds: float | None, field: str, weights: Weights) -> Tower:
    model = _part(*_model(source, field, weights), modality, source, field)
    _drop_pooling(model)
    name = model.main_input_name
    if name not in MAIN[modality]:
        raise ExperimentError(
            f"{field}: {source} is a {type(model).__name__}, which reads {name}; name an encoder of {modality}"
        )
    if modality == "image":
        return Tower(model, picture_reader(source, field))
    reader = sound_reader(source, name, seconds, field)
    full = None
    if seconds is not None and own_seconds(reader.processor) is not None:
        full = _crop(model, reader, seconds, field, source)
    return Tower(model, reader, full)


def _model(source: str | Path, field: str, weights: Weights) -> tuple[Any, set[str]]:
    """The base model of a checkpoint, or the part of it that was saved alone; and the names of the weights that it lacks."""
    import transformers
    from transformers import MODEL_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    named = (getattr(config, "architectures", None) or [""])[0]
    if type(config) in MODEL_MAPPING:
        kind = MODEL_MAPPING[type(config)]
        if named.endswith("Encoder"):  # a part that `save_pretrained` wrote alone, such as WhisperEncoder
            kind = getattr(sys.modules[kind.__module__], named, kind)
    else:
        kind = getattr(transformers, named, None)
        if kind is None:
            raise ValueError(f"transformers has no model for {config.model_type}")
    with quiet_hf(), torch.random.fork_rng(devices=[]):
        model, report = weights.read(kind, source, field, config=config)
    return model, {str(name) for name in report["missing_keys"]}


def _part(model: Any, missing: set[str], modality: str, source: str | Path, field: str) -> Any:
    """The tower of a modality. Raises ExperimentError where the checkpoint lacks some of its weights."""
    prefix = ""
    names = [n for n in PARTS[modality] if isinstance(getattr(model, n, None), nn.Module)]
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "encoder"):
        names = ["encoder"]
    if names:
        model, prefix = getattr(model, names[0]), f"{names[0]}."
    lacking = sorted(n for n in missing if n.startswith(prefix) and not _pooling(n.removeprefix(prefix)))
    if lacking:
        raise ExperimentError(
            f"{field}: {source} lacks {lacking[0]} and {len(lacking) - 1} more; name a checkpoint of an encoder of {modality}"
        )
    return model


def _pooling(name: str) -> bool:
    return name.split(".")[0] in ("pooler", "head")


def _drop_pooling(model: Any) -> None:
    """Remove the layers after the states: they would take adapters and never see them trained."""
    if getattr(model, "use_head", False):  # SigLIP
        model.use_head = model.config.vision_use_head = False
        del model.head
    if isinstance(getattr(model, "pooler", None), nn.Module) and any(
        isinstance(m, nn.Linear) for m in model.pooler.modules()
    ):
        model.pooler = None


def _crop(model: Any, reader: Any, seconds: float, field: str, source: str | Path) -> int | None:
    """Let a tower with one position per step of time read `seconds` only; returns its number of positions before, if larger.

    Raises ExperimentError for a tower whose length is fixed, or shorter.
    """
    table = getattr(model, "embed_positions", None)
    own = own_seconds(reader.processor)
    if not isinstance(table, nn.Embedding) or not hasattr(model, "max_source_positions"):
        raise ExperimentError(
            f"model.audio_seconds: {field} {source} always reads {own:g} s; leave the setting out"
        )
    full: int = table.num_embeddings
    positions = math.ceil(seconds / own * full)  # type: ignore[operator]
    if positions > full:
        raise ExperimentError(
            f"model.audio_seconds is {seconds:g}, and {field} {source} reads at most {own:g} s"
        )
    model.embed_positions = nn.Embedding(
        positions, table.embedding_dim, _weight=table.weight[:positions].detach().clone(), _freeze=True
    )
    model.max_source_positions = model.config.max_source_positions = positions
    extractor = reader.processor
    step = extractor.n_samples // full
    extractor.chunk_length = positions * step / extractor.sampling_rate
    reader.read_seconds(extractor.chunk_length)
    return full if positions < full else None


__all__ = ["Reader", "is_saved", "load_saved", "load_towers"]
