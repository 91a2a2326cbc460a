"""Loading a frozen text classifier."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from fedloom.models.classifier.checkpoint import load_checkpoint
from fedloom.models.classifier.trainable import AdaptedClassifier
from fedloom.models.load import choose_device
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
    model, tokenizer = load_checkpoint(classifier_source(settings), labels, seed)
    with torch.random.fork_rng(devices=[]):  # PEFT draws initial weights that are replaced at once
        adapted = AdaptedClassifier(
            model.to(choose_device(device)), tokenizer, settings.body_lora, labels, seed=seed, second=second
        )
    adapted.cast_frozen(DTYPES[precision])
    return adapted


def classifier_source(settings: Foundation) -> Path | str:
    """The folder or Hugging Face id of the classifier; a shipped one by its name."""
    name = settings.classifier or "tiny-roberta"
    shipped = Path(str(files("fedloom.models"))) / "shipped" / name
    return shipped if (shipped / "config.json").is_file() else name
