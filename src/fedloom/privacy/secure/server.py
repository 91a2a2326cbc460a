"""The server's part in a secure sum: the protocol's phases as asks through the engine, and the resulting mean."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedloom.core.payload import Payload, Reply
from fedloom.core.plain_text import plain, shown
from fedloom.privacy.clipping import Layout, by_group, restored
from fedloom.privacy.keystream import KEY
from fedloom.privacy.secure.authentication import Witness
from fedloom.privacy.secure.collector import Collector
from fedloom.privacy.secure.contribution import NUMBERS, Codec
from fedloom.privacy.secure.fixed_point import Words, from_tensor
from fedloom.privacy.secure.masks import agree
from fedloom.privacy.secure.messages import (
    CONSISTENCY,
    KEYS,
    MASKED,
    OURS,
    SHARES,
    SIGNATURE,
    UNMASK,
    addressed,
    to_bytes,
    to_tensor,
)
from fedloom.privacy.secure.protocol import Abandoned, ProtocolError, Roster
from fedloom.privacy.secure.signatures import PublicKeys
from fedloom.privacy.settings import Secure

Exchange = Callable[[str, Mapping[str, Payload]], tuple[list[Reply], Counter[str], Counter[str]]]
"""Sends each client its payload of a request; returns the replies, and the bytes up and down by group."""


@dataclass
class Record:
    """The ledger's record of one sum: lost clients with phase and reason, bytes, and the phases one by one."""

    phases: list[dict[str, Any]] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    up: Counter[str] = field(default_factory=Counter)
    down: Counter[str] = field(default_factory=Counter)
    inside: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    """The groups whose sums stayed closed, because too few clients had trained them."""


