"""Least-recently-used cache of prepared samples, of whole clients or one by one, within a memory budget."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


class ExampleCache:
    """Keeps prepared examples by key, up to `limit` bytes; evicts the least recently used."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._held = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def of(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The examples of a key, such as a client's name, from the cache or from `make`."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        examples = make()
        self._kept[key] = examples, (size := nbytes(examples))
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
        if value and isinstance(value[0], int | float):  # token numbers and the like, thousands of them
            return size + len(value) * sys.getsizeof(value[0])
        return size + sum(nbytes(v) for v in value)
    return size
