"""The engine of a deployment: clients are sites elsewhere, and every payload travels as bytes.

How the bytes travel is the carrier's business. This file numbers the questions, tells answers from what is none, and hands them
on in the order of the sites' names, so that a sum over clients is the same whoever answers first.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from fedloom.core.payload import Payload, PayloadError, Reply
from fedloom.deploy.wire import Answer, Request, fingerprint
from fedloom.federation.client import Client
from fedloom.federation.settings import Round
from fedloom.methods import Method
from fedloom.models.base import Trainable


@dataclass(frozen=True)
class Lost:
    """In place of an answer: why there is none."""

    why: str


class Carrier(Protocol):
    """Brings each site its bytes and fetches what it answers."""

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Lost]]:
        """Each site's answer as it comes; ends when all have answered or the round's time is over."""


class RemoteEngine:
    """Asks sites through a carrier. `run` and `experiment` stand in every question (see `deploy.wire`)."""

    def __init__(
        self, model: Trainable, clients: Mapping[str, Client], carrier: Carrier, run: str, experiment: str
    ) -> None:
        self.model = model
        self.clients = dict(clients)
        self.carrier = carrier
        self.run, self.experiment = run, experiment
        self._at = (0, 0)

    def ask(
        self,
        method: Method,
        request: str,
        payloads: Mapping[str, Payload],
        at: Round,
        done: Callable[[str, float], None] = lambda client, seconds: None,
        received: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> list[Reply]:
        """The replies that came in time. The first answer of a site counts; a later one to the same question is dropped."""
        began = time.perf_counter()
        step = self._at[1] if self._at[0] == at.number else 0
        self._at = (at.number, step + 1)
        asked: dict[str, str] = {}
        requests = _Requests(self, request, payloads, at.number, step, asked)
        replies: dict[str, Reply] = {}
        for site, answer in self.carrier.exchange(requests):
            if site in payloads and site not in replies:
                replies[site] = received(_reply(site, asked.get(site), answer))
                done(site, time.perf_counter() - began)
        return [replies[name] for name in payloads if name in replies]


class _Requests(Mapping[str, bytes]):
    """Each site's question, encoded when it is sent and kept by nobody; `asked` learns its fingerprint."""

    def __init__(
        self,
        engine: RemoteEngine,
        request: str,
        payloads: Mapping[str, Payload],
        round: int,
        step: int,
        asked: dict[str, str],
    ) -> None:
        self.engine, self.request, self.payloads = engine, request, payloads
        self.round, self.step, self.asked = round, step, asked

    def __getitem__(self, site: str) -> bytes:
        engine = self.engine
        request = Request(
            engine.run, engine.experiment, self.request, self.round, self.step, self.payloads[site]
        )
        data = request.encode()
        self.asked[site] = fingerprint(data)
        return data

    def __contains__(self, site: object) -> bool:
        return site in self.payloads

    def __iter__(self) -> Iterator[str]:
        return iter(self.payloads)

    def __len__(self) -> int:
        return len(self.payloads)


def _reply(site: str, asked: str | None, answer: bytes | Lost) -> Reply:
    """What came as a reply: whatever is wrong with it is this site's refusal and nobody else's."""
    if isinstance(answer, Lost):
        return Reply(site, error=answer.why)
    try:
        said = Answer.decode(answer)
    except PayloadError as error:
        return Reply(site, error=f"unreadable: {error}")
    if said.site != site:
        return Reply(site, error=f"uninvited: the answer is signed {said.site!r}")
    if said.to != asked:
        return Reply(site, error="stale: answers another question")
    if said.error is not None:
        return Reply(site, error=said.error)
    return Reply(site, said.payload)
