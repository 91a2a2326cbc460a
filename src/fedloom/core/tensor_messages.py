"""Messages between processes of one run: a pickled object with its tensors beside it, which are never pickled.

For processes that one run has started itself, on this machine or on its Ray cluster. What comes from elsewhere is read by
`payload` and `tensor_files`, which execute nothing.
"""

import io
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from fedloom.core.tensor_files import bytes_of

SMALL = 65_536
"""Bytes; smaller tensors go through a pipe together."""


@dataclass(frozen=True)
class Packed:
    """An object's bytes, and its tensors on the CPU in the order in which the bytes name them."""

    data: bytes
    tensors: Sequence[Tensor]


def pack(value: Any) -> Packed:
    """The message of an object; a tensor that stands in several places travels once. Raises what pickle raises."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return Packed(file.getvalue(), [t.detach().cpu().contiguous() for t in pickler.tensors])


def unpack(packed: Packed, device: torch.device | str = "cpu") -> Any:
    """The object, its tensors on `device`."""
    return _Unpickler(packed, torch.device(device)).load()


def send(connection: Connection, value: Any) -> None:
    """Send an object through a pipe. Raises OSError where nobody reads it."""
    packed = pack(value)
    shapes = [(t.dtype, tuple(t.shape)) for t in packed.tensors]
    connection.send_bytes(pickle.dumps((packed.data, shapes)))
    sizes = [_size(*shape) for shape in shapes]
    small = b"".join(bytes_of(t) for t, n in zip(packed.tensors, sizes, strict=True) if 0 < n < SMALL)
    if small:
        connection.send_bytes(small)
    for tensor, size in zip(packed.tensors, sizes, strict=True):
        if size >= SMALL:
            connection.send_bytes(bytes_of(tensor))


def receive(connection: Connection, device: torch.device | str = "cpu") -> Any:
    """The next object of a pipe. Raises EOFError or OSError where the other side has ended."""
    data, shapes = pickle.loads(connection.recv_bytes())  # noqa: S301 - from a process of this run
    sizes = [_size(*shape) for shape in shapes]
    small = torch.empty(sum(n for n in sizes if n < SMALL), dtype=torch.uint8)
    if len(small):
        connection.recv_bytes_into(bytes_of(small))
    tensors, at = [], 0
    for (dtype, shape), size in zip(shapes, sizes, strict=True):
        if (
            size < SMALL
        ):  # a copy is as aligned as any tensor, by which kernels round, and does not hold the others' memory
            tensors.append(small[at : at + size].clone().view(dtype).reshape(shape))
            at += size
        else:
            tensors.append(torch.empty(shape, dtype=dtype))
            connection.recv_bytes_into(bytes_of(tensors[-1]))
    return unpack(Packed(data, tensors), device)


def _size(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * dtype.itemsize


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.tensors: list[Tensor] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._places:
            self._places[id(value)] = len(self.tensors)
            self.tensors.append(value)  # it lives as long as its id is used
        return self._places[id(value)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, packed: Packed, device: torch.device) -> None:
        super().__init__(io.BytesIO(packed.data))
        self._tensors = [t.to(device) for t in packed.tensors]

    def persistent_load(self, place: int) -> Tensor:
        return self._tensors[place]
