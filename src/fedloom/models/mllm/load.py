"""Loading a multimodal LLM: a shipped foundation, or an encoder and a causal LM put together."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import torch

from fedloom.core.errors import ExperimentError
from fedloom.models.encoders.encoder import Encoder
from fedloom.models.encoders.load import load_towers
from fedloom.models.encoders.towers import TowerEncoder
from fedloom.models.mllm.checkpoint import read_encoder, read_imagebind
from fedloom.models.mllm.config import MLLMConfig
from fedloom.models.mllm.llm import load_llm
from fedloom.models.mllm.mllm import MLLM
from fedloom.models.mllm.projector import new_projector
from fedloom.models.mllm.projector_file import take_projector
from fedloom.models.mllm.trainable import AdaptedMLLM
from fedloom.models.precision import Precision
from fedloom.models.settings import EncoderModality, Foundation
from fedloom.models.weights import DeviceMap, Weights

FRAMES = {"chat": "chat", "paper": "conversation", "bare": "bare"}
"""Frames of a prompt by the value of `model.prompt`."""


def load_model(
    settings: Foundation,
    modalities: Sequence[str],
    device: str,
    seed: int,
    *,
    second: bool = False,
    precision: Precision = "float32",
    device_map: DeviceMap | None = None,
) -> AdaptedMLLM:
    """The frozen foundation with fresh adapters, only the trunks of `modalities` loaded. Raises ExperimentError.

    `second` adds a personal adapter to every layer. `precision` is that of the frozen weights and of the products; trained
    tensors are float32. `device_map` spreads the LLM over several GPUs.
    """
    weights = Weights.of(settings, device, precision, device_map)
    notes = weights.notes
    # transformers and PEFT draw initial weights that are replaced at once
    with torch.random.fork_rng(devices=[]):
        if settings.llm is not None or settings.encoder is not None:
            mllm = _assemble(settings, modalities, seed, weights)
        else:
            mllm = MLLM.from_pretrained(foundation_folder(settings.foundation), modalities or None, weights)
        mllm = joined(mllm, settings, seed, assembled=settings.llm is not None)
        model = AdaptedMLLM(mllm, settings.llm_lora, settings.encoder_lora, seed=seed, second=second)
    drawn = settings.llm is not None or settings.projector != "own"
    if drawn and settings.projector_from is None:
        notes.append(
            "the projector starts from random weights; model.projector_from would name a trained one"
        )
    model.notes = notes + model.notes
    model.precision = mllm.llm.get_input_embeddings().weight.dtype  # type: ignore[operator]
    model.stackable = device_map is None
    return model


def joined(mllm: MLLM, settings: Foundation, seed: int, *, assembled: bool = False) -> MLLM:
    """The model with the projector, the number of soft tokens and the prompt of the settings.

    `assembled`: from an encoder and an LLM, so that it has no prompt of its own. Raises ExperimentError for a `projector_from` or
    a chat template that does not fit.
    """
    changes: dict[str, object] = {}
    if settings.tokens is not None:
        changes |= {"tokens": settings.tokens, "pool": "mean" if settings.tokens > 1 else mllm.config.pool}
    if settings.scale is not None:
        changes["scale"] = settings.scale
    if settings.max_text_tokens is not None:
        changes["max_text_tokens"] = settings.max_text_tokens
    prompt: dict[str, object] = {}
    if settings.prompt != "auto":
        prompt["frame"] = FRAMES[settings.prompt]
    elif assembled and mllm.tokenizer.chat_template:
        prompt["frame"] = "chat"
    if settings.stop is not None:
        prompt["stop"] = settings.stop
    changes["prompt"] = mllm.config.prompt.model_copy(update=prompt)
    if settings.projector != "own":
        changes["layers"] = settings.projector
    mllm.config = mllm.config.model_copy(update=changes)
    if mllm.config.prompt.frame == "chat":
        _ = mllm.chat  # a template that does not fit shows before anything is read
    if settings.projector != "own":
        width = mllm.llm.get_input_embeddings().embedding_dim  # type: ignore[operator]
        fresh = new_projector(mllm.encoder, width, mllm.config, seed)
        mllm.projector = fresh.to(device=mllm.device, dtype=next(mllm.projector.parameters()).dtype)
    if settings.projector_from is not None:
        take_projector(mllm.projector, settings.projector_from)
    return mllm


def foundation_folder(name: str) -> Path:
    """The folder of a foundation: a shipped one by its name, or the folder itself. Raises ExperimentError."""
    shipped = Path(str(files("fedloom.models"))) / "shipped" / name
    for folder in (shipped, Path(name)):
        if (folder / "mllm.json").is_file():
            return folder
    raise ExperimentError(
        f"model.foundation: {name} is neither a shipped foundation (tiny-mllm) nor a folder with an mllm.json; "
        "`fedloom foundation build mllm --out FOLDER` makes one"
    )


def _assemble(settings: Foundation, modalities: Sequence[str], seed: int, weights: Weights) -> MLLM:
    """An MLLM from an encoder and a Hugging Face causal LM, with a new projector."""
    if settings.llm is None or settings.encoder is None:
        raise ExperimentError(
            "model.llm and model.encoder go together: name both, or neither and a model.foundation"
        )
    config = MLLMConfig()
    encoder = load_encoder(settings, modalities, weights)
    if isinstance(encoder, TowerEncoder):
        config = config.model_copy(update={"pool": "mean", "projector": "per_modality"})
        weights.notes += [f"the {m} encoder reads {text}" for m, text in encoder.described().items()]
    llm, tokenizer = load_llm(settings.llm, weights)
    if settings.stop is not None:  # before the tokenizer's end-of-text token is asked for
        config = config.model_copy(
            update={"prompt": config.prompt.model_copy(update={"stop": settings.stop})}
        )
    mllm = MLLM.assemble(encoder, llm, tokenizer, config, seed=seed)
    mllm.projector.to(llm.get_input_embeddings().weight.device)
    return mllm


def load_encoder(settings: Foundation, modalities: Sequence[str], weights: Weights) -> Encoder:
    """The encoder that the settings name, else the one of the foundation; only the towers of these modalities.

    Raises ExperimentError.
    """
    if settings.encoder is None:
        folder = foundation_folder(settings.foundation) / "encoder"
        return read_encoder(folder, weights, modalities or None)
    if not isinstance(settings.encoder, str):
        return _towers(settings.encoder, settings.audio_seconds, modalities, weights)
    if settings.audio_seconds is not None:
        raise ExperimentError(
            "model.audio_seconds is for model.encoder.audio, and model.encoder is an ImageBind; leave it out"
        )
    return read_imagebind(Path(settings.encoder), weights, modalities or None)


def _towers(
    sources: Mapping[EncoderModality, str],
    seconds: float | None,
    modalities: Sequence[str],
    weights: Weights,
) -> TowerEncoder:
    """The towers of these modalities. Raises ExperimentError for a modality without one."""
    if missing := [m for m in modalities if m not in sources]:
        raise ExperimentError(
            f"clients hold {missing[0]}, and model.encoder names encoders of {', '.join(sources) or 'nothing'} only"
        )
    if seconds is not None and "audio" not in sources:
        raise ExperimentError("model.audio_seconds is for model.encoder.audio, which is missing")
    return load_towers({str(m): s for m, s in sources.items()}, seconds, modalities or None, weights)
