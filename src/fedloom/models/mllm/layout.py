"""Padded batches of prompts: token ids, positions of the soft tokens, and positions of the answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.models.mllm.pieces import Pieces


@dataclass(frozen=True)
class Layout:
    """A padded batch of B prompts, L positions long.

    `ids` int64 (B, L), 0 at soft tokens and padding; `mask` int64 (B, L), 1 at real positions, from lengths
    and never from ids; `slots`: (example, keys of its media) per slot, whose n soft tokens fill the next n entries of
    `soft_rows` and `soft_cols`; `predict` int64 (N,): columns whose next token is an answer token; `rows` (N,):
    the example of each; `labels` (N,): that answer token.
    """

    ids: Tensor
    mask: Tensor
    slots: list[tuple[int, str]]
    soft_rows: Tensor
    soft_cols: Tensor
    rows: Tensor
    predict: Tensor
    labels: Tensor


def lay_out(
    batch: Sequence[Pieces], tokens: int, *, answers: bool, left: bool, earlier: bool = True
) -> Layout:
    """Place `batch` with `tokens` soft tokens per slot; padded on the left if `left`, else on the right.

    `answers`: with the last answers. `earlier`: whether the earlier answers' tokens are among the labels, too.
    """
    lengths = [length_of(p, tokens, answers) for p in batch]
    width = max(lengths)
    ids = [[0] * width for _ in batch]
    mask = [[0] * width for _ in batch]
    slots: list[tuple[int, str]] = []
    soft: list[tuple[int, int]] = []
    targets: list[tuple[int, int, int]] = []
    for row, (pieces, length) in enumerate(zip(batch, lengths, strict=True)):
        col = width - length if left else 0
        mask[row][col : col + length] = [1] * length
        for place, run in enumerate(pieces.prompt):
            if isinstance(run, str):
                slots.append((row, run))
                soft += [(row, col + i) for i in range(tokens)]
                col += tokens
            else:
                ids[row][col : col + len(run)] = run
                if answers and earlier and place in pieces.earlier:
                    targets += [(row, col + i - 1, label) for i, label in enumerate(run)]
                col += len(run)
        if answers and pieces.answer:
            ids[row][col : col + len(pieces.answer)] = pieces.answer
            targets += [(row, col + i - 1, label) for i, label in enumerate(pieces.answer)]
    soft_index = torch.tensor(soft, dtype=torch.int64).reshape(-1, 2)
    target_index = torch.tensor(targets, dtype=torch.int64).reshape(-1, 3)
    id_table, mask_table = (
        torch.tensor(x, dtype=torch.int64).reshape(len(batch), width) for x in (ids, mask)
    )
    return Layout(id_table, mask_table, slots, *soft_index.unbind(1), *target_index.unbind(1))


def length_of(pieces: Pieces, tokens: int, answers: bool = True) -> int:
    """Positions of a prompt with `tokens` soft tokens per slot, with its answer or without."""
    prompt = sum(tokens if isinstance(run, str) else len(run) for run in pieces.prompt)
    return prompt + (len(pieces.answer) if answers else 0)
