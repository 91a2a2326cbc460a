"""The state of a cohort's layers at a block's forward pass, restored where the backward pass computes the block again."""

from collections.abc import Callable, Sequence

import torch

from fedloom.models.batch_rows import RowMap


class Replayed:
    """Context of a block's second forward pass: it sees the rows of the first one, and draws the same dropout masks.

    `show` makes the stacked layers use a row map instead of the model's current one; None undoes it.
    """

    def __init__(
        self, rows: RowMap, streams: Sequence[torch.Generator], show: Callable[[RowMap | None], None]
    ) -> None:
        self._rows, self._streams, self._show = rows, streams, show
        self._states = [stream.get_state() for stream in streams]
        self._later: list[torch.Tensor] = []

    def __enter__(self) -> None:
        self._later = [stream.get_state() for stream in self._streams]
        for stream, state in zip(self._streams, self._states, strict=True):
            stream.set_state(state)
        self._show(self._rows)

    def __exit__(self, *error: object) -> None:
        for stream, state in zip(self._streams, self._later, strict=True):
            stream.set_state(state)
        self._show(None)
