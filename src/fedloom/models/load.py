"""From the `model` part of an experiment to a model that clients can train."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from fedloom.core.errors import ExperimentError
from fedloom.data.sources.image_classes import Classes
from fedloom.models.classifier.checkpoint import load_checkpoint
from fedloom.models.classifier.trainable import AdaptedClassifier
from fedloom.models.clip.adapter import Attachment
from fedloom.models.clip.checkpoint import load_clip_checkpoint
from fedloom.models.clip.trainable import AdaptedCLIP
from fedloom.models.imagebind.imagebind import ImageBind
from fedloom.models.mllm.mllm import MLLM, new_projector
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

    `second` gives every layer a personal adapter besides. `precision` is that of the frozen weights and of the products; what is
    trained is in float32.
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
    """The model with the projector, the number of soft tokens and the prompt's frame that the settings ask for.

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
    """Put a finished run's projector in the model's place of it."""
    from safetensors.torch import load_file

    file = run / "model" / "projector.safetensors"
    if not file.is_file():
        raise ExperimentError(
            f"model.projector_from: {file} is missing; name the folder of a run that has ended"
        )
    found = {name.partition("/")[2]: tensor for name, tensor in load_file(file).items()}
    wanted = {name: tensor.shape for name, tensor in mllm.projector.state_dict().items()}
    if {name: tensor.shape for name, tensor in found.items()} != wanted:
        raise ExperimentError(
            f"model.projector_from: the projector of {run} has other layers than this model's; give both runs the same "
            "model.projector, model.encoder and model.llm"
        )
    mllm.projector.load_state_dict(found)


def load_classifier(
    settings: Foundation,
    labels: Sequence[str],
    device: str,
    seed: int,
    *,
    second: bool = False,
    precision: Precision = "float32",
) -> AdaptedClassifier:
    """A frozen text classifier with fresh adapters, its head for these labels in this order.

    `second` gives every layer a personal adapter besides; `precision` as in `load_model`. Raises ExperimentError.
    """
    name = settings.classifier or "tiny-roberta"
    shipped = Path(str(files("fedloom.models"))) / "shipped" / name
    model, tokenizer = load_checkpoint(shipped if (shipped / "config.json").is_file() else name, labels, seed)
    with torch.random.fork_rng(devices=[]):  # PEFT draws initial weights that are replaced at once
        adapted = AdaptedClassifier(
            model.to(choose_device(device)), tokenizer, settings.body_lora, labels, seed=seed, second=second
        )
    adapted.cast_frozen(DTYPES[precision])
    return adapted


def load_clip(
    settings: Foundation,
    classes: Classes,
    attachment: Attachment,
    device: str,
    seed: int,
    *,
    precision: Precision = "float32",
) -> AdaptedCLIP:
    """A frozen CLIP with what the method trains on it, for these classes. Raises ExperimentError."""
    towers, pixels = load_clip_checkpoint(settings.clip or "tiny-clip", choose_device(device))
    model = AdaptedCLIP(towers, pixels, classes, attachment, seed=seed)
    model.cast_frozen(DTYPES[precision])
    return model


def foundation_folder(name: str) -> Path:
    """Where a foundation lies: a shipped one by its name, or a folder. Raises ExperimentError."""
    shipped = Path(str(files("fedloom.models"))) / "shipped" / name
    for folder in (shipped, Path(name)):
        if (folder / "mllm.json").is_file():
            return folder
    raise ExperimentError(
        f"model.foundation: {name} is neither a shipped foundation (tiny-mllm) nor a folder with an mllm.json; "
        "`fedloom foundation build mllm --out FOLDER` makes one"
    )


def shipped() -> list[tuple[str, int, Path]]:
    """Name, bytes on disk and folder of every foundation in the package."""
    root = Path(str(files("fedloom.models"))) / "shipped"
    marks = ("mllm.json", "config.json", "model_index.json", "captions/config.json")
    folders = sorted(root / p.relative_to(root).parts[0] for name in marks for p in root.glob(f"*/{name}"))
    return [(f.name, sum(p.stat().st_size for p in f.rglob("*") if p.is_file()), f) for f in folders]


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one. Raises ExperimentError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ExperimentError(f"engine.device: {name} is not available here; use cpu, or auto") from error
    return device


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
    except (OSError, ValueError) as error:
        raise ExperimentError(
            f"model.llm: {settings.llm} cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    return MLLM.assemble(encoder, llm, tokenizer, seed=seed)
