"""Loading a frozen CLIP."""

from fedloom.data.pictures.class_names import Classes
from fedloom.models.clip.adapter import CLIPAdapter
from fedloom.models.clip.checkpoint import load_clip_checkpoint
from fedloom.models.clip.trainable import AdaptedCLIP
from fedloom.models.precision import Precision
from fedloom.models.settings import Foundation
from fedloom.models.weights import Weights


def load_clip(
    settings: Foundation,
    classes: Classes,
    adapter: CLIPAdapter,
    device: str,
    seed: int,
    *,
    precision: Precision = "float32",
) -> AdaptedCLIP:
    """A frozen CLIP with the method's adapter, for these classes. Raises ExperimentError."""
    weights = Weights.of(settings, device, precision)
    towers, pixels = load_clip_checkpoint(settings.clip or "tiny-clip", weights)
    model = AdaptedCLIP(towers, pixels, classes, adapter, seed=seed)
    model.notes = weights.notes + model.notes
    model.precision = towers.clip.dtype
    return model
