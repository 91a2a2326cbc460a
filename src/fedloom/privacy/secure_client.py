"""A client's part in a secure sum: each phase of the protocol as a task, between payloads and `Member`.

Names of tensors that belong to the protocol begin with `secure/`; what the method itself sends to its clients travels with
them in the phase `secure/masked`, in which the client does the method's task.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedloom.exchange import Payload
from fedloom.privacy.config import Privacy
from fedloom.privacy.contribution import NUMBERS, Codec, by_group, change, clipped
from fedloom.privacy.member import Member
from fedloom.privacy.noise import Stream, gaussian
from fedloom.privacy.protocol import ProtocolError, Roster, threshold_of

OURS = "secure/"
KEYS, SHARES, MASKED, UNMASK = (OURS + phase for phase in ("keys", "shares", "masked", "unmask"))
PHASES = (KEYS, SHARES, MASKED, UNMASK)
"""The tasks of a secure sum, in order."""


def to_tensor(data: bytes) -> Tensor:
    """Bytes as a tensor that can travel."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)


def to_bytes(tensor: Tensor) -> bytes:
    """The bytes of such a tensor. ProtocolError if it is none."""
    if tensor.dtype != torch.uint8 or tensor.ndim != 1:
        raise ProtocolError("a message of the protocol must be bytes")
    return tensor.cpu().numpy().tobytes()


def addressed(payload: Payload, what: str) -> dict[str, bytes]:
    """The protocol's messages `secure/<what>/<client>` in a payload, by client."""
    start = f"{OURS}{what}/"
    return {n[len(start) :]: to_bytes(t) for n, t in payload.tensors.items() if n.startswith(start)}


@dataclass
class Session:
    """What a client keeps between the phases of one sum, in memory alone."""

    name: str
    member: Member
    roster: Roster | None = None


@dataclass(frozen=True)
class Terms:
    """A client's own side of the agreement: it sums on no weaker terms than its experiment says."""

    privacy: Privacy
    by_examples: bool
    stream: Stream

    def check(self, roster: Roster) -> None:
        """Raises ProtocolError where the server offers less."""
        secure = self.privacy.secure
        if secure is None:
            raise ProtocolError("this client's experiment knows of no secure sum")
        if (
            roster.threshold < threshold_of(secure.threshold, len(roster.clients))
            or roster.least < secure.least
        ):
            raise ProtocolError("the server's threshold is below that of this client's experiment")


def answer(
    client: str,
    sessions: dict[str, Session],
    task: str,
    payload: Payload,
    do: Callable[[str, Payload], Payload],
    terms: Terms,
) -> Payload:
    """The reply to one phase. `do` is the method's client function; `sessions` is where the client keeps its secrets."""
    told: Mapping[str, Any] = payload.numbers[OURS]
    name = told["session"]
    if task == KEYS:
        sessions.clear()  # one sum at a time; what an abandoned one left is gone
        sessions[name] = Session(name, Member(client))
        sealing, masking = sessions[name].member.keys()
        return Payload({OURS + "sealing": to_tensor(sealing), OURS + "masking": to_tensor(masking)})
    if name not in sessions:
        raise ProtocolError("this sum is not known here; was the client started anew?")
    session = sessions[name]
    if task == SHARES:
        session.roster = roster = Roster(
            bytes.fromhex(name),
            addressed(payload, "sealing"),
            addressed(payload, "masking"),
            {c: tuple(groups) for c, groups in told["groups"].items()},
            told["threshold"],
            told["least"],
        )
        terms.check(roster)
        shares = session.member.shares(roster)
        return Payload({f"{OURS}to/{peer}": to_tensor(sealed) for peer, sealed in shares.items()})
    if task == MASKED and session.roster is not None:
        return _masked(client, session, session.roster, payload, do, terms)
    if task == UNMASK:
        opened = session.member.unmask(told["survivors"])
        sessions.clear()
        return Payload({f"{OURS}share/{peer}": to_tensor(share) for peer, share in opened.items()})
    raise ProtocolError(f"{task} is no phase of a secure sum, or comes too early")


def _masked(
    client: str,
    session: Session,
    roster: Roster,
    payload: Payload,
    do: Callable[[str, Payload], Payload],
    terms: Terms,
) -> Payload:
    """Do the method's task, and answer with masked words by group."""
    told, secure, dp = payload.numbers[OURS], terms.privacy.secure, terms.privacy.dp
    assert secure is not None  # noqa: S101 - the terms have been checked with the roster
    inner = Payload(
        {n: t for n, t in payload.tensors.items() if not n.startswith(OURS)},
        {n: v for n, v in payload.numbers.items() if n != OURS},
    )
    reply, layout = do(told["task"], inner), told["layout"]
    if {*by_group(layout), NUMBERS} != set(roster.groups[client]):
        raise ProtocolError("the groups to be summed are not those of the roster")
    codec = Codec(secure, len(roster.clients))
    changes, numbers = change(reply.tensors, inner.tensors, layout), reply.numbers
    weight = codec.weight(int(numbers["examples"]), terms.by_examples)
    if dp is not None:
        changes, numbers = clipped(changes, dp.clip), {}  # a loss would tell what the noise hides
        for group, names in by_group(layout).items():
            # Enough of the group's holders are in any sum that is opened: together they add at least (z C)^2.
            deviation = dp.noise_multiplier * dp.clip / math.sqrt(roster.least_of(group))
            size = sum(math.prod(layout[n]) for n in names)
            stream = None if terms.stream is None else (terms.stream[0], (*terms.stream[1], client, group))
            noise = gaussian(size, deviation, stream)
            changes[group] = changes[group] + noise if group in changes else noise
    words = codec.encode(changes, layout, weight, numbers)
    masked = session.member.masked(addressed(payload, "from"), words)
    return Payload({f"{group}/masked": codec.values.to_tensor(w) for group, w in masked.items()})
