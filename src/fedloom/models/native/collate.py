"""Batches of native examples: padded token ids, media side by side, and the answers' positions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedloom.models.native.prompt import NativeExample
from fedloom.models.precision import moved

TIMES = ("second_per_grid_ts",)
"""Inputs from which positions are counted."""


@dataclass(frozen=True)
class Batch:
    """A padded batch of B prompts, L positions long.

    `inputs`: the model's keyword arguments; `lengths`: real positions of each prompt; `predict` int64 (N,): columns whose next
    token is an answer token; `rows` (N,): the example of each; `labels` (N,): that answer token.
    """

    inputs: dict[str, Tensor]
    lengths: list[int]
    rows: Tensor
    predict: Tensor
    labels: Tensor


def collate(
    examples: Sequence[NativeExample], pad: int, *, answers: bool, answer_type: int = 0, earlier: bool = True
) -> Batch:
    """Prompts with their answers, padded on the right; without `answers`, prompts alone, padded on the left.

    `pad`: token id at padding. `answer_type`: the answers' `token_type_ids`. `earlier`: whether the earlier answers' tokens are
    among the labels, too.
    """
    extra = [len(e.answer) if answers else 0 for e in examples]
    lengths = [len(e.ids) + n for e, n in zip(examples, extra, strict=True)]
    width = max(lengths)
    ids = torch.full((len(examples), width), pad)
    mask = torch.zeros_like(ids)
    aligned = {
        name: torch.zeros(len(examples), width, *like.shape[1:], dtype=like.dtype)
        for e in examples
        for name, like in e.aligned.items()
    }
    targets: list[tuple[int, int, int]] = []
    for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
        first = 0 if answers else width - length
        end = first + len(example.ids)
        mask[row, first : first + length] = 1
        ids[row, first:end] = example.ids
        for name, value in example.aligned.items():
            aligned[name][row, first:end] = value
        if answers:
            ids[row, end : first + length] = torch.tensor(example.answer)
            for (
                name,
                value,
            ) in example.aligned.items():  # an answer sees the pictures that the prompt's last token sees
                aligned[name][row, end : first + length] = value[-1]
            if "token_type_ids" in aligned:
                aligned["token_type_ids"][row, end : first + length] = answer_type
            spans = example.earlier if earlier else ()
            said = [(i - 1, int(example.ids[i])) for begin, stop in spans for i in range(begin, stop)]
            targets += [(row, first + place, label) for place, label in said]
            targets += [(row, end + i - 1, label) for i, label in enumerate(example.answer)]
    index = torch.tensor(targets, dtype=torch.int64).reshape(-1, 3)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        **aligned,
        **side_by_side([e.media for e in examples]),
    }
    return Batch(inputs, lengths, *index.unbind(1))


def side_by_side(media: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Each entry of the examples concatenated along the first dimension; others are padded with zeros to the largest."""
    joined: dict[str, Tensor] = {}
    for name in {n: None for m in media for n in m}:
        parts = [m[name] for m in media if name in m]
        shape = [max(sizes) for sizes in zip(*(p.shape[1:] for p in parts), strict=True)]
        joined[name] = torch.cat([_padded(p, shape) for p in parts])
    return joined


def _padded(part: Tensor, shape: Sequence[int]) -> Tensor:
    if list(part.shape[1:]) == list(shape):
        return part
    larger = part.new_zeros(len(part), *shape)
    larger[tuple(slice(n) for n in part.shape)] = part
    return larger


def moved_to(inputs: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The tensors on `device`, floating ones in `dtype` but for times."""
    return {
        n: moved(t.to(dtype) if t.is_floating_point() and n not in TIMES else t, device)
        for n, t in inputs.items()
    }
