"""The preprocessing of a picture for CLIP, in any process."""

from dataclasses import dataclass

from torch import Tensor

from fedloom.data.sample import Sample
from fedloom.models.image_processing import Pixels


@dataclass(frozen=True)
class PictureReading:
    """Resizes and crops a sample's picture; see `loading.reading.Reading`."""

    pixels: Pixels
    reads_texts: bool = False

    @property
    def settings(self) -> str:
        """The image processor."""
        return self.pixels.settings

    def __call__(self, sample: Sample) -> dict[str, Tensor]:
        """`image` uint8 (3, S, S); nothing for a sample without a picture."""
        pictures = sample.modalities
        return {"image": self.pixels.sized(pictures["image"])} if "image" in pictures else {}
