"""Folders of a multimodal LLM: encoder/, llm/ (a Hugging Face model and its tokenizer), projector, mllm.json."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_logging import quiet_hf
from fedloom.models.mllm.config import MLLMConfig
from fedloom.models.mllm.projector import new_projector

M = TypeVar("M", bound=nn.Module)
CONFIG, PROJECTOR = "mllm.json", "projector.safetensors"


class MLLMParts(Protocol):
    """A multimodal LLM, as its folder holds it."""

    encoder: nn.Module
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
    encoder.save_pretrained(folder / "encoder")  # type: ignore[operator]
    state = None if dtype is None else _cast(model.llm, dtype)
    with quiet_hf():
        model.llm.save_pretrained(folder / "llm", state_dict=state)
    model.tokenizer.save_pretrained(folder / "llm")
    save_file(_cast(model.projector, dtype), folder / PROJECTOR)
    (folder / CONFIG).write_text(model.config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load(
    build: Callable[..., M],
    folder: Path,
    modalities: Sequence[str] | None,
    dtype: torch.dtype,
    device: str | torch.device | None,
) -> M:
    """The model in a folder that `save` wrote, in eval mode; `build` is its class. Reads no network and no pickle."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fedloom.models.imagebind.imagebind import ImageBind

    if not (folder / CONFIG).is_file():
        raise ExperimentError(
            f"{folder} is no multimodal LLM: it lacks {CONFIG}, which save_pretrained writes"
        )
    config = MLLMConfig.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
    encoder = ImageBind.from_pretrained(folder / "encoder", modalities)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet_hf():
        llm = AutoModelForCausalLM.from_pretrained(folder / "llm", dtype=dtype, use_safetensors=True, **local)
    tokenizer = AutoTokenizer.from_pretrained(folder / "llm", **local)
    projector = new_projector(encoder, llm.get_input_embeddings().embedding_dim, config)
    kept = projector.state_dict().keys()
    state = load_file(folder / PROJECTOR)
    if missing := sorted(kept - state.keys()):
        raise ExperimentError(f"{folder / PROJECTOR} lacks {', '.join(missing)}, which {CONFIG} asks for")
    projector.load_state_dict({name: state[name] for name in kept})
    model = build(encoder, projector, llm, tokenizer, config)
    return model.to(device=device, dtype=dtype).eval()


def _cast(module: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Contiguous state for the disk; floating tensors in `dtype`."""
    return {
        name: (t.to(dtype) if dtype is not None and t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in module.state_dict().items()
    }
