"""Tensor files with a checksum: safetensors whose header holds a digest of names, types, shapes and values.

Safetensors alone detects a file that was cut short, but no flipped bit.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from fedloom.core.files import disk_fault
from fedloom.core.seals import damaged

DIGEST = "digest"


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, as 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, and in place of a quantised one those that it is made of, as `<name>.<part>`."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if hasattr(tensor, "__tensor_flatten__"):
            parts = {f"{name}.{part}": getattr(tensor, part) for part in tensor.__tensor_flatten__()[0]}
            plain |= plain_tensors(parts)
        else:
            plain[name] = tensor
    return plain


def with_checksum(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a tensor file with checksum."""
    plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    return tensors_to_bytes(plain, {DIGEST: digest_of(plain)})


def save_checked(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a tensor file with checksum; not atomic. Raises OSError if the disk is full."""
    plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    try:
        save_file(plain, file, {DIGEST: digest_of(plain)})
    except SafetensorError as error:
        raise OSError(None, disk_fault(error) or str(error), str(file)) from error


def read_checked(file: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a file with checksum, memory-mapped. Raises DiskError if it is missing or damaged."""
    try:
        with safe_open(file, framework="pt") as f:
            expected = (f.metadata() or {}).get(DIGEST)
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise damaged(file) from error
    if digest_of(tensors) != expected:
        raise damaged(file)
    return tensors if str(device) == "cpu" else {n: t.to(device) for n, t in tensors.items()}


PREFIX = ".uploads-"
"""Prefix of a temporary folder's name; a folder that a killed run left may be removed."""


@dataclass(frozen=True)
class _Place:
    """A tensor's offset in its file in bytes, its CRC-32, shape, dtype and device."""

    start: int
    check: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Stored(Mapping[str, Tensor]):
    """Named tensors in a file, each read on access and not kept. Reading raises DiskError if the file is damaged."""

    file: Path
    places: Mapping[str, _Place]

    def __getitem__(self, name: str) -> Tensor:
        place = self.places[name]
        tensor = torch.empty(place.shape, dtype=place.dtype)
        if tensor.numel():
            whole = buffer = bytes_of(tensor)
            with self.file.open("rb", buffering=0) as file:
                file.seek(place.start)
                while buffer:
                    read = file.readinto(buffer)
                    if not read:
                        raise damaged(self.file)
                    buffer = buffer[read:]
            if crc32(whole) != place.check:
                raise damaged(self.file)
        return tensor.to(place.device)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Stored:
    """Write the tensors' bytes one after another, to be read by this process alone."""
    places = {}
    with path.open("wb") as file:
        for name, tensor in tensors.items():
            data = bytes_of(tensor.detach().cpu().contiguous())
            places[name] = _Place(file.tell(), crc32(data), tensor.shape, tensor.dtype, tensor.device)
            file.write(data)
    return Stored(path, places)


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.flatten().view(torch.uint8).numpy().data  # flatten: a scalar has no last dimension to split
