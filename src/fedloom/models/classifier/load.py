"""Loading a frozen classifier of texts, pictures or sounds."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from fedloom.models.classifier.checkpoint import load_checkpoint
from fedloom.models.classifier.media import MediaClassifier
from fedloom.models.classifier.trainable import AdaptedClassifier
from fedloom.models.encoders.towers import TowerEncoder
from fedloom.models.mllm.load import load_encoder
from fedloom.models.precision import Precision
from fedloom.models.settings import Foundation
from fedloom.models.weights import DeviceMap, Weights


def load_classifier(
    settings: Foundation,
    labels: Sequence[str],
    device: str,
    seed: int,
    *,
    second: bool = False,
    precision: Precision = "float32",
    device_map: DeviceMap | None = None,
) -> AdaptedClassifier:
    """A frozen text classifier with fresh adapters, its head for these labels in this order.

    `second` adds a personal adapter to every layer; `precision` and `device_map` as in `load_model`. Raises ExperimentError.
    """
    weights = Weights.of(settings, device, precision, device_map)
    model, tokenizer = load_checkpoint(classifier_source(settings), labels, seed, weights)
    with torch.random.fork_rng(devices=[]):  # PEFT draws initial weights that are replaced at once
        adapted = AdaptedClassifier(model, tokenizer, settings.body_lora, labels, seed=seed, second=second)
    adapted.notes = weights.notes + adapted.notes
    adapted.precision = model.dtype
    adapted.stackable = device_map is None
    return adapted


def classifier_source(settings: Foundation) -> Path | str:
    """The folder or Hugging Face id of the classifier; a shipped one by its name."""
    name = settings.classifier or "tiny-roberta"
    shipped = Path(str(files("fedloom.models"))) / "shipped" / name
    return shipped if (shipped / "config.json").is_file() else name


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
    weights = Weights.of(settings, device, precision)
    with torch.random.fork_rng(
        devices=[]
    ):  # PEFT and the head draw initial weights that are replaced at once
        encoder = load_encoder(settings, [modality], weights)
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
    adapted.notes = weights.notes + adapted.notes
    adapted.precision = next(encoder.parameters()).dtype
    return adapted
