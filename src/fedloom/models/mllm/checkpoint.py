"""Folders of a multimodal LLM: encoder/, llm/ (a Hugging Face model and its tokenizer), projector, mllm.json."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import loading
from fedloom.core.hf_logging import quiet_hf
from fedloom.core.validation import validated
from fedloom.models.encoders.encoder import Encoder
from fedloom.models.merged import SHARD
from fedloom.models.mllm.config import MLLMConfig
from fedloom.models.mllm.projector import new_projector
from fedloom.models.weights import Weights, check_complete

M = TypeVar("M", bound=nn.Module)
CONFIG, PROJECTOR = "mllm.json", "projector.safetensors"


class MLLMParts(Protocol):
    """A multimodal LLM, as its folder holds it."""

    encoder: Encoder
    projector: nn.Module
    llm: nn.Module
    tokenizer: Any
    config: MLLMConfig


def save(model: MLLMParts, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write `model`; `dtype` sets only the stored precision. Raises while the LLM is wrapped by adapters."""
    from transformers import PreTrainedModel

    if not isinstance(model.llm, PreTrainedModel):
        raise ExperimentError(
            f"the language model is a {type(model.llm).__name__}, not a plain transformers model; "
            "merge its adapters (merge_and_unload) before save_pretrained"
        )
    folder.mkdir(parents=True, exist_ok=True)
    encoder = model.encoder if dtype is None else copy.deepcopy(model.encoder).to(dtype)
    encoder.save_pretrained(folder / "encoder")
    state = None if dtype is None else _cast(model.llm, dtype)
    with quiet_hf():
        model.llm.save_pretrained(folder / "llm", state_dict=state, max_shard_size=SHARD)
    model.tokenizer.save_pretrained(folder / "llm")
    save_file(_cast(model.projector, dtype), folder / PROJECTOR)
    (folder / CONFIG).write_text(model.config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load(
    build: Callable[..., M],
    folder: Path,
    modalities: Sequence[str] | None,
    weights: Weights,
) -> M:
    """The model in a folder that `save` wrote, in eval mode, its projector in float32; `build` is its class.

    Reads no network and no pickle.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / CONFIG).is_file():
        raise ExperimentError(
            f"{folder} is no multimodal LLM: it lacks {CONFIG}, which save_pretrained writes"
        )
    config = validated(MLLMConfig, _fields(folder / CONFIG), str(folder / CONFIG))
    encoder = read_encoder(folder / "encoder", weights, modalities)
    local: dict[str, Any] = {"local_files_only": True}
    with loading("model.foundation", folder / "llm"), quiet_hf():
        llm, report = weights.read(
            AutoModelForCausalLM, folder / "llm", "the foundation's LLM", llm=True, **local
        )
        check_complete(report, "model.foundation", folder / "llm")
        tokenizer = AutoTokenizer.from_pretrained(folder / "llm", trust_remote_code=False, **local)
    projector = new_projector(encoder, llm.get_input_embeddings().embedding_dim, config)
    kept = projector.state_dict().keys()
    state = load_file(folder / PROJECTOR)
    if missing := sorted(kept - state.keys()):
        raise ExperimentError(f"{folder / PROJECTOR} lacks {', '.join(missing)}, which {CONFIG} asks for")
    projector.load_state_dict({name: state[name] for name in kept})
    projector.to(llm.get_input_embeddings().weight.device)
    return build(encoder, projector, llm, tokenizer, config).eval()


def read_encoder(folder: Path, weights: Weights, modalities: Sequence[str] | None = None) -> Encoder:
    """The encoder in a folder: an ImageBind, or towers that `TowerEncoder.save_pretrained` wrote. Raises ExperimentError."""
    from fedloom.models.encoders.load import is_saved, load_saved

    if is_saved(folder):
        return load_saved(folder, modalities, weights)
    return read_imagebind(folder, weights, modalities)


def read_imagebind(folder: Path, weights: Weights, modalities: Sequence[str] | None = None) -> Encoder:
    """The ImageBind in a folder. Raises ExperimentError."""
    from fedloom.models.imagebind.imagebind import ImageBind

    encoder = ImageBind.from_pretrained(folder, modalities)
    weights.take(encoder, "the ImageBind encoder")
    return encoder


def _fields(path: Path) -> dict[str, Any]:
    """The content of a JSON file. Raises ExperimentError."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExperimentError(f"{path} is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ExperimentError(f"{path} should hold a mapping")
    return fields


def _cast(module: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Contiguous state for the disk; floating tensors in `dtype`."""
    return {
        name: (t.to(dtype) if dtype is not None and t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in module.state_dict().items()
    }
