"""Tensor files that tell when they are damaged: safetensors whose header holds a digest of names, types, shapes and values.

Safetensors alone notices a file that was cut short, and nothing of a bit that flipped.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.federation.uploads import bytes_of

DIGEST = "digest"


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """64 hex digits that change with any name, type, shape or value."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(bytes_of(tensor))
    return found.hexdigest()


def sealed(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a sealed file."""
    plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    return tensors_to_bytes(plain, {DIGEST: digest_of(plain)})


def save_sealed(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a sealed file; not atomic."""
    plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    save_file(plain, file, {DIGEST: digest_of(plain)})


def opened(file: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a sealed file, mapped from it. Raises ExperimentError where it is missing or not as it was written."""
    try:
        with safe_open(file, framework="pt") as f:
            wanted = (f.metadata() or {}).get(DIGEST)
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise damaged(file) from error
    if digest_of(tensors) != wanted:
        raise damaged(file)
    return tensors if str(device) == "cpu" else {n: t.to(device) for n, t in tensors.items()}


def damaged(file: Path) -> ExperimentError:
    """What a user is told of such a file."""
    return ExperimentError(
        f"{file} is damaged: its content is not what was written; put it back from a copy, or start the run anew in "
        "another folder"
    )
