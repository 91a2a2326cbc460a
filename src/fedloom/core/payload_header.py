"""The header of a payload's bytes, read within limits: its counts are checked before any object is made of it.

The bytes are safetensors': eight bytes of length, a JSON header that names dtype, shape and place of every tensor, the data. The
numbers of a payload stand in the header as JSON text. Decoding takes at most ten times the size of the bytes and 32 MB.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_LENGTH = 8
"""Bytes of the header's length."""
_PER_TENSOR = 12
"""Commas and brackets of a tensor's entry in the header; one of four axes has ten."""
_AXES = 16


class PayloadError(ValueError):
    """Raised on bytes that are no payload, or one beyond the limits."""


class Limits(BaseModel):
    """Limits on the size of a message's header. Both count what a few bytes of a message turn into objects."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tensors: int = Field(20_000, ge=1, description="largest number of tensors in a message")
    max_values: int = Field(
        100_000,
        ge=1,
        description="largest number of values, lists and brackets in the numbers of a message",
    )


def read_numbers(data: bytes, limits: Limits) -> dict[str, Any]:
    """The numbers in the header of `data`, whose tensors' entries are checked.

    Raises PayloadError for a header beyond the limits, and ValueError, KeyError, TypeError, AttributeError or RecursionError for
    other bytes.
    """
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    if not _LENGTH < end <= len(data):
        raise PayloadError(f"{len(data)} bytes are too few for the header that they announce")
    most = _PER_TENSOR * limits.max_tensors + limits.max_values
    if sum(data.count(mark, _LENGTH, end) for mark in (b",", b"[", b"{")) > most:
        raise PayloadError(
            f"its header holds more than {limits.max_tensors} tensors and {limits.max_values} values"
        )
    header = json.loads(data[_LENGTH:end].decode(), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise PayloadError("its header is no JSON object")
    text = header.pop("__metadata__", {}).get("numbers", "{}")
    if len(header) > limits.max_tensors:
        raise PayloadError(f"it holds {len(header)} tensors, at most {limits.max_tensors} are read")
    if not all(_is_shape(entry["shape"]) for entry in header.values()):
        raise PayloadError("a tensor in it has a shape that no tensor can have")
    del header  # before its numbers are made
    if sum(map(text.count, ",[{")) > limits.max_values:
        raise PayloadError(f"it holds more than {limits.max_values} values among its numbers")
    numbers = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(numbers, dict):
        raise PayloadError("the numbers of a payload must be a JSON object")
    return numbers


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; one that names a key twice says two things at once."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise PayloadError("a key stands in it twice")
    return unique


def _is_shape(shape: Any) -> bool:
    """Whether PyTorch can make a tensor of this shape: a few whole axes, and strides of at most 64 bits."""
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    return whole and len(shape) <= _AXES and math.prod(max(size, 1) for size in shape) < 2**63
