"""One record of a client's data: raw modality inputs, a question and an answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

MODALITIES = ("image", "video", "audio", "text", "depth", "thermal", "imu")
"""All modalities, in the order of their soft tokens in a prompt."""

SAMPLE_RATE = 16_000
"""Samples per second of every waveform inside the project."""


@dataclass(frozen=True)
class Sample:
    """A question about modality inputs, and its answer. A missing modality is an absent key, never a tensor of zeros.

    `modalities` holds raw inputs: image uint8 (3, H, W); video uint8 (N, 3, H, W), frames evenly spread; audio float32 (T,),
    mono, 16 kHz, in [-1, 1]; depth float32 (1, H, W) in metres; thermal float32 (1, H, W) in [0, 1]; imu float32 (6, T),
    accelerometer (m/s^2) then gyroscope (rad/s), of an even rate. Text stands in `question`.
    """

    uid: str
    modalities: Mapping[str, Tensor]
    question: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The present modalities joined with "+", in the fixed order; "text" if there are none."""
        return "+".join(m for m in MODALITIES if m in self.modalities) or "text"
