"""Prepared training samples of the clients that were asked last, within a memory budget."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


class ExampleCache:
    """Keeps what was made for the clients asked last, up to `limit` bytes; the client asked longest ago goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[list[Any], int]] = OrderedDict()
        self._held = 0

    def of(self, client: str, make: Callable[[], list[Any]]) -> list[Any]:
        """The client's examples: those kept, or else what `make` gives."""
        if client in self._kept:
            self._kept.move_to_end(client)
            return self._kept[client][0]
        made = make()
        self._kept[client] = made, (size := nbytes(made))
        self._held += size
        while self._held > self._limit and self._kept:
            _, (_, freed) = self._kept.popitem(last=False)
            self._held -= freed
        return made


def nbytes(value: Any) -> int:
    """About how many bytes a value holds: its tensors' elements, and Python's own sizes of what is around them."""
    if isinstance(value, Tensor):
        return sys.getsizeof(value) + value.numel() * value.element_size()
    size = sys.getsizeof(value)
    if is_dataclass(value):
        return size + sum(nbytes(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, Mapping):
        return size + sum(nbytes(v) for v in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return size + sum(nbytes(v) for v in value)
    return size
