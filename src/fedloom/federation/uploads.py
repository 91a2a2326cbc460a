"""A round's uploads as they arrive: in memory up to a budget, then each in a file from which it is read tensor by tensor."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload
from fedloom.privacy.firewall import Reply

PREFIX = ".uploads-"
"""Beginning of a temporary folder's name; one that a killed run left may be removed."""


class Uploads:
    """Takes each reply when it arrives. `limit` is in bytes; files go to a temporary folder in `inside`, or the system's."""

    def __init__(self, limit: int, inside: Path | None = None) -> None:
        self._limit, self._inside = limit, inside
        self._held = 0
        self._count = 0
        self._temporary: TemporaryDirectory[str] | None = None

    def take(self, reply: Reply) -> Reply:
        """The same reply, safe from later edits by its sender; read from a file where the budget is used up.

        Raises ExperimentError where that file cannot be written.
        """
        if reply.error is not None:
            return reply
        size = reply.payload.nbytes
        if self._held + size <= self._limit:
            self._held += size
            return replace(reply, payload=reply.payload.detached())
        try:
            tensors = write_tensors(self._next_file(), reply.payload.tensors)
        except OSError as error:
            raise ExperimentError(
                f"a client's upload cannot be written to {self._inside or 'the temporary folder'} ({error.strerror}); "
                "make room there, or raise engine.memory"
            ) from error
        return replace(reply, payload=Payload(tensors, dict(reply.payload.numbers)))

    def clear(self) -> None:
        """Forget the round: its replies must not be read any more."""
        self._held = self._count = 0
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _next_file(self) -> Path:
        if self._temporary is None:
            if self._inside is not None:
                self._inside.mkdir(parents=True, exist_ok=True)
            self._temporary = TemporaryDirectory(prefix=PREFIX, dir=self._inside, ignore_cleanup_errors=True)
        self._count += 1
        return Path(self._temporary.name) / f"{self._count:06d}"


@dataclass(frozen=True)
class _Place:
    """Where a tensor's bytes begin in its file, and what they are."""

    start: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Stored(Mapping[str, Tensor]):
    """Named tensors in a file; each is read anew whenever it is asked for, and none is kept."""

    file: Path
    places: Mapping[str, _Place]

    def __getitem__(self, name: str) -> Tensor:
        place = self.places[name]
        tensor = torch.empty(place.shape, dtype=place.dtype)
        if tensor.numel():
            buffer = bytes_of(tensor)
            with self.file.open("rb", buffering=0) as file:
                file.seek(place.start)
                while buffer:
                    read = file.readinto(buffer)
                    if not read:
                        raise OSError(f"{self.file} ends within {name}")
                    buffer = buffer[read:]
        return tensor.to(place.device)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Stored:
    """The tensors' bytes one after another: only this process reads them, and only while it runs."""
    places = {}
    with path.open("wb") as file:
        for name, tensor in tensors.items():
            places[name] = _Place(file.tell(), tensor.shape, tensor.dtype, tensor.device)
            file.write(bytes_of(tensor.detach().cpu().contiguous()))
    return Stored(path, places)


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.flatten().view(torch.uint8).numpy().data  # flatten: a scalar has no last dimension to split
