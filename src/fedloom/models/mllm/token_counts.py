"""Counts of answer tokens and of correctly predicted ones."""

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position outside the answer (Hugging Face's convention)."""


def count_tokens(
    predicted: Tensor, labels: Tensor, example: Tensor, examples: int, ignored: int = IGNORED
) -> tuple[Tensor, Tensor]:
    """Answer tokens and correct ones of each example: `(tokens, correct)`, int64 `(examples,)`.

    `predicted` (argmax of the logits), `labels` and `example` (index of the position's example, from 0 to
    `examples` - 1) are integers of equal shape, and already aligned: `predicted[i]` answers for `labels[i]`.
    Positions labelled `ignored` do not count. Raises ValueError on unequal shapes.
    """
    if not predicted.shape == labels.shape == example.shape:
        raise ValueError(
            f"predicted {tuple(predicted.shape)}, labels {tuple(labels.shape)} and example "
            f"{tuple(example.shape)} must have one shape"
        )
    kept = labels != ignored
    where = example[kept].long()
    hits = (predicted == labels)[kept].long()
    zeros = torch.zeros(examples, dtype=torch.int64, device=labels.device)
    return zeros.index_add(0, where, torch.ones_like(where)), zeros.index_add(0, where, hits)


def count_tokens_shifted(logits: Tensor, labels: Tensor, ignored: int = IGNORED) -> tuple[Tensor, Tensor]:
    """`count_tokens` for a causal model's output: logits `(B, L, V)` at t answer for labels `(B, L)` at t + 1.

    Returns `(tokens, correct)`, int64 `(B,)`. Raises ValueError if the shapes do not fit.
    """
    if logits.ndim != 3 or logits.shape[:2] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}")
    targets = labels[:, 1:]
    rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(targets)
    return count_tokens(logits[:, :-1].argmax(-1), targets, rows, len(labels), ignored)
