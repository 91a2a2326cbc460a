"""Results of pure computations that several runs of one process repeat, such as a study's rows of one seed.

A key names everything that a result depends on, also the number of threads, which may change the last bits: a shared result
has the bits of one computed anew.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fedloom.core.tensor_files import bytes_of

T = TypeVar("T")
LIMIT = 64 * 2**20
"""Bytes that one store keeps; at a paper's sizes a single result is larger and is not kept."""


class SharedResults(Generic[T]):
    """The newest results up to `limit` bytes, by key; `size` gives a result's bytes. Callers must not change them."""

    def __init__(self, size: Callable[[T], int], limit: int = LIMIT) -> None:
        self._size, self._limit, self._bytes = size, limit, 0
        self._kept: OrderedDict[bytes, T] = OrderedDict()

    def of(self, key: bytes, make: Callable[[], T]) -> T:
        """The result of this key, made by `make` where it is not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        result = make()
        size = self._size(result)
        if size > self._limit:
            return result
        self._kept[key] = result
        self._bytes += size
        while self._bytes > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= self._size(oldest)
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0


def key_of(tensors: Mapping[str, Tensor], *settings: object) -> bytes:
    """A digest of named tensors, of settings by their `repr`, and of the number of threads."""
    digest = blake2b(repr((settings, torch.get_num_threads())).encode(), digest_size=32)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.device}\0".encode())
        digest.update(bytes_of(tensor.detach().cpu().contiguous()))
    return digest.digest()


def tensor_bytes(tensor: Tensor) -> int:
    """The bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()
