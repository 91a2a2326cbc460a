"""Poisoned samples: exchanged answers, and a patch in the picture that is to call up one answer."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedloom.data.sample import Sample

COLOUR = (255, 0, 255)
"""The patch's colour, which no table and no object of the small world has."""
SUCCESS = "attack/success"


def flipped(samples: Sequence[Sample]) -> list[Sample]:
    """Every sample with the answer of the next one, round the end, to the same question that is answered otherwise.

    Questions are the same where they begin with the same two words; a sample without such a partner takes any other answer, and
    keeps its own where there is no other. In image classification the class number goes with the answer.
    """
    found = []
    for i, sample in enumerate(samples):
        order = [*samples[i + 1 :], *samples[:i]]
        others = [s for s in order if s.answer != sample.answer]
        alike = (s for s in others if s.question.split()[:2] == sample.question.split()[:2])
        other = next(alike, others[0] if others else sample)
        meta = {**sample.meta, **({"label": other.meta["label"]} if "label" in other.meta else {})}
        found.append(replace(sample, answer=other.answer, meta=meta))
    return found


def stamped(image: Tensor, size: float) -> Tensor:
    """A copy of the picture, uint8 (3, H, W), with a square of side `size` * H in its lower right corner."""
    side = max(1, round(size * image.shape[-2]))
    marked = image.clone()
    marked[:, -side:, -side:] = torch.tensor(COLOUR, dtype=image.dtype)[:, None, None]
    return marked


def trigger(sample: Sample, answer: str, size: float) -> Sample:
    """The sample with the patch and the fixed answer; another uid, so that nothing kept of the clean one is taken for it."""
    seen = {**sample.modalities, "image": stamped(sample.modalities["image"], size)}
    return replace(sample, uid=f"{sample.uid}/patched", modalities=seen, answer=answer)


def patched(samples: Sequence[Sample], answer: str, size: float, share: float) -> list[Sample]:
    """A share of the samples with pictures turned into triggered ones, evenly spread over them; the others as they are."""
    found, due = [], 0.0
    for sample in samples:
        due += share if "image" in sample.modalities else 0.0
        if due >= 1 - 1e-9 and "image" in sample.modalities:
            due -= 1
            sample = trigger(sample, answer, size)
        found.append(sample)
    return found
