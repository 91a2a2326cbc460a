"""Pictures as a CLIP checkpoint wants them, by the numbers in its own preprocessor_config.json; without torchvision.

Order as in transformers' processor: resize (Pillow, bicubic in CLIP), centre crop, 1/255, mean and deviation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedloom.core.errors import ExperimentError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own, for a checkpoint that does not name them."""


@dataclass(frozen=True)
class Pixels:
    """`resize`: length of the short side, or (height, width), or None; `crop`: (height, width) or None."""

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int = int(Image.Resampling.BICUBIC)
    factor: float = 1 / 255
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Pixels":
        """From the content of a preprocessor_config.json."""

        def sides(value: Any) -> tuple[int, int] | None:
            if isinstance(value, int):
                return value, value
            return (value["height"], value["width"]) if value and "height" in value else None

        size = config.get("size", 224)
        resize = size if isinstance(size, int) else size.get("shortest_edge") or sides(size)
        plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        given = {"mean": config.get("image_mean") or MEAN, "std": config.get("image_std") or STD}
        chosen = given if config.get("do_normalize", True) else plain
        return cls(
            resize if config.get("do_resize", True) else None,
            sides(config.get("crop_size", 224)) if config.get("do_center_crop", True) else None,
            int(config.get("resample", Image.Resampling.BICUBIC)),
            float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
            tuple(map(float, chosen["mean"])),
            tuple(map(float, chosen["std"])),
        )

    def sized(self, image: Tensor) -> Tensor:
        """uint8 (3, H, W) resized and cropped: uint8 (3, S, S)."""
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        width, height = picture.size
        if isinstance(self.resize, int):
            short = min(width, height)
            wanted = int(self.resize * width / short), int(self.resize * height / short)
        else:
            wanted = (width, height) if self.resize is None else (self.resize[1], self.resize[0])
        if wanted != picture.size:
            picture = picture.resize(wanted, Image.Resampling(self.resample))
        if self.crop is not None:
            tall, wide = self.crop
            top, left = (picture.size[1] - tall) // 2, (picture.size[0] - wide) // 2
            picture = picture.crop((left, top, left + wide, top + tall))  # beyond the border: black
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()

    def normal(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) to float32 as the model reads it."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return (images.float() * self.factor - mean) / std


def read_pixels(source: str | Path) -> Pixels:
    """The preprocessing of a checkpoint (folder or Hugging Face id). Raises ExperimentError where it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        config, _ = ImageProcessingMixin.get_image_processor_dict(str(source))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExperimentError(
            f"model.clip: {source} has no readable preprocessor_config.json: {reason}"
        ) from error
    return Pixels.of(config)
