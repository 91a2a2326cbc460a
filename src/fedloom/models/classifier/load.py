"""Loading a frozen text classifier."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from fedloom.models.classifier.checkpoint import load_checkpoint
from fedloom.models.classifier.trainable import AdaptedClassifier
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
