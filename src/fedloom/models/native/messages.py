"""Turns as messages of a chat template: contents with pictures and sounds in place, and changed or shortened words."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fedloom.data.sample import Sample, Turn
from fedloom.models.native.answers import MARK


def with_words(turns: Sequence[Turn], change: Callable[[str], str]) -> list[Turn]:
    """The turns with changed words of users and systems."""
    return [
        turn
        if turn.role == "assistant"
        else replace(turn, parts=tuple(change(p) if isinstance(p, str) else p for p in turn.parts))
        for turn in turns
    ]


def content_of(sample: Sample, turn: Turn, *, whole: bool = False) -> list[dict[str, Any]]:
    """A turn's content for a chat template; an answer is its mark. A video is one part if `whole`, else a picture per frame."""
    if turn.role == "assistant":
        return [{"type": "text", "text": MARK}]
    content: list[dict[str, Any]] = []
    for part in turn.parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            raw = sample.modalities[part.key]
            if part.modality == "video" and not whole:
                content += [{"type": "image", "image": picture(frame)} for frame in raw]
                continue
            shown = picture(raw) if part.modality == "image" else raw.numpy()
            content.append({"type": part.modality, part.modality: shown})
    return content or [{"type": "text", "text": ""}]


def shortened(turns: Sequence[Turn], cut: Callable[[str], str]) -> tuple[Turn, ...] | None:
    """The turns with the last text before the last answer cut, the question's before the system's; None where there is none."""
    for at in range(len(turns) - 2, -1, -1):
        parts = list(turns[at].parts)
        for i in range(len(parts) - 1, -1, -1):
            if isinstance(text := parts[i], str) and text:
                parts[i] = cut(text)
                kept = tuple(part for part in parts if part)
                return *turns[:at], replace(turns[at], parts=kept), *turns[at + 1 :]
    return None


def picture(image: Tensor) -> Any:
    """A picture uint8 (3, H, W) as PIL's."""
    from PIL import Image

    return Image.fromarray(image.permute(1, 2, 0).numpy())