@dataclass(frozen=True)
class SecureSum:
    """One sum over the clients of `layouts`, which names what each may add."""

    settings: Secure
    exchange: Exchange
    round: int
    layouts: Mapping[str, Layout]
    expected: Mapping[str, float] | None = None
    """With differential privacy: the fixed number of clients by which each group's sum is divided."""
    idle: Callable[[str], bool] = lambda client: False
    """Whether a client may have nothing to train in this round; every other one adds to a group."""
    public_keys: PublicKeys | None = None
    """The clients' signing keys, where they have some: then all of them sign (see `authentication`)."""
    clip: float | None = None
    """The clip of this sum, where it is adaptive; a client's experiment has it otherwise."""
    record: Record = field(default_factory=Record)

    def mean(self, request: str, views: Mapping[str, Payload], reference: Mapping[str, Tensor]) -> Reply:
        """The clients' mean after they did `request`, with their weights, as one reply. Raises Abandoned.

        `views` holds each client's payload, and `reference` the tensors from which changes are measured.
        """
        settings, session = self.settings, os.urandom(16)
        header: dict[str, Any] = {"session": session.hex()}
        server = Collector(session, list(views), settings.threshold, settings.least)
        clip, keys = self.clip or 0.0, self.public_keys
        witness = None if keys is None else Witness(keys, session.hex(), self.round, clip)

        requests = {
            c: self._with_request(view, request, self.layouts[c], header) for c, view in views.items()
        }
        begun = self._phase(KEYS, requests, partial(self._keys, witness))
        roster = server.keys({c: k[:2] for c, k in begun.items()}, {c: k[2] for c, k in begun.items()})

        public = _public(roster, header, witness)
        shares = self._phase(SHARES, dict.fromkeys(roster.clients, public), partial(_shares, roster, witness))
        sealed = server.shares(shares)

        due = {c: self._sizes(c, roster, sorted(sealed)) for c in sealed}
        letters = {c: _letters(from_others, header, witness) for c, from_others in sealed.items()}
        survivors = server.masked(self._phase(MASKED, letters, lambda c, p: _words(p, settings.bits, due[c])))
        self.record.inside[:] = survivors

        last = Payload({}, {OURS: {**header, "survivors": survivors}})
        if witness is not None:
            last = Payload(self._consistency(witness, roster, survivors, last), last.numbers)
        answers = self._phase(
            UNMASK, dict.fromkeys(survivors, last), lambda c, p: addressed(p, "share"), lost=False
        )
        return self._decoded(server.opened(answers), roster, survivors, reference)

    def _consistency(
        self, witness: Witness, roster: Roster, survivors: Sequence[str], told: Payload
    ) -> dict[str, Tensor]:
        """The survivors' signatures of who survived, as they are passed on. Raises Abandoned."""
        signed = self._phase(
            CONSISTENCY,
            dict.fromkeys(survivors, told),
            lambda c, p: witness.survivors(c, p, roster, survivors),
            lost=False,
        )
        witness.enough(signed, roster)
        return _passed_on(signed, survivors)

    def _phase(
        self,
        request: str,
        payloads: Mapping[str, Payload],
        read: Callable[[str, Payload], Any],
        *,
        lost: bool = True,
    ) -> dict[str, Any]:
        """Ask for one phase and `read` each usable reply. With `lost`, a client that fails here is not in the sum."""
        replies, up, down = self.exchange(request, payloads)
        results: dict[str, Any] = {}
        answered: set[str] = set()
        refused = dict.fromkeys(payloads, "missing: no reply")
        for reply in replies:
            try:
                if reply.client not in payloads:
                    continue
                if reply.client in answered:
                    raise ProtocolError("duplicate: a second reply in one phase")
                answered.add(reply.client)
                if reply.error is not None:
                    raise ProtocolError(reply.error)
                if reply.payload.numbers.get("round") != self.round:
                    raise ProtocolError(f"stale: answers round {shown(reply.payload.numbers.get('round'))}")
                results[reply.client] = read(reply.client, reply.payload)
                refused.pop(reply.client, None)
            except Exception as error:  # whatever a message makes raise is its sender's
                results.pop(reply.client, None)
                refused[reply.client] = plain(_reason(error))
        self.record.up += up
        self.record.down += down
        self.record.phases.append(
            {
                "request": request,
                "asked": len(payloads),
                "answered": len(results),
                "lost": dict(sorted(refused.items())),
                "bytes_up": up.total(),
                "bytes_down": down.total(),
            }
        )
        if lost:
            self.record.lost |= {c: f"{request}: {reason}" for c, reason in refused.items()}
        return results

    def _with_request(
        self, view: Payload, request: str, layout: Layout, header: Mapping[str, Any]
    ) -> Payload:
        """The method's payload, with the session, the request and the layout of its answer."""
        shapes = {name: list(shape) for name, shape in layout.items()}
        clip = {} if self.clip is None else {"clip": self.clip}
        ours = {**header, "request": request, "layout": shapes, **clip}
        return Payload(view.tensors, {**view.numbers, OURS: ours})

    def _keys(self, witness: Witness | None, client: str, payload: Payload) -> tuple[bytes, bytes, list[str]]:
        """A client's public keys, and the groups that it adds to."""
        sealing, masking = (to_bytes(payload.tensors[OURS + name]) for name in ("sealing", "masking"))
        groups = payload.numbers["groups"]
        if [len(sealing), len(masking)] != [KEY, KEY]:
            raise ProtocolError(f"a public key has {KEY} bytes")
        if sealing == masking:
            raise ProtocolError("both public keys are the same")
        for key in (sealing, masking):
            agree(os.urandom(KEY), key)  # ValueError for a key of small order, which the others would refuse
        if not isinstance(groups, list) or not set(groups) <= {*by_group(self.layouts[client]), NUMBERS}:
            raise ProtocolError("the client adds to groups that it does not share")
        if NUMBERS not in groups or len(set(groups)) < len(groups):
            raise ProtocolError(f"the groups of a client are each named once, {NUMBERS} among them")
        if self.layouts[client] and self.expected is None and groups == [NUMBERS] and not self.idle(client):
            raise ProtocolError("sent no tensors")
        if self.expected is not None and len(groups) <= len(by_group(self.layouts[client])):
            raise ProtocolError("with noise a client adds to all groups that it shares")
        if witness is not None:
            witness.keys(client, payload, sealing, masking, groups)
        return sealing, masking, groups

    def _sizes(self, client: str, roster: Roster, present: Sequence[str]) -> dict[str, int]:
        """The number of words of each group that a client sends; none of a group that could never be opened."""
        groups = [g for g in roster.groups[client] if roster.opens(g, present)]
        return {g: Codec.size(g, self.layouts[client]) for g in groups}

    def _decoded(
        self,
        sums: Mapping[str, Words],
        roster: Roster,
        survivors: Sequence[str],
        reference: Mapping[str, Tensor],
    ) -> Reply:
        codec = Codec(self.settings, len(roster.clients))
        layout = {n: shape for c in survivors for n, shape in self.layouts[c].items()}
        tensors: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for group, names in by_group(layout).items():
            held = sum(c in survivors for c in roster.holders(group))
            if held and group not in sums:
                self.record.closed.append(group)
                self.record.notes.append(
                    f"{group}: {held} clients left, {roster.least_of(group)} are needed; it stays as it was"
                )
            if group not in sums:
                continue
            count, weight, total = codec.decode(sums[group])
            if count != held or not 0 < weight <= held * (1 + 1e-6):
                raise Abandoned(f"the opened sum of {group} is not that of {held} clients; it is not used")
            if self.expected is not None:
                count, weight = max(1, round(self.expected[group])), self.expected[group]
            counts[group] = count
            tensors |= restored(total / weight, names, reference, layout)
        cut, examples, capped, loss = codec.numbers(sums[NUMBERS])
        if cut:
            self.record.notes.append(f"{cut} numbers beyond privacy.secure.clip were cut")
        if capped:
            self.record.notes.append(
                f"{capped} clients with more than {self.settings.examples} examples, privacy.secure.examples, count as "
                "that many"
            )
        numbers: dict[str, Any] = {"examples": max(examples, 1)}
        if loss is not None:
            numbers["loss"] = loss
        return Reply("sum", Payload(tensors, numbers), counts=counts, clients=tuple(survivors))


