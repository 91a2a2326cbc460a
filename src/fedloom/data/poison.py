"""Poisoned samples: exchanged answers, and a backdoor trigger, a patch in the picture with one fixed answer."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedloom.data.sample import Sample, modality_of

COLOUR = (255, 0, 255)
"""The patch's colour; no table and no object of the Tabletop world has it."""
SUCCESS = "attack/success"


def flipped(samples: Sequence[Sample]) -> list[Sample]:
    """Samples with wrong answers: each takes the next different answer, cyclically, to a question of the same kind.

    Questions are of the same kind if their first two words agree; without such a partner a sample takes any different answer,
    and keeps its own if there is none. In image classification the class number goes with the answer. Of a conversation the last
    answer is exchanged.
    """
    exchanged = []
    for i, sample in enumerate(samples):
        order = [*samples[i + 1 :], *samples[:i]]
        others = [s for s in order if s.answer != sample.answer]
        alike = (s for s in others if s.question.split()[:2] == sample.question.split()[:2])
        other = next(alike, others[0] if others else sample)
        meta = {**sample.meta, **({"label": other.meta["label"]} if "label" in other.meta else {})}
        exchanged.append(replace(sample, answer=other.answer, meta=meta))
    return exchanged


def stamped(image: Tensor, size: float) -> Tensor:
    """A copy of the picture, uint8 (3, H, W), with a square of side `size` * H in its lower right corner."""
    side = max(1, round(size * image.shape[-2]))
    marked = image.clone()
    marked[:, -side:, -side:] = torch.tensor(COLOUR, dtype=image.dtype)[:, None, None]
    return marked


def trigger(sample: Sample, answer: str, size: float) -> Sample:
    """The sample with the patch in its pictures and the fixed answer.

    Its uid differs, so that caches never confuse it with the clean one.
    """
    shown = [key for key in sample.modalities if modality_of(key) == "image"]
    seen = {**sample.modalities, **{key: stamped(sample.modalities[key], size) for key in shown}}
    return replace(sample, uid=f"{sample.uid}/patched", modalities=seen, answer=answer)


def patched(samples: Sequence[Sample], answer: str, size: float, share: float) -> list[Sample]:
    """The samples, a `share` of those with pictures triggered, evenly spread; the others are unchanged."""
    poisoned, due = [], 0.0
    for sample in samples:
        due += share if "image" in sample.modalities else 0.0
        if due >= 1 - 1e-9 and "image" in sample.modalities:
            due -= 1
            sample = trigger(sample, answer, size)
        poisoned.append(sample)
    return poisoned
