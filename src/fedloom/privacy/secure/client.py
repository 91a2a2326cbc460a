"""A client's part in a secure sum: each phase of the protocol as a request, between payloads and `Member`.

Names of tensors that belong to the protocol begin with `secure/`; the method's own payload travels with them in
the first phase, in which the client does the method's request: a client that fails at it was never in the sum, and costs nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedloom.core.payload import Payload, group_of
from fedloom.privacy.clipping import Layout, by_group, change, clipped
from fedloom.privacy.differential.noise import Stream, gaussian, within
from fedloom.privacy.differential.quantile import (
    BELOW,
    LARGEST,
    count_deviation,
    indicator,
    vector_multiplier,
)
from fedloom.privacy.differential.refusals import ROOM
from fedloom.privacy.differential.settings import QuantileClip
from fedloom.privacy.secure.contribution import NUMBERS, Codec
from fedloom.privacy.secure.fixed_point import Words
from fedloom.privacy.secure.fixed_point import to_tensor as from_words
from fedloom.privacy.secure.member import Member
from fedloom.privacy.secure.protocol import ProtocolError, Roster, threshold_of
from fedloom.privacy.settings import Privacy

OURS = "secure/"
KEYS, SHARES, MASKED, UNMASK = (OURS + phase for phase in ("keys", "shares", "masked", "unmask"))
PHASES = (KEYS, SHARES, MASKED, UNMASK)
"""The requests of a secure sum, in order."""


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


@dataclass
class Session:
    """A client's state between the phases of one sum, in memory alone."""

    member: Member
    request: str
    reply: Payload
    """The method's answer, which never leaves unmasked."""
    reference: Mapping[str, Tensor]
    layout: Layout
    terms: "Terms"
    clip: float
    """Norm to which this client's change is cut; 0 without differential privacy."""
    roster: Roster | None = None

    @cached_property
    def changes(self) -> dict[str, Tensor]:
        """This client's change of each group, before weighting; clipped where the experiment says so."""
        changes = change(self.reply.tensors, self.reference, self.layout)
        dp = self.terms.privacy.dp
        if dp is None:
            return changes
        # Zeros where nothing was trained: every group gets noise, so that its absence reveals nothing.
        sizes = {g: Codec.size(g, self.layout) - 2 for g in by_group(self.layout)}
        zeros = {g: torch.zeros(size, dtype=torch.float64) for g, size in sizes.items()}
        own = {group_of(BELOW): indicator(changes, self.clip)} if group_of(BELOW) in zeros else {}
        return zeros | clipped(changes, self.clip) | own


@dataclass(frozen=True)
class Terms:
    """The least terms on which a client takes part in a sum, from its own experiment."""

    privacy: Privacy
    by_examples: bool
    stream: Stream

    def clip(self, instructions: Mapping[str, Any]) -> float:
        """The clip: this client's own, or the server's where it is adaptive. Raises ProtocolError for an unusable one."""
        dp, secure = self.privacy.dp, self.privacy.secure
        if dp is None or secure is None:
            return 0.0
        if not isinstance(dp.clip, QuantileClip):
            return dp.clip
        clip = instructions.get("clip")
        if not isinstance(clip, float) or not 0 < clip <= LARGEST:
            raise ProtocolError(f"the clip should be a number above 0 and at most {LARGEST:g}")
        if BELOW not in instructions["layout"]:
            raise ProtocolError("the server asks for no count of the clients below the clip")
        return clip

    def check(self, roster: Roster) -> None:
        """Raise ProtocolError where the server offers less."""
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
    request: str,
    payload: Payload,
    do: Callable[[str, Payload], Payload],
    terms: Terms,
) -> Payload:
    """The reply to one phase. `do` is the method's client function; `sessions` holds the client's secrets."""
    instructions: Mapping[str, Any] = payload.numbers[OURS]
    name = instructions["session"]
    if request == KEYS:
        sessions.clear()  # one sum at a time: an abandoned one's secrets go
        own = {n: v for n, v in payload.numbers.items() if n != OURS}
        reply = do(instructions["request"], Payload(payload.tensors, own))
        session = sessions[name] = Session(
            Member(client),
            instructions["request"],
            reply,
            payload.tensors,
            instructions["layout"],
            terms,
            terms.clip(instructions),
        )
        sealing, masking = session.member.keys()
        keys = {OURS + "sealing": to_tensor(sealing), OURS + "masking": to_tensor(masking)}
        return Payload(keys, {"groups": sorted({*session.changes, NUMBERS})})
    if name not in sessions:
        raise ProtocolError("this sum is not known here; was the client started anew?")
    session = sessions[name]
    if request == SHARES:
        session.roster = roster = Roster(
            bytes.fromhex(name),
            addressed(payload, "sealing"),
            addressed(payload, "masking"),
            {c: tuple(groups) for c, groups in instructions["groups"].items()},
            instructions["threshold"],
            instructions["least"],
        )
        terms.check(roster)
        if set(roster.groups.get(client, ())) != {*session.changes, NUMBERS}:
            raise ProtocolError("the groups of the roster are not those that this client adds to")
        shares = session.member.shares(roster)
        return Payload({f"{OURS}to/{peer}": to_tensor(sealed) for peer, sealed in shares.items()})
    if request == MASKED and session.roster is not None:
        words = _words(client, session, session.roster)
        masked = session.member.masked(addressed(payload, "from"), words)
        return Payload({f"{group}/masked": from_words(w) for group, w in masked.items()})
    if request == UNMASK:
        revealed = session.member.unmask(instructions["survivors"])
        sessions.clear()
        return Payload({f"{OURS}share/{peer}": to_tensor(share) for peer, share in revealed.items()})
    raise ProtocolError(f"{request} is no phase of a secure sum, or comes too early")


def _words(client: str, session: Session, roster: Roster) -> dict[str, Words]:
    """The client's words by group, noise added where the experiment says so."""
    terms, numbers = session.terms, session.reply.numbers
    secure, dp = terms.privacy.secure, terms.privacy.dp
    assert secure is not None  # noqa: S101 - the terms have been checked with the roster
    codec, changes = Codec(secure, len(roster.clients)), session.changes
    examples = int(numbers["examples"])
    weight, capped = (
        codec.weight(examples, terms.by_examples),
        terms.by_examples and examples > secure.examples,
    )
    if dp is not None:
        numbers = {}  # a loss, or the number of cut values, would reveal what the noise hides
        for group, vector in changes.items():
            # An opened sum has at least this many of the group's holders: together they add (z C)^2 or more.
            whole = count_deviation(dp) if group == group_of(BELOW) else vector_multiplier(dp) * session.clip
            deviation = whole / math.sqrt(roster.least_of(group))
            if ROOM * deviation > secure.clip:
                raise ProtocolError(f"noise of deviation {deviation:.3g} would be cut at {secure.clip:g}")
            stream = within(terms.stream, session.request, client, group)
            changes[group] = vector + gaussian(len(vector), deviation, stream)
    return codec.encode(changes, weight, numbers, capped)
