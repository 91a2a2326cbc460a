"""Sizes of an ImageBind encoder: one description for the published model, the tiny one and others."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedloom.data.sample import SAMPLE_RATE

OFFICIAL_KEYS = {
    "image": "vision",
    "text": "text",
    "audio": "audio",
    "depth": "depth",
    "thermal": "thermal",
    "imu": "imu",
}
"""Our modality names and the names that the published checkpoint gives to them."""


class MelConfig(BaseModel):
    """Log-mel clips of a waveform; the defaults are the published ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample_rate: int = Field(default=SAMPLE_RATE, description="samples per second of the waveform")
    clips: int = Field(default=3, ge=1, description="clips per sound, evenly spread over its length")
    clip_seconds: float = Field(default=2.0, gt=0, description="length of a clip in seconds")
    frame: int = Field(default=400, ge=2, description="samples per analysis frame")
    hop: int = Field(default=160, ge=1, description="samples between two frames")
    low_hz: float = Field(default=20.0, ge=0, description="lower edge of the lowest mel band in Hz")
    mean: float = Field(default=-4.268, description="mean that normalising subtracts from log-mel values")
    std: float = Field(default=9.138, gt=0, description="standard deviation that normalising divides by")


class ModalityConfig(BaseModel):
    """Stem, trunk, head and scale of one modality.

    `input_shape` is one sample without batch and clip axes: image (3, H, W), audio (1, bins, frames), depth
    and thermal (1, H, W), text (context,), imu (channels, samples).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    embed_dim: int = Field(ge=1, description="width d of the trunk")
    depth: int = Field(ge=1, description="number of blocks")
    heads: int = Field(ge=1, description="attention heads")
    input_shape: tuple[int, ...] = Field(description="shape of one input")
    kernel: tuple[int, ...] = Field(
        default=(), description="patch size: (height, width) or (frames, height, width)"
    )
    stride: tuple[int, ...] = Field(default=(), description="patch step; empty: equal to the kernel")
    bias_kv: bool = Field(default=False, description="append one learned key and value to every attention")
    pre_norm: bool = Field(default=False, description="LayerNorm before the trunk instead of one in the stem")
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="published DropPath rate of the last block")
    head_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="published dropout before the head's projection"
    )
    scale: float = Field(default=1.0, gt=0, description="published length of the output vector")
    scale_learnable: bool = Field(
        default=False, description="whether the scale is a parameter (text) or a constant"
    )
    vocab: int | None = Field(
        default=None, ge=1, description="text: number of tokens; the largest id ends a text"
    )
    window: int | None = Field(default=None, ge=1, description="imu: samples per token")
    mel: MelConfig | None = Field(default=None, description="audio: how a waveform becomes the input")
    depth_range: tuple[float, float] = Field(default=(0.1, 10.0), description="depth: sensor range in metres")

    @model_validator(mode="after")
    def _consistent(self) -> "ModalityConfig":
        if self.embed_dim % self.heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of heads {self.heads}")
        if self.stem == "window" and self.input_shape[-1] % (self.window or 1):
            raise ValueError(f"input length {self.input_shape[-1]} is not a multiple of window {self.window}")
        if self.stem in ("patch", "frames") and (min(self.grid) < 1 or len(self.input_shape) != 3):
            raise ValueError(f"input_shape {self.input_shape} has no room for a patch of {self.kernel}")
        return self

    @property
    def stem(self) -> Literal["tokens", "window", "frames", "patch"]:
        """Tokeniser of the input: look-up, unfolded windows, convolution over two or three axes."""
        if self.vocab is not None:
            return "tokens"
        if self.window is not None:
            return "window"
        return "frames" if len(self.kernel) == 3 else "patch"

    @property
    def step(self) -> tuple[int, ...]:
        """The stride of the patch convolution."""
        return self.stride or self.kernel

    @property
    def grid(self) -> tuple[int, ...]:
        """Patches along height and width."""
        sizes = zip(self.input_shape[-2:], self.kernel[-2:], self.step[-2:], strict=True)
        return tuple((size - kernel) // step + 1 for size, kernel, step in sizes)

    @property
    def tokens(self) -> int:
        """Tokens of one input without CLS."""
        if self.stem == "tokens":
            return self.input_shape[0]
        if self.window is not None:
            return self.input_shape[-1] // self.window
        return math.prod(self.grid)


class ImageBindConfig(BaseModel):
    """An encoder of several modalities into one space of `out_dim` dimensions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out_dim: int = Field(ge=1, description="dimensions of the shared space")
    modalities: dict[str, ModalityConfig] = Field(description="one entry per modality")
    drop_path: bool = Field(default=False, description="train with the published DropPath and head dropout")
    licence: str | None = Field(
        default=None, description="licence of the weights, shown when they are loaded"
    )

    @model_validator(mode="after")
    def _known(self) -> "ImageBindConfig":
        if unknown := set(self.modalities) - set(OFFICIAL_KEYS):
            raise ValueError(f"unknown modalities {sorted(unknown)}; known are {list(OFFICIAL_KEYS)}")
        return self

    @classmethod
    def huge(cls) -> "ImageBindConfig":
        """ImageBind-huge as published: 1,200,781,057 parameters."""
        patch = (16, 16)
        return cls(
            out_dim=1024,
            modalities={
                "image": ModalityConfig(
                    embed_dim=1280,
                    depth=32,
                    heads=16,
                    input_shape=(3, 224, 224),
                    kernel=(2, 14, 14),
                    pre_norm=True,
                ),
                "text": ModalityConfig(
                    embed_dim=1024,
                    depth=24,
                    heads=16,
                    input_shape=(77,),
                    vocab=49408,
                    scale=1 / 0.07,
                    scale_learnable=True,
                ),
                "audio": ModalityConfig(
                    embed_dim=768,
                    depth=12,
                    heads=12,
                    input_shape=(1, 128, 204),
                    kernel=patch,
                    stride=(10, 10),
                    bias_kv=True,
                    drop_path=0.1,
                    scale=20.0,
                    mel=MelConfig(),
                ),
                "depth": ModalityConfig(
                    embed_dim=384,
                    depth=12,
                    heads=8,
                    input_shape=(1, 224, 224),
                    kernel=patch,
                    bias_kv=True,
                    scale=5.0,
                ),
                "thermal": ModalityConfig(
                    embed_dim=768,
                    depth=12,
                    heads=12,
                    input_shape=(1, 224, 224),
                    kernel=patch,
                    bias_kv=True,
                    scale=10.0,
                ),
                "imu": ModalityConfig(
                    embed_dim=512,
                    depth=6,
                    heads=8,
                    input_shape=(6, 2000),
                    window=8,
                    bias_kv=True,
                    drop_path=0.7,
                    head_dropout=0.5,
                    scale=5.0,
                ),
            },
        )

    @classmethod
    def tiny(cls) -> "ImageBindConfig":
        """The same encoder for the Tabletop world: 48 x 48 pixels, 2.5 s of sound in one clip."""
        mel = MelConfig(clips=1, clip_seconds=2.5, hop=320)
        return cls(
            out_dim=128,
            modalities={
                "image": ModalityConfig(
                    embed_dim=96, depth=3, heads=4, input_shape=(3, 48, 48), kernel=(2, 8, 8), pre_norm=True
                ),
                "text": ModalityConfig(
                    embed_dim=64,
                    depth=2,
                    heads=4,
                    input_shape=(48,),
                    vocab=1024,
                    scale=1 / 0.07,
                    scale_learnable=True,
                ),
                "audio": ModalityConfig(
                    embed_dim=96,
                    depth=3,
                    heads=4,
                    input_shape=(1, 64, 128),
                    kernel=(16, 16),
                    stride=(10, 10),
                    bias_kv=True,
                    drop_path=0.1,
                    scale=20.0,
                    mel=mel,
                ),
                "depth": ModalityConfig(
                    embed_dim=32,
                    depth=2,
                    heads=4,
                    input_shape=(1, 48, 48),
                    kernel=(8, 8),
                    bias_kv=True,
                    scale=5.0,
                ),
                "thermal": ModalityConfig(
                    embed_dim=32,
                    depth=2,
                    heads=4,
                    input_shape=(1, 48, 48),
                    kernel=(8, 8),
                    bias_kv=True,
                    scale=10.0,
                ),
                "imu": ModalityConfig(
                    embed_dim=32,
                    depth=2,
                    heads=4,
                    input_shape=(6, 200),
                    window=8,
                    bias_kv=True,
                    drop_path=0.7,
                    head_dropout=0.5,
                    scale=5.0,
                ),
            },
        )