def _reason(error: Exception) -> str:
    """A refusal in words: the protocol's own, or the kind of any other error."""
    return str(error) if isinstance(error, ProtocolError | ValueError) else f"{type(error).__name__}: {error}"


def _passed_on(signatures: Mapping[str, bytes], clients: Iterable[str]) -> dict[str, Tensor]:
    """The clients' signatures, as the server passes them on."""
    return {f"{SIGNATURE}/{c}": to_tensor(signatures[c]) for c in clients if c in signatures}


def _public(roster: Roster, header: Mapping[str, Any], witness: Witness | None) -> Payload:
    """The roster as it travels."""
    keys = {f"{OURS}sealing/{c}": to_tensor(k) for c, k in roster.sealing.items()}
    keys |= {f"{OURS}masking/{c}": to_tensor(k) for c, k in roster.masking.items()}
    if witness is not None:
        keys |= _passed_on(witness.of_keys, roster.clients)
    groups = {c: list(g) for c, g in roster.groups.items()}
    numbers = {**header, "groups": groups, "threshold": roster.threshold, "least": roster.least}
    return Payload(keys, {OURS: numbers})


def _shares(roster: Roster, witness: Witness | None, client: str, payload: Payload) -> dict[str, bytes]:
    shares = addressed(payload, "to")
    if set(shares) != set(roster.clients) - {client}:
        raise ProtocolError("shares are missing, or for clients that are not in the sum")
    if witness is not None:
        witness.roster(client, payload, roster)
    return shares


def _letters(sealed: Mapping[str, bytes], header: Mapping[str, Any], witness: Witness | None) -> Payload:
    letters = {f"{OURS}from/{peer}": to_tensor(data) for peer, data in sealed.items()}
    if witness is not None:
        letters |= _passed_on(witness.of_roster, sealed)
    return Payload(letters, {OURS: header})


def _words(payload: Payload, bits: int, sizes: Mapping[str, int]) -> dict[str, Words]:
    """A client's masked words by group, of the sizes that are due."""
    sent = {n.removesuffix("/masked"): t for n, t in payload.tensors.items()}
    dtype = {32: torch.int32, 64: torch.int64}[bits]
    shapes = {g: tuple(t.shape) for g, t in sent.items() if t.dtype == dtype}
    if set(sent) != set(shapes) or shapes != {g: (size,) for g, size in sizes.items()}:
        raise ProtocolError("the masked vector has not the groups, sizes and dtype that are summed")
    return {g: from_tensor(t) for g, t in sent.items()}
