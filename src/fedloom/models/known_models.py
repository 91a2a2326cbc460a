"""Models that are known to fit: what they read, and how much memory LoRA on them needs; and the kind of any checkpoint."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import loading
from fedloom.models.clip.other_towers import TOWERS
from fedloom.models.native.families import FAMILIES

Kind = Literal["foundation", "llm", "native", "classifier", "clip", "encoder.image", "encoder.audio"]
"""Setting of `model` that a checkpoint is named in."""
_ENCODERS: Mapping[Kind, tuple[str, ...]] = {
    "encoder.image": ("vit", "dino", "siglip_vision", "clip_vision", "convnext", "deit", "swin"),
    "encoder.audio": ("whisper", "wav2vec2", "audio-spectrogram-transformer", "clap", "hubert"),
}
"""Beginnings of the model types of encoders."""
_BYTES, _WORKING = 4, 1.6
"""Bytes of a frozen float32 weight, and the memory of training LoRA on it as a multiple of all weights; a rough guide."""
_PICTURES, _SOUNDS = ("google/siglip-base-patch16-224", 93), ("openai/whisper-tiny.en", 8)
"""Encoders beside a language model, with their parameters in millions."""


@dataclass(frozen=True)
class Model:
    """A model on the hub: the settings that name it, the modalities that it reads, and its parameters in millions."""

    settings: Mapping[str, Any]
    reads: frozenset[str]
    millions: int

    @property
    def gigabytes(self) -> float:
        """Memory in 10^9 bytes that training LoRA on it takes in float32, about; half of it in bfloat16."""
        return self.millions * _BYTES * _WORKING / 1000 + 0.5


def _assembled(llm: str, millions: int, reads: Collection[str]) -> Model:
    """A language model with the encoders for what it is to read."""
    encoders = {m: e for m, e in (("image", _PICTURES), ("audio", _SOUNDS)) if m in reads}
    settings: dict[str, Any] = {"llm": llm}
    if encoders:
        settings |= {"encoder": {m: name for m, (name, _) in encoders.items()}, "tokens": 8}
    if "audio" in reads:
        settings["audio_seconds"] = 10
    return Model(settings, frozenset(reads), millions + sum(size for _, size in encoders.values()))


_LLMS = (
    ("HuggingFaceTB/SmolLM2-135M-Instruct", 135),
    ("HuggingFaceTB/SmolLM2-360M-Instruct", 362),
    ("meta-llama/Llama-3.2-1B-Instruct", 1236),
    ("lmsys/vicuna-7b-v1.5", 6738),
)
_NATIVE = (
    ("HuggingFaceTB/SmolVLM-256M-Instruct", {"image", "video"}, 256),
    ("HuggingFaceTB/SmolVLM-500M-Instruct", {"image", "video"}, 508),
    ("Qwen/Qwen2.5-VL-3B-Instruct", {"image", "video"}, 3755),
    ("Qwen/Qwen2-Audio-7B-Instruct", {"audio"}, 8397),
)
_CLIPS = (
    ("openai/clip-vit-base-patch32", 151),
    ("openai/clip-vit-base-patch16", 150),
    ("openai/clip-vit-large-patch14", 428),
)


_HEADED = (
    ("image", "facebook/dinov2-small", 22),
    ("image", "facebook/dinov2-base", 87),
    ("image", "google/siglip-base-patch16-224", 93),
    ("audio", "openai/whisper-tiny", 8),
    ("audio", "facebook/wav2vec2-base", 94),
)
"""Encoders behind which a head is trained."""
_CLASSIFIERS = (
    ("distilbert/distilroberta-base", 82),
    ("FacebookAI/roberta-base", 125),
    ("FacebookAI/roberta-large", 355),
)
Use = Literal["answers", "labels", "classes"]
"""Answers in words, labels of a classifier, or pictures by class for CLIP."""


def suitable(modalities: Collection[str], use: Use) -> list[Model]:
    """Known models that read pictures, videos, sounds or text, by size; none for other modalities."""
    if use == "classes":
        listed = [Model({"clip": name}, frozenset({"image"}), size) for name, size in _CLIPS]
    elif use == "labels":
        listed = [
            Model({"encoder": {m: name}}, frozenset({m}), size) for m, name, size in _HEADED if modalities
        ]
        listed += [Model({"classifier": n}, frozenset(), size) for n, size in _CLASSIFIERS if not modalities]
    else:
        listed = [
            Model({"native": name}, frozenset(reads), size) for name, reads, size in _NATIVE if modalities
        ]
        listed += [
            _assembled(llm, size, modalities) for llm, size in _LLMS if set(modalities) <= {"image", "audio"}
        ]
    return sorted((m for m in listed if set(modalities) <= m.reads), key=lambda m: m.millions)


def kind_of(source: str) -> Kind:
    """The setting that takes a checkpoint, by its configuration. Raises ExperimentError for one that no setting takes."""
    if (Path(source) / "mllm.json").is_file():
        return "foundation"
    model_type, architectures = _described(source)
    name = " ".join(architectures)
    if model_type in TOWERS:
        return "clip"
    if encoder := next((kind for kind, types in _ENCODERS.items() if model_type.startswith(types)), None):
        return encoder
    if "SequenceClassification" in name or "MaskedLM" in name:
        return "classifier"
    if model_type in FAMILIES or "ConditionalGeneration" in name or "ImageTextToText" in name:
        return "native"
    if "CausalLM" in name or "LMHead" in name:
        return "llm"
    raise ExperimentError(
        f"--model: {source} is a {model_type} model ({name or 'no architecture is stated'}); there should be a causal or "
        "multimodal language model, an encoder of pictures or sounds, a CLIP, or a text classifier"
    )


def _described(source: str) -> tuple[str, list[str]]:
    """Model type and architectures in the config.json of a folder, or of a model on the hub."""
    if Path(source).is_dir():
        file = Path(source) / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ExperimentError(
                f"--model: {source} holds no config.json; there should be a checkpoint"
            ) from error
        except (ValueError, RecursionError) as error:
            raise ExperimentError(f"--model: {file} is no JSON object") from error
    else:
        from transformers import PretrainedConfig

        with loading("--model", source):
            config, _ = PretrainedConfig.get_config_dict(source)
    listed = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ExperimentError(f"--model: the config.json of {source} should state a model_type")
    return config["model_type"], [a for a in listed if isinstance(a, str)] if isinstance(listed, list) else []
