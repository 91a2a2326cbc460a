"""Raw samples into encoder inputs: image, video, depth, thermal, motion, text ids; sound is in `preprocess_audio`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fedloom.core.errors import ExperimentError
from fedloom.models.encoders.encoder import tower_of
from fedloom.models.image_processing import LONG, middle
from fedloom.models.imagebind.config import ModalityConfig
from fedloom.models.imagebind.preprocess_audio import audio_clips, clip_starts
from fedloom.models.plain_tokenizer import PlainTokenizer

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MIN_STD = 1e-3
"""Floor of the divisor when standardising (1/m, m/s^2, rad/s): below it there is only rounding, not signal."""
VIDEO_CLIPS, VIDEO_CLIP_SECONDS, VIDEO_CROPS = 5, 2.0, 3


@dataclass(frozen=True)
class ImageBindPreprocessing:
    """The preprocessing of some modalities; see `encoders.encoder.Preprocessing`."""

    parts: Mapping[str, ModalityConfig]

    @property
    def settings(self) -> str:
        """The modalities' configurations."""
        return repr([(name, part.model_dump_json()) for name, part in sorted(self.parts.items())])

    def preprocess(self, modality: str, raw: Tensor) -> Tensor:
        """One raw sample to the encoder's input, without the batch axis. Raises ExperimentError for another modality."""
        if (tower := tower_of(modality)) not in self.parts:
            raise ExperimentError(f"this encoder holds {list(self.parts)} and no '{tower}'")
        return prepare(modality, raw, self.parts[tower])

    def cuts(self, modality: str, raw: Tensor) -> bool:
        """False: clips are spread over the whole of a sound."""
        return False


def prepare(modality: str, raw: Tensor, config: ModalityConfig, frame_rate: float | None = None) -> Tensor:
    """One raw sample -> the encoder's input without the batch axis.

    Raises:
        ExperimentError: the sample's shape or type does not fit the modality.

    """
    shape = config.input_shape
    if modality == "image" and raw.dim() == 4:
        if frame_rate is None:
            raise ExperimentError("a video (T, 3, H, W) needs its frame_rate in frames per second")
        return video_clips(raw, frame_rate, shape[1:], config.kernel[0])
    if modality == "image":
        return image(raw, shape[1:])
    if modality == "video":
        return spread_frames(raw, shape[1:], config.kernel[0])
    if modality == "audio":
        return audio_clips(raw, shape[1], shape[2], config.mel)
    if modality == "depth":
        return depth(raw, shape[1:], config.depth_range)
    if modality == "thermal":
        return thermal(raw, shape[1:])
    if modality == "imu":
        return motion(raw, shape[0], shape[1])
    if modality == "text":
        return text_ids(raw, shape[0])
    raise ExperimentError(f"unknown modality '{modality}'")


def image(raw: Tensor, size: tuple[int, ...]) -> Tensor:
    """uint8 (C, H, W) with C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA -> float32 (3, *size), CLIP-normalised.

    Shorter side bicubic by Pillow, centre crop; alpha is dropped.

    Raises:
        ExperimentError: not bytes, or not 1 to 4 channels.

    """
    if raw.dtype != torch.uint8 or raw.dim() != 3 or raw.shape[0] not in (1, 2, 3, 4):
        raise ExperimentError(
            f"image is {raw.dtype} {tuple(raw.shape)} but must be uint8 (1 to 4 channels, H, W)"
        )
    raw = _usable(raw, size)
    colour = raw[:3] if raw.shape[0] >= 3 else raw[:1].expand(3, -1, -1)
    height, width = _covering(raw.shape[1], raw.shape[2], size)
    if (height, width) != raw.shape[1:]:
        # Pillow's own integer filter: the published model saw exactly these bytes
        picture = Image.fromarray(colour.permute(1, 2, 0).contiguous().cpu().numpy())
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        colour = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    return _clip_normalise(_centre(colour, size).float() / 255)


def video_clips(frames: Tensor, frame_rate: float, size: tuple[int, ...], per_clip: int = 2) -> Tensor:
    """uint8 (T, 3, H, W) -> float32 (5 clips x 3 crops, 3, per_clip, *size), clip-major.

    Five clips of 2 s; of each the first and last frame (index truncated); shorter side bilinear; crops
    left, centre, right of a wide picture, top, centre, bottom of a high one.

    Raises:
        ExperimentError: not bytes, not RGB, empty, or an impossible frame rate.

    """
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[1] != 3 or len(frames) == 0:
        raise ExperimentError(
            f"video is {frames.dtype} {tuple(frames.shape)} but must be uint8 (T >= 1, 3, H, W)"
        )
    if not frame_rate > 0:
        raise ExperimentError(f"video frame_rate {frame_rate} must be positive")
    pieces = []
    for start in clip_starts(len(frames) / frame_rate, VIDEO_CLIPS, VIDEO_CLIP_SECONDS):
        first = min(math.ceil(start * frame_rate), len(frames) - 1)
        stop = max(min(math.ceil((start + VIDEO_CLIP_SECONDS) * frame_rate), len(frames)), first + 1)
        at = torch.linspace(first, stop - 1, per_clip).long()
        clip = _shorter_side(frames[at].float() / 255, size, "bilinear", antialias=False)
        pieces += [_clip_normalise(c).transpose(0, 1) for c in _three_crops(clip, size)]
    return torch.stack(pieces)


