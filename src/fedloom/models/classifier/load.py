"""Loading a frozen classifier of texts, pictures or sounds."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from fedloom.models.classifier.checkpoint import load_checkpoint
from fedloom.models.classifier.media import MediaClassifier
from fedloom.models.classifier.trainable import AdaptedClassifier
from fedloom.models.encoders.towers import TowerEncoder
from fedloom.models.load import choose_device
from fedloom.models.mllm.load import load_encoder
from fedloom.models.precision import DTYPES, Precision
from fedloom.models.settings import Foundation


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

    `second` adds a personal adapter to every layer; `precision` as in `load_model`. Raises ExperimentError.
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


def load_media_classifier(
    settings: Foundation,
    modality: str,
    labels: Sequence[str],
    device: str,
    seed: int,
    *,
    second: bool = False,
    precision: Precision = "float32",
) -> MediaClassifier:
    """A frozen encoder of pictures or sounds with fresh adapters and a fresh head for these labels in this order.

    `second` and `precision` as in `load_classifier`. Raises ExperimentError.
    """
    with torch.random.fork_rng(
        devices=[]
    ):  # PEFT and the head draw initial weights that are replaced at once
        encoder = load_encoder(settings, [modality]).to(choose_device(device))
        adapted = MediaClassifier(
            encoder,
            modality,
            settings.body_lora,
            labels,
            seed=seed,
            second=second,
            shipped=settings.encoder is None,
        )
    if isinstance(encoder, TowerEncoder):
        adapted.notes += [f"the {m} encoder reads {text}" for m, text in encoder.described().items()]
    adapted.cast_frozen(DTYPES[precision])
    return adapted
