"""The messages of a secure sum as payloads: names of requests and tensors, which begin with `secure/`, and bytes as tensors."""

import torch
from torch import Tensor

from fedloom.core.payload import Payload
from fedloom.privacy.secure.protocol import ProtocolError

OURS = "secure/"
KEYS, SHARES, MASKED, CONSISTENCY, UNMASK = (
    OURS + phase for phase in ("keys", "shares", "masked", "consistency", "unmask")
)
PHASES = (KEYS, SHARES, MASKED, UNMASK)
"""The requests of a secure sum without signatures, in order."""
SIGNED_PHASES = (KEYS, SHARES, MASKED, CONSISTENCY, UNMASK)
"""The requests of a sum whose clients sign, in order."""
SIGNATURE = OURS + "signature"
"""Name of the tensor that holds the sender's signature; `secure/signature/<client>` is one that the server passes on."""


def to_tensor(data: bytes) -> Tensor:
    """Bytes as a tensor that can travel."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)


def to_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor made by `to_tensor`. Raises ProtocolError on any other."""
    if tensor.dtype != torch.uint8 or tensor.ndim != 1:
        raise ProtocolError("a message of the protocol must be bytes")
    return tensor.cpu().numpy().tobytes()


def addressed(payload: Payload, kind: str) -> dict[str, bytes]:
    """The protocol's messages `secure/<kind>/<client>` in a payload, by client."""
    start = f"{OURS}{kind}/"
    return {n[len(start) :]: to_bytes(t) for n, t in payload.tensors.items() if n.startswith(start)}
