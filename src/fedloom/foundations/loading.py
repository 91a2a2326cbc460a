"""From the `model` part of an experiment to a model that clients can train."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from fedloom.errors import ExperimentError
from fedloom.foundations.adapted import AdaptedMLLM
from fedloom.foundations.classifier import AdaptedClassifier
from fedloom.foundations.classifier_io import load_checkpoint
from fedloom.foundations.config import Foundation
from fedloom.foundations.imagebind import ImageBind
from fedloom.foundations.mllm import MLLM
from fedloom.precision import DTYPES, Precision


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
        model = AdaptedMLLM(mllm, settings.llm_lora, settings.encoder_lora, seed=seed, second=second)
    model.cast_frozen(DTYPES[precision])
    return model


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
    shipped = Path(str(files("fedloom.foundations"))) / name
    model, tokenizer = load_checkpoint(shipped if (shipped / "config.json").is_file() else name, labels, seed)
    with torch.random.fork_rng(devices=[]):  # PEFT draws initial weights that are replaced at once
        adapted = AdaptedClassifier(
            model.to(choose_device(device)), tokenizer, settings.body_lora, labels, seed=seed, second=second
        )
    adapted.cast_frozen(DTYPES[precision])
    return adapted


def foundation_folder(name: str) -> Path:
    """Where a foundation lies: a shipped one by its name, or a folder. Raises ExperimentError."""
    shipped = Path(str(files("fedloom.foundations"))) / name
    for folder in (shipped, Path(name)):
        if (folder / "mllm.json").is_file():
            return folder
    raise ExperimentError(
        f"model.foundation: {name} is neither a shipped foundation (tiny-mllm) nor a folder with an mllm.json; "
        "`fedloom foundation build mllm --out FOLDER` makes one"
    )


def shipped() -> list[tuple[str, int, Path]]:
    """Name, bytes on disk and folder of every foundation in the package."""
    root = Path(str(files("fedloom.foundations")))
    folders = sorted(p.parent for name in ("mllm.json", "config.json") for p in root.glob(f"*/{name}"))
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