def spread_frames(frames: Tensor, size: tuple[int, ...], per_clip: int = 2) -> Tensor:
    """uint8 (N, 3, H, W), frames evenly spread over a video -> float32 (clips, 3, per_clip, *size).

    Neighbours form a clip; the last frame fills the last clip. Every frame is read as a picture: a clip of two equal
    frames is that picture. This reading is ours: the published one needs the frame rate (`video_clips`).

    Raises:
        ExperimentError: not bytes, not RGB, or empty.

    """
    if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[1] != 3 or len(frames) == 0:
        raise ExperimentError(
            f"video is {frames.dtype} {tuple(frames.shape)} but must be uint8 (N >= 1, 3, H, W)"
        )
    pictures = [image(frame, size) for frame in frames]
    pictures += [pictures[-1]] * (-len(pictures) % per_clip)
    return torch.stack(pictures).reshape(-1, per_clip, 3, *size).transpose(1, 2).contiguous()


def thermal(raw: Tensor, size: tuple[int, ...]) -> Tensor:
    """float (1, H, W) in [0, 1] -> float32 (1, *size) in [0, 1]: shorter side bicubic, centre crop.

    Raises:
        ExperimentError: not float (1, H, W).

    """
    return _fit(_plane("thermal", raw), size).clamp(0, 1)


def depth(raw: Tensor, size: tuple[int, ...], sensor_range: tuple[float, float] = (0.1, 10.0)) -> Tensor:
    """Metres (1, H, W) -> float32 (1, *size): disparity 1 / depth, resized, zero mean, unit variance.

    Depth is clipped to the sensor's range; zero, negative and non-finite readings count as its far end. This
    reading is ours: the published model ships no depth loader.

    Raises:
        ExperimentError: not float (1, H, W).

    """
    near, far = sensor_range
    metres = _plane("depth", raw)
    metres = torch.where(metres.isfinite() & (metres > 0), metres, far).clamp(near, far)
    disparity = _fit(1 / metres, size)
    return (disparity - disparity.mean()) / disparity.std(correction=0).clamp_min(MIN_STD)


def motion(raw: Tensor, channels: int, samples: int) -> Tensor:
    """Motion trace (channels, T) -> float32 (channels, samples): linear resampling, then standardised.

    Each channel gets zero mean and unit variance; a constant channel becomes zero.

    Raises:
        ExperimentError: another number of channels, or no samples.

    """
    if raw.dim() != 2 or raw.shape[0] != channels or raw.shape[1] == 0:
        raise ExperimentError(
            f"imu has shape {tuple(raw.shape)} but must be ({channels}, T) with T at least 1"
        )
    trace = raw.double()
    if trace.shape[1] != samples:
        trace = functional.interpolate(trace[None], samples, mode="linear", align_corners=True)[0]
    centred = trace - trace.mean(1, keepdim=True)
    return (centred / centred.std(1, correction=0, keepdim=True).clamp_min(MIN_STD)).float()


def text_ids(ids: Tensor, context: int) -> Tensor:
    """Token ids (n,), the last one ending the text -> int64 (context,): cut before the end, padded with 0.

    Raises:
        ExperimentError: not integers, or none.

    """
    if ids.dim() != 1 or ids.numel() == 0 or ids.is_floating_point():
        raise ExperimentError(f"text is {ids.dtype} {tuple(ids.shape)} but must be integer token ids (n,)")
    ids = ids.long()
    if len(ids) > context:
        ids = torch.cat([ids[: context - 1], ids[-1:]])
    return functional.pad(ids, (0, context - len(ids)))


def tokenize(text: str, tokenizer: Any, context: int) -> Tensor:
    """Text -> int64 (context,): start, the text's ids, end, zeros, with a transformers CLIPTokenizer."""
    ids = PlainTokenizer(tokenizer)(text, add_special_tokens=False)["input_ids"]
    return text_ids(torch.tensor([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]), context)


def _plane(name: str, raw: Tensor) -> Tensor:
    if raw.dim() != 3 or raw.shape[0] != 1 or not raw.is_floating_point() or raw.numel() == 0:
        raise ExperimentError(f"{name} is {raw.dtype} {tuple(raw.shape)} but must be float (1, H, W)")
    return raw.float()


def _clip_normalise(pixels: Tensor) -> Tensor:
    mean, std = (pixels.new_tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def _fit(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize the shorter side (bicubic, antialiased) and cut the centre: (C, H, W) -> (C, *size)."""
    return _centre(_shorter_side(_usable(x, size)[None], size, "bicubic", antialias=True)[0], size)


def _usable(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """The middle of a very long picture (C, H, W): resizing all of it would take memory for what is cropped."""
    return middle(x, max(LONG, 2 * max(size) / min(size)))


def _centre(x: Tensor, size: tuple[int, ...]) -> Tensor:
    top, left = (round((have - want) / 2) for have, want in zip(x.shape[-2:], size, strict=True))
    return x[:, top : top + size[0], left : left + size[1]]


def _shorter_side(x: Tensor, size: tuple[int, ...], mode: str, antialias: bool) -> Tensor:
    """Scale (N, C, H, W) so that it just covers `size`."""
    target = _covering(x.shape[-2], x.shape[-1], size)
    if target == x.shape[-2:]:
        return x
    return functional.interpolate(x, target, mode=mode, align_corners=False, antialias=antialias)


def _covering(height: int, width: int, size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the smallest picture of the same proportions that covers `size`."""
    if size[0] * width >= size[1] * height:
        return size[0], size[0] * width // height
    return size[1] * height // width, size[1]


def _three_crops(x: Tensor, size: tuple[int, ...]) -> list[Tensor]:
    """Start, centre and end along the longer axis, centred along the other."""
    spare = [have - want for have, want in zip(x.shape[-2:], size, strict=True)]
    long = 0 if x.shape[-2] > x.shape[-1] else 1
    crops = []
    for share in range(VIDEO_CROPS):
        at = [math.ceil(s / 2) for s in spare]
        at[long] = (0, at[long], spare[long])[share]
        crops.append(x[..., at[0] : at[0] + size[0], at[1] : at[1] + size[1]])
    return crops
