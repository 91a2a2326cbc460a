"""Loading a frozen CLIP."""

from fedloom.data.pictures.class_names import Classes
from fedloom.models.clip.adapter import CLIPAdapter
from fedloom.models.clip.checkpoint import load_clip_checkpoint
from fedloom.models.clip.trainable import AdaptedCLIP
from fedloom.models.load import choose_device
from fedloom.models.precision import DTYPES, Precision
from fedloom.models.settings import Foundation


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
    towers, pixels = load_clip_checkpoint(settings.clip or "tiny-clip", choose_device(device))
    model = AdaptedCLIP(towers, pixels, classes, adapter, seed=seed)
    model.cast_frozen(DTYPES[precision])
    return model
