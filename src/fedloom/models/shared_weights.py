"""Frozen weights in memory that several processes share.

The owner moves its frozen parameters into one region; other processes with an equal model map it and give their own copies
back. Mappings are private: whoever wrote to one would get a page of its own, and nobody else would see it.
"""

import math
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.files import disk_fault
from fedloom.core.tensor_files import bytes_of
from fedloom.models.base import Trainable

ALIGNMENT = 64
"""Bytes: PyTorch's own, since kernels round by alignment."""


@dataclass(frozen=True)
class Place:
    """A tensor in the region: its first byte, type and shape."""

    first: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class SharedWeights:
    """Where another process of this machine finds the frozen weights: a path, its bytes, and the tensors by name."""

    path: str
    nbytes: int
    places: Mapping[str, Place]


class Region:
    """Memory of this process that others can map: anonymous where the system allows it, else a temporary file.

    Anonymous memory ends with the last process that maps it. Raises DiskError where there is no room.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
            self._file = os.memfd_create("fedloom-weights")
            self.path, temporary = f"/proc/{os.getpid()}/fd/{self._file}", None
        else:
            self._file, self.path = tempfile.mkstemp(prefix="fedloom-weights-")
            temporary = self.path
        weakref.finalize(self, _released, self._file, temporary)
        try:
            os.ftruncate(self._file, nbytes)
        except OSError as error:
            raise _no_room(error, nbytes) from error

    def write(self, tensor: Tensor, first: int) -> None:
        """Write a tensor's bytes."""
        data = bytes_of(tensor.detach().contiguous())
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._file, data[done:], first + done)
            except OSError as error:
                raise _no_room(error, self.nbytes) from error


def share(model: Trainable) -> tuple[SharedWeights, Region] | None:
    """Move the model's frozen parameters into a region, one by one; None for a model without any on the CPU.

    The region has to live as long as other processes may still map it.
    """
    found = dict(frozen(model))
    places: dict[str, Place] = {}
    end = 0
    for name, parameter in found.items():
        places[name] = place = Place(end, parameter.dtype, tuple(parameter.shape))
        end += -(-place.nbytes // ALIGNMENT) * ALIGNMENT
    if not end:
        return None
    region = Region(end)
    weights = SharedWeights(region.path, end, places)
    region_bytes = _mapped(region.path, end)
    for name, parameter in found.items():
        region.write(parameter.data, places[name].first)
        parameter.data = _at(region_bytes, places[name])
    return weights, region


def borrow(model: Trainable, weights: SharedWeights) -> None:
    """Put the shared weights in the place of the model's own. Raises ExperimentError where these are others."""
    own = dict(frozen(model))
    region_bytes = _mapped(weights.path, weights.nbytes)
    replace(own, {name: _at(region_bytes, place) for name, place in weights.places.items()})


def replace(own: Mapping[str, nn.Parameter], shared: Mapping[str, Tensor]) -> None:
    """Put shared tensors in the place of equal parameters. Raises ExperimentError where they are not equal."""
    unlike = own.keys() ^ shared.keys() or {n for n in own if not torch.equal(own[n].data, shared[n])}
    if unlike:
        raise ExperimentError(
            f"a worker has other frozen weights than the run ({min(unlike)}); do all machines read the same files?"
        )
    for name, parameter in own.items():
        parameter.data = shared[name]


def frozen(model: Trainable) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that nothing trains and that processes can share, by name: plain and contiguous ones on the CPU."""
    trained = {id(p) for p in model.tensors.values()}
    for name, parameter in model.root.named_parameters():
        plain = type(parameter) is nn.Parameter and type(parameter.data) is Tensor
        if id(parameter) in trained or not plain or not parameter.numel():
            continue
        if parameter.device.type == "cpu" and parameter.is_contiguous():
            yield name, parameter


def _mapped(path: str, nbytes: int) -> Tensor:
    return torch.from_file(path, shared=False, size=nbytes, dtype=torch.uint8)


def _at(region: Tensor, place: Place) -> Tensor:
    return region[place.first : place.first + place.nbytes].view(place.dtype).reshape(place.shape)


def _released(file: int, temporary: str | None) -> None:
    os.close(file)
    if temporary is not None:
        os.unlink(temporary)


def _no_room(error: OSError, nbytes: int) -> DiskError:
    why = disk_fault(error) or error.strerror
    return DiskError(
        f"{nbytes / 1e9:.1f} GB of weights cannot be shared between processes ({why}); make room, or leave "
        "engine.workers out"
    )
