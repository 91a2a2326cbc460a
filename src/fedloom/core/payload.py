"""Payloads of named tensors and JSON numbers, their wire format, and the scope of shared, personal and frozen tensors.

A tensor's name is `<group>/<place in the group>`, for example `llm/model.layers.0.self_attn.q_proj.lora_A`. A group is
the unit that clients hold or lack, that is combined together, and that the ledger counts.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from fedloom.core.payload_header import Limits, PayloadError, read_numbers

__all__ = [
    "EVERYTHING",
    "Check",
    "Limits",
    "Payload",
    "PayloadError",
    "Reply",
    "Role",
    "Scope",
    "group_of",
    "lent",
    "not_finite",
]

Role = Literal["shared", "personal", "frozen"]


def group_of(name: str) -> str:
    """The group of a tensor's name: the part before the first slash."""
    return name.split("/", 1)[0]


@dataclass(frozen=True)
class Scope:
    """The partition of named tensors into shared, personal and frozen, as patterns over groups or full names.

    `frozen` is looked up first, then `personal`, then `shared`; a name that matches none is frozen.
    """

    shared: tuple[str, ...] = ()
    """Tensors that travel between server and clients."""
    personal: tuple[str, ...] = ()
    """Tensors that every client trains and keeps."""
    frozen: tuple[str, ...] = ()
    """Tensors that stay at their start values."""

    def role(self, name: str) -> Role:
        """The role of the tensor `name`."""

        return _role(self, name)

    def pick(self, tensors: Mapping[str, Tensor], role: Role) -> dict[str, Tensor]:
        """The tensors of one role, in name order."""
        return {name: tensors[name] for name in sorted(tensors) if self.role(name) == role}


@lru_cache(maxsize=65_536)
def _role(scope: Scope, name: str) -> Role:
    """`Scope.role`, cached over clients and rounds."""

    def named(patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(name, p) or fnmatchcase(group_of(name), p) for p in patterns)

    if named(scope.frozen):
        return "frozen"
    return "personal" if named(scope.personal) else "shared" if named(scope.shared) else "frozen"


EVERYTHING = Scope(shared=("*",))


def lent(tensor: Tensor) -> Tensor:
    """A detached copy-on-write copy: the values are copied when either side writes, not before.

    Memory that PyTorch did not allocate itself, such as a mapped file's, is copied at once.
    """
    try:
        return tensor.detach()._lazy_clone()
    except (AttributeError, RuntimeError):  # a PyTorch without it, or foreign memory
        return tensor.detach().clone()


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first name, in order, whose tensor holds NaN or infinity, or None."""
    for name in sorted(tensors):
        tensor = tensors[name]
        # A sum is read at the memory's rate and is finite only if every value is; it may overflow where all are finite.
        if not math.isfinite(float(tensor.detach().sum())) and not bool(torch.isfinite(tensor).all()):
            return name
    return None


@dataclass(frozen=True)
class Payload:
    """Named tensors and JSON values: all that ever travels between server and clients."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors by name."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """JSON values, such as the number of examples and the loss of a reply."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, as the ledger counts them: elements times element size."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    def nbytes_by_group(self) -> Counter[str]:
        """`nbytes` split by group."""
        count: Counter[str] = Counter()
        for name, tensor in self.tensors.items():
            count[group_of(name)] += tensor.numel() * tensor.element_size()
        return count

    def only(self, keep: Callable[[str], bool]) -> "Payload":
        """The same payload with the tensors whose names `keep` accepts."""
        return Payload({n: t for n, t in self.tensors.items() if keep(n)}, self.numbers)

    def detached(self) -> "Payload":
        """A copy-on-write copy of the tensors (see `lent`), and a copy of the numbers."""
        return Payload({n: lent(t) for n, t in self.tensors.items()}, dict(self.numbers))

    def encode(self) -> bytes:
        """Safetensors bytes; the numbers stand as JSON in the header."""
        tensors = {n: self.tensors[n].detach().cpu().contiguous() for n in sorted(self.tensors)}
        return tensors_to_bytes(tensors, {"numbers": json.dumps(self.numbers, sort_keys=True)})

    @classmethod
    def decode(cls, data: bytes, limits: Limits = Limits()) -> "Payload":  # noqa: B008 - frozen
        """The payload that `encode` wrote. Raises PayloadError on anything else; never executes what it reads.

        Takes at most ten times the size of `data` and 32 MB of memory, under the default limits.
        """
        try:
            numbers = read_numbers(data, limits)
            return cls(tensors_from_bytes(data), numbers)
        except PayloadError as error:
            raise PayloadError(f"these {len(data)} bytes are no payload: {error}") from None
        except Exception as error:  # whatever the parsers make of a stranger's bytes
            raise PayloadError(
                f"these {len(data)} bytes are no payload: {type(error).__name__}: {error}"
            ) from error


@dataclass(frozen=True)
class Reply:
    """One client's answer to one question: a payload, or the reason why there is none."""

    client: str
    """The client's name."""
    payload: Payload = field(default_factory=Payload)
    """The answer."""
    error: str | None = None
    """The reason why there is no answer; a method gets no such reply."""
    ratios: Mapping[str, float] = field(default_factory=dict)
    """The client's LoRA scale over the model's by group, as the server knows it; 1 where not named."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """The model's LoRA scale s by group, 1 where not named; the client's s_k is s times its ratio."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """For the mean of several clients' replies: the number that trained each group."""
    clients: Sequence[str] = ()
    """For the mean of several clients' replies: their names."""
    notes: Sequence[str] = ()
    """The engine's notes for the ledger on how the reply came about."""

    def trained_by(self, name: str) -> int:
        """The number of clients that trained a tensor of this reply."""
        return self.counts.get(group_of(name), 1) if name in self.payload.tensors else 0

    @property
    def examples(self) -> int:
        """The number of training examples that the client claims."""
        return int(self.payload.numbers["examples"])


Check = Callable[[Reply], str | None]
"""A method's own check of a reply with valid names, shapes and numbers: the fault, or None."""
