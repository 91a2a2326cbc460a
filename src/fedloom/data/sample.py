"""One record of a client's data: raw modality inputs, and a question and an answer, or a conversation of several turns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

MODALITIES = ("image", "video", "audio", "text", "depth", "thermal", "imu")
"""All modalities, in the order of their soft tokens in a prompt."""

SAMPLE_RATE = 16_000
"""Samples per second of every waveform inside the project."""

Role = Literal["system", "user", "assistant"]
"""The speaker of a turn."""


@dataclass(frozen=True)
class Medium:
    """The place of a picture, sound or the like in a turn: its modality, and its key in `Sample.modalities`."""

    modality: str
    key: str


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation: texts and media in the order in which they are read. Only a user's turn holds media."""

    role: Role
    parts: tuple[str | Medium, ...]

    @property
    def text(self) -> str:
        """The turn's texts, media left out."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def media(self) -> tuple[Medium, ...]:
        """The turn's media."""
        return tuple(part for part in self.parts if isinstance(part, Medium))


@dataclass(frozen=True)
class Sample:
    """A question about modality inputs, and its answer. A missing modality is an absent key, never a tensor of zeros.

    `modalities` holds raw inputs: image uint8 (3, H, W); video uint8 (N, 3, H, W), frames evenly spread; audio float32 (T,),
    mono, 16 kHz, in [-1, 1]; depth float32 (1, H, W) in metres; thermal float32 (1, H, W) in [0, 1]; imu float32 (6, T),
    accelerometer (m/s^2) then gyroscope (rad/s), of an even rate. Text stands in `question`. Its keys are the modality for the
    first input, and "image-2", "image-3", ... for further ones (`key_of`).

    `turns`: the conversation that ends in `question` and `answer`; empty for the one question and answer alone, which then
    stand after all media. All answers are trained on, the last one is tested.
    """

    uid: str
    """A name of its own among the client's samples."""
    modalities: Mapping[str, Tensor]
    """Raw inputs by modality."""
    question: str
    """The question, or the text to classify."""
    answer: str
    """The right answer, or the label's word."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Further fields that the sample's task reads, such as `labels`, all labels in their order."""
    turns: tuple[Turn, ...] = ()

    def __post_init__(self) -> None:
        if self.turns and self.turns[-1].role != "assistant":
            raise ValueError(f"the turns of sample {self.uid!r} should end with an answer of the assistant")

    @property
    def kind(self) -> str:
        """The present modalities joined with "+", in the fixed order; "text" if there are none."""
        return "+".join(modalities_of(self.modalities)) or "text"

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """The turns as a model reads them: places of absent media are left out, and the last turn is `answer`.

        A single question is one turn of all its media and its text. So changed inputs and answers need no change of `turns`.
        """
        if not self.turns:
            media = [Medium(modality_of(key), key) for key in ordered(self.modalities)]
            asked = Turn("user", (*media, self.question) if self.question else tuple(media))
            return asked, Turn("assistant", (self.answer,))
        present = [
            replace(t, parts=tuple(p for p in t.parts if isinstance(p, str) or p.key in self.modalities))
            for t in self.turns[:-1]
        ]
        return *present, replace(self.turns[-1], parts=(self.answer,))


def key_of(modality: str, number: int) -> str:
    """The key of a sample's input in `Sample.modalities`; `number` counts its inputs of this modality from 1."""
    return modality if number == 1 else f"{modality}-{number}"


def modality_of(key: str) -> str:
    """The modality of a key of `Sample.modalities`."""
    return key.partition("-")[0]


def ordered(keys: Iterable[str]) -> list[str]:
    """Keys of `Sample.modalities` in the fixed order: by modality, then by number. Keys of no known modality are left out."""
    known = [key for key in keys if modality_of(key) in MODALITIES]
    return sorted(known, key=lambda k: (MODALITIES.index(modality_of(k)), int(k.partition("-")[2] or 1)))


def modalities_of(keys: Iterable[str]) -> tuple[str, ...]:
    """The modalities of these keys, each once, in the fixed order."""
    held = {modality_of(key) for key in keys}
    return tuple(m for m in MODALITIES if m in held)
