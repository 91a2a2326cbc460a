"""Least-recently-used cache of clients' prepared training samples, within a memory budget."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


class ExampleCache:
    """Keeps the prepared examples of clients, up to `limit` bytes; evicts the least recently used client."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, tuple[list[Any], int]] = OrderedDict()
        self._held = 0

    def of(self, client: str, make: Callable[[], list[Any]]) -> list[Any]:
        """The client's examples, from the cache or from `make`."""
        if client in self._kept:
            self._kept.move_to_end(client)
            return self._kept[client][0]
        examples = make()
        self._kept[client] = examples, (size := nbytes(examples))
        self._held += size
        while self._held > self._limit and self._kept:
            _, (_, freed) = self._kept.popitem(last=False)
            self._held -= freed
        return examples


def nbytes(value: Any) -> int:
    """Approximate bytes of a value: its tensors' elements and the Python objects around them."""
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
