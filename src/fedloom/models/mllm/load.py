"""Loading a multimodal LLM: a shipped foundation, or an encoder and a causal LM put together."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError

from fedloom.core.errors import ExperimentError
from fedloom.models.imagebind.imagebind import ImageBind
from fedloom.models.load import choose_device
from fedloom.models.mllm.mllm import MLLM
from fedloom.models.mllm.projector import new_projector
from fedloom.models.mllm.trainable import AdaptedMLLM
from fedloom.models.precision import DTYPES, Precision
from fedloom.models.settings import Foundation


def load_model(
    settings: Foundation,
    modalities: Sequence[str],
    device: str,
    seed: int,
    *,
    second: bool = False,
    precision: Precision = "float32",
) -> AdaptedMLLM:
    """The frozen foundation with fresh adapters, only the trunks of `modalities` loaded. Raises ExperimentError.

    `second` adds a personal adapter to every layer. `precision` is that of the frozen weights and of the products; trained
    tensors are float32.
    """
    where = choose_device(device)
    with torch.random.fork_rng(
        devices=[]
    ):  # transformers and PEFT draw initial weights that are replaced at once
        if settings.llm is not None or settings.encoder is not None:
            mllm = _assemble(settings, modalities, seed).to(where)
        else:
            mllm = MLLM.from_pretrained(
                foundation_folder(settings.foundation), modalities=modalities or None, device=where
            )
        mllm = joined(mllm, settings, seed)
        model = AdaptedMLLM(mllm, settings.llm_lora, settings.encoder_lora, seed=seed, second=second)
    model.cast_frozen(DTYPES[precision])
    return model


def joined(mllm: MLLM, settings: Foundation, seed: int) -> MLLM:
    """The model with the projector, the number of soft tokens and the prompt frame of the settings.

    Raises ExperimentError for a `projector_from` that does not fit.
    """
    changes: dict[str, object] = {}
    if settings.tokens is not None:
        changes |= {"tokens": settings.tokens, "pool": "mean" if settings.tokens > 1 else mllm.config.pool}
    if settings.frame is not None:
        changes["prompt"] = mllm.config.prompt.model_copy(update={"frame": settings.frame})
    if settings.projector != "own":
        changes["layers"] = settings.projector
    mllm.config = mllm.config.model_copy(update=changes)
    if settings.projector != "own":
        width = mllm.llm.get_input_embeddings().embedding_dim  # type: ignore[operator]
        fresh = new_projector(mllm.encoder, width, mllm.config, seed)
        mllm.projector = fresh.to(device=mllm.device, dtype=next(mllm.projector.parameters()).dtype)
    if settings.projector_from is not None:
        _take_projector(mllm, settings.projector_from)
    return mllm


def _take_projector(mllm: MLLM, run: Path) -> None:
    """Replace the projector's weights by those of a finished run."""
    from safetensors.torch import load_file

    file = run / "model" / "projector.safetensors"
    if not file.is_file():
        raise ExperimentError(
            f"model.projector_from: {file} is missing; name the folder of a run that has ended"
        )
    tensors = {name.partition("/")[2]: tensor for name, tensor in load_file(file).items()}
    shapes = {name: tensor.shape for name, tensor in mllm.projector.state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise ExperimentError(
            f"model.projector_from: the projector of {run} has other layers than this model's; give both runs the same "
            "model.projector, model.encoder and model.llm"
        )
    mllm.projector.load_state_dict(tensors)


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


def _assemble(settings: Foundation, modalities: Sequence[str], seed: int) -> MLLM:
    """An MLLM from an encoder folder and a Hugging Face causal LM, with a new projector."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if settings.llm is None or settings.encoder is None:
        raise ExperimentError(
            "model.llm and model.encoder go together: name both, or neither and a model.foundation"
        )
    encoder = ImageBind.from_pretrained(Path(settings.encoder), modalities=modalities or None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.llm, trust_remote_code=False)
        llm = AutoModelForCausalLM.from_pretrained(
            settings.llm, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, SafetensorError, ValueError) as error:
        raise ExperimentError(
            f"model.llm: {settings.llm} cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    return MLLM.assemble(encoder, llm, tokenizer, seed=seed)
