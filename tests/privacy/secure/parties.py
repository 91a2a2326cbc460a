"""Clients of a secure sum without a model: each answers the method's request with a payload that is written down."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from fedloom.core.payload import Payload, Reply
from fedloom.privacy.secure.client import Session, answer
from fedloom.privacy.secure.server import SecureSum
from fedloom.privacy.secure.terms import Terms
from fedloom.privacy.settings import Privacy


class Parties:
    """An exchange, as the door's: answers phases for all clients, and remembers what the server saw."""

    def __init__(
        self,
        replies: Mapping[str, Payload],
        privacy: Privacy,
        lost: Mapping[str, Collection[str]] | None = None,
        by_examples: bool = False,
        stream: Any = None,
        change: Callable[[str, Reply], Reply | None] = lambda request, reply: reply,
    ) -> None:
        self.replies, self.lost, self.change = replies, lost or {}, change
        self.terms = Terms(privacy, by_examples, stream)
        self.sessions: dict[str, dict[str, Session | None]] = {c: {} for c in replies}
        self.seen: dict[str, dict[str, Payload]] = {}

    def __call__(
        self, request: str, views: Mapping[str, Payload]
    ) -> tuple[list[Reply], Counter[str], Counter[str]]:
        replies = []
        for client, payload in views.items():
            if client in self.lost.get(request, ()):
                continue
            payload = Payload.decode(payload.encode())
            try:
                answered = answer(
                    client,
                    self.sessions[client],
                    request,
                    payload,
                    lambda t, p, c=client: self.replies[c],
                    self.terms,
                )
                reply = Reply(client, Payload(answered.tensors, {**answered.numbers, "round": 1}))
            except Exception as error:
                reply = Reply(client, error=f"raised {type(error).__name__}: {error}")
            if (changed := self.change(request, reply)) is not None:
                replies.append(changed)
        self.seen[request] = {r.client: r.payload for r in replies}
        return replies, Counter(), Counter()


def secure_mean(
    parties: Parties, reference: Mapping[str, Any], expected: Mapping[str, float] | None = None
) -> tuple[Reply, SecureSum]:
    """The mean that the server gets, and the sum with its record. The layouts are the replies' own."""
    layouts = layouts_of(parties.replies)
    summing = SecureSum(parties.terms.privacy.secure, parties, 1, layouts, expected)
    views = {c: Payload(dict(reference), {"of": "the method"}) for c in parties.replies}
    return summing.mean("train", views, reference), summing


def layouts_of(replies: Mapping[str, Payload]) -> dict[str, dict[str, tuple[int, ...]]]:
    """What each client adds: all that it answers."""
    return {c: {n: tuple(t.shape) for n, t in p.tensors.items()} for c, p in replies.items()}
