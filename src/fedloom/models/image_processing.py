"""Image preprocessing of a checkpoint: the image processor of transformers that it names, on Pillow, without torchvision.

Two steps: resize and crop give uint8 pictures, which are cached and stacked; rescale and normalise run on the model's device.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.core.hf_logging import quiet_hf

LONG = 8
"""Longer over shorter side of a picture above which it is cut before it is resized."""


def middle(image: Tensor, aspect: float = LONG) -> Tensor:
    """The middle (C, H, W) of a picture, `aspect` times as long as wide if it was longer; its centre stays the centre."""
    height, width = image.shape[-2:]
    kept = math.ceil(min(height, width) * aspect)
    top, left = (max(side - kept, 0) // 2 for side in (height, width))
    return image[..., top : height - top, left : width - left]


class Pixels:
    """Two steps of an image processor of transformers; by default CLIP's with the sizes of the arguments."""

    def __init__(
        self,
        resize: tuple[int, int] | None,
        crop: tuple[int, int] | None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        processor: Any = None,
    ) -> None:
        """`resize` and `crop` are (height, width), or None for no such step; a `processor` brings its own settings."""
        sides = {"size": resize, "crop_size": crop}
        self._processor = processor or _clip_processor(
            do_resize=resize is not None,
            do_center_crop=crop is not None,
            image_mean=mean,
            image_std=std,
            **{k: {"height": v[0], "width": v[1]} for k, v in sides.items() if v is not None},
        )
        self._keeps: dict[tuple[int, int], bool] = {}
        rescale, normalise = self._processor.do_rescale, self._processor.do_normalize
        self.factor = float(self._processor.rescale_factor) if rescale else 1.0
        self.mean = tuple(map(float, self._processor.image_mean)) if normalise else (0.0,) * 3
        self.std = tuple(map(float, self._processor.image_std)) if normalise else (1.0,) * 3
        if rescale and getattr(self._processor, "rescale_offset", False):  # EfficientNet: to [-1, 1]
            self.mean = tuple(m + 1 for m in self.mean)
        self._twice = bool(getattr(self._processor, "include_top", False))
        if self._twice:  # EfficientNet divides by the deviation once more
            self.std = tuple(s * float(d) for s, d in zip(self.std, self._processor.image_std, strict=True))

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Pixels":
        """From the content of a CLIP's preprocessor_config.json; CLIP's defaults for missing keys."""
        return cls(None, None, processor=_clip_processor(**config))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pixels) and self._processor.to_dict() == other._processor.to_dict()

    __hash__ = None  # type: ignore[assignment]

    @property
    def settings(self) -> str:
        """All that decides the results, beside the picture."""
        return repr((type(self._processor).__name__, self._processor.to_json_string()))

    def sized(self, image: Tensor) -> Tensor:
        """uint8 (3, H, W) resized and cropped: uint8 (3, S, S). A picture that has its size already is not resized."""
        shape = (int(image.shape[-2]), int(image.shape[-1]))
        keeps = self._keeps.get(shape)
        if keeps:
            return image.contiguous()
        done = self._resized(image)
        if keeps is None:
            self._keeps[shape] = done.shape == image.shape and self._leaves(shape)
        return done

    def _leaves(self, shape: tuple[int, int]) -> bool:
        """Whether the processor leaves pictures of this shape as they are: one of noise shows every change."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(256, (3, *shape), generator=generator, dtype=torch.uint8)
        return torch.equal(self._resized(noise), noise)

    def _resized(self, image: Tensor) -> Tensor:
        """`sized` by the processor."""
        rows = (
            self._shortened(image).permute(1, 2, 0).contiguous()
        )  # as Pillow has them: one copy less on the way to it
        batch = self._processor(
            rows.numpy(),
            do_rescale=False,
            do_normalize=False,
            input_data_format="channels_last",
            return_tensors="pt",
            **({"include_top": False} if self._twice else {}),
        )
        pixels: Tensor = batch["pixel_values"][0]
        return pixels.contiguous()

    def _shortened(self, image: Tensor) -> Tensor:
        """The middle of a very long picture, of which resizing to the shorter side and cropping would use no more."""
        size = self._processor.size if self._processor.do_resize else None
        if not size or not size.get("shortest_edge") or not self._processor.do_center_crop:
            return image
        crop = self._processor.crop_size
        used = max(crop["height"], crop["width"]) / size["shortest_edge"]
        return middle(image, max(LONG, 2 * used))

    def normal(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) to float32 as the model reads it."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return (images.float() * self.factor - mean) / std


def _clip_processor(**settings: Any) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(**{k: v for k, v in settings.items() if v is not None})


def fixed_size(pixels: Pixels, source: str | Path, field: str) -> tuple[int, int]:
    """(height, width) of all pictures after `sized`. Raises ExperimentError where pictures keep shapes of their own."""
    probes = (torch.zeros(3, height, width, dtype=torch.uint8) for height, width in ((24, 24), (24, 36)))
    shapes = {(int(p.shape[1]), int(p.shape[2])) for p in map(pixels.sized, probes)}
    if len(shapes) > 1:
        raise ExperimentError(
            f"{field}: the processor of {source} gives pictures of several shapes; "
            "name a crop_size, or a size of height and width, in its preprocessor_config.json"
        )
    return shapes.pop()


def read_pixels(source: str | Path, field: str = "model.clip") -> Pixels:
    """The preprocessing of a checkpoint (folder or Hugging Face id).

    Raises ExperimentError, which names the experiment's `field`, for a missing or broken file, or one that is not for pictures.
    """
    from transformers import AutoImageProcessor

    try:
        with quiet_hf():
            processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        pixels = Pixels(None, None, processor=processor)
        probe = pixels.sized(torch.zeros(3, 8, 8, dtype=torch.uint8))
        if probe.dtype != torch.uint8 or probe.ndim != 3 or len(probe) != 3:
            raise ValueError(
                f"{type(processor).__name__} makes {probe.dtype} {tuple(probe.shape)} of a picture"
            )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise ExperimentError(
            f"{field}: {source} has no readable preprocessor_config.json: {reason(error)}"
        ) from error
    return pixels
