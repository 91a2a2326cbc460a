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
from fedloom.privacy.differential.noise import gaussian, within
from fedloom.privacy.differential.quantile import BELOW, count_deviation, indicator, vector_multiplier
from fedloom.privacy.secure.authentication import Signer
from fedloom.privacy.secure.contribution import NUMBERS, Codec
from fedloom.privacy.secure.fixed_point import Words
from fedloom.privacy.secure.fixed_point import to_tensor as from_words
from fedloom.privacy.secure.member import Member
from fedloom.privacy.secure.messages import (
    CONSISTENCY,
    KEYS,
    MASKED,
    OURS,
    SHARES,
    SIGNATURE,
    UNMASK,
    addressed,
    to_tensor,
)
from fedloom.privacy.secure.protocol import ROOM, ProtocolError, Roster
from fedloom.privacy.secure.terms import Terms


@dataclass
class Session:
    """A client's state between the phases of one sum, in memory alone."""

    member: Member
    request: str
    reply: Payload
    """The method's answer, which never leaves unmasked."""
    reference: Mapping[str, Tensor]
    layout: Layout
    terms: Terms
    clip: float
    """Norm to which this client's change is cut; 0 without differential privacy."""
    signer: Signer | None
    """With signatures: this client's part in them."""
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


def answer(
    client: str,
    sessions: dict[str, Session | None],
    request: str,
    payload: Payload,
    do: Callable[[str, Payload], Payload],
    terms: Terms,
) -> Payload:
    """The reply to one phase. `do` is the method's client function; `sessions` holds the client's secrets.

    Raises ProtocolError for whatever the protocol or the terms do not allow, and reports it.
    """
    try:
        if request == KEYS:
            return _begun(client, sessions, payload, do, terms)
        name = payload.numbers[OURS]["session"]
        session = sessions.get(name)
        if session is None:
            raise ProtocolError("this sum is not known here; was the client started anew?")
        reply = _gone_on(client, session, request, payload)
        if request == UNMASK:
            sessions[name] = None
        return reply
    except ProtocolError as error:
        terms.safeguards.report(str(error))
        raise


def _begun(
    client: str,
    sessions: dict[str, Session | None],
    payload: Payload,
    do: Callable[[str, Payload], Payload],
    terms: Terms,
) -> Payload:
    """Phase 1: the method's request is done, and fresh keys are sent."""
    instructions: Mapping[str, Any] = payload.numbers[OURS]
    name, identity = instructions["session"], terms.safeguards.identity
    if name in sessions:
        raise ProtocolError("this session was begun before, and a session is for one sum")
    for other in sessions:  # one sum at a time: an abandoned one's secrets go
        sessions[other] = None
    clip = terms.clip(instructions)
    adaptive = clip if "clip" in instructions else 0.0
    signer = None if identity is None else Signer(identity, client, name, terms.round, adaptive)
    own = {n: v for n, v in payload.numbers.items() if n != OURS}
    reply = do(instructions["request"], Payload(payload.tensors, own))
    session = sessions[name] = Session(
        Member(client),
        instructions["request"],
        reply,
        payload.tensors,
        instructions["layout"],
        terms,
        clip,
        signer,
    )
    sealing, masking = session.member.keys()
    groups = sorted({*session.changes, NUMBERS})
    tensors = {OURS + "sealing": to_tensor(sealing), OURS + "masking": to_tensor(masking)}
    if signer is None:
        return Payload(tensors, {"groups": groups})
    tensors[SIGNATURE] = to_tensor(signer.keys(sealing, masking, groups))
    return Payload(tensors, {"groups": groups, "list": signer.known.version})


def _gone_on(client: str, session: Session, request: str, payload: Payload) -> Payload:
    """Phase 2 and those after it."""
    instructions: Mapping[str, Any] = payload.numbers[OURS]
    signer, roster = session.signer, session.roster
    signatures = addressed(payload, "signature")
    if request == SHARES:
        roster = Roster(
            bytes.fromhex(instructions["session"]),
            addressed(payload, "sealing"),
            addressed(payload, "masking"),
            {c: tuple(groups) for c, groups in instructions["groups"].items()},
            instructions["threshold"],
            instructions["least"],
        )
        roster.check(client)
        session.terms.check(client, roster)
        if set(roster.groups.get(client, ())) != {*session.changes, NUMBERS}:
            raise ProtocolError("the groups of the roster are not those that this client adds to")
        signed = {} if signer is None else {SIGNATURE: to_tensor(signer.roster(roster, signatures))}
        shares = session.member.shares(roster)
        session.roster = roster
        return Payload({f"{OURS}to/{peer}": to_tensor(sealed) for peer, sealed in shares.items()} | signed)
    if request == MASKED and roster is not None:
        sealed = addressed(payload, "from")
        if signer is not None:
            signer.check_roster(roster, sorted(sealed), signatures)
        masked = session.member.masked(sealed, _words(client, session, roster))
        return Payload({f"{group}/masked": from_words(w) for group, w in masked.items()})
    if request == CONSISTENCY and signer is not None and roster is not None:
        return Payload({SIGNATURE: to_tensor(signer.survivors(roster, instructions["survivors"]))})
    if request == UNMASK and roster is not None:
        survivors = instructions["survivors"]
        if signer is not None:
            signer.check_survivors(roster, survivors, signatures)
        revealed = session.member.unmask(survivors)
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
