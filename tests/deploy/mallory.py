"""A server that does not follow the protocol: it stands between the honest server's engine and the sites' trainers."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from fedloom.core.payload import Payload
from fedloom.deploy.remote_engine import Lost
from fedloom.deploy.wire import Answer, Request, fingerprint
from fedloom.privacy.secure.messages import OURS
from tests.deploy.silos import Silos

Change = Callable[[str, Request], Request]
"""A site's question in place of the honest server's."""


class Mallory:
    """A carrier that may change every question, and sees every answer."""

    def __init__(self, silos: Silos) -> None:
        self.silos = silos
        self.change: Change = lambda site, request: request
        self.seen: list[tuple[str, Request, Answer]] = []

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Lost]]:
        for site in requests:
            honest = requests[site]
            sent = self.change(site, Request.decode(honest))
            answer = Answer.decode(self.silos.trainer(site).answer(sent.encode()))
            self.seen.append((site, sent, answer))
            yield site, dataclasses.replace(answer, to=fingerprint(honest)).encode()

    def answered(self, phase: str) -> dict[str, Payload]:
        """The answers to a phase without those that are refusals, by site."""
        return {s: a.payload for s, r, a in self.seen if r.name == phase and a.error is None}


def with_tensors(request: Request, tensors: Mapping[str, object]) -> Request:
    """The request with some tensors replaced or added; None takes one out."""
    changed = {**request.payload.tensors, **tensors}
    left = {n: t for n, t in changed.items() if t is not None}
    return dataclasses.replace(request, payload=Payload(left, request.payload.numbers))


def with_numbers(request: Request, **numbers: object) -> Request:
    """The request with some of the protocol's numbers replaced."""
    ours = {**request.payload.numbers[OURS], **numbers}
    return dataclasses.replace(
        request, payload=Payload(request.payload.tensors, {**request.payload.numbers, OURS: ours})
    )
