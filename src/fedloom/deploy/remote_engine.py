"""The engine of a deployment: clients are remote sites, and every payload travels as bytes.

The carrier transports the bytes. The engine numbers the requests, validates the answers and returns them in the order of the
sites' names, so that sums over clients do not depend on the order of arrival.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedloom.core.payload import Limits, Payload, PayloadError, Reply
from fedloom.deploy.wire import Answer, Request, fingerprint
from fedloom.federation.client import Client
from fedloom.federation.settings import Round
from fedloom.methods import Method
from fedloom.models.base import Trainable

if TYPE_CHECKING:
    from fedloom.deploy.site_list import SiteList


@dataclass(frozen=True)
class Lost:
    """A missing answer, with the reason."""

    why: str


class Carrier(Protocol):
    """Transport: sends bytes to each site and collects the answers."""

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Lost]]:
        """Yield each site's answer on arrival; ends when all have answered or on timeout."""


class RemoteEngine:
    """Sends requests to sites through a carrier. `run` and `experiment` identify every request (see `deploy.wire`);
    `limits` bound what an answer may hold. `site_list` gives the signed list of sites, which travels with every request."""

    def __init__(
        self,
        model: Trainable,
        clients: Mapping[str, Client],
        carrier: Carrier,
        run: str,
        experiment: str,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        site_list: Callable[[], "SiteList | None"] = lambda: None,
    ) -> None:
        self.model = model
        self.clients = dict(clients)
        self.carrier = carrier
        self.run, self.experiment, self.limits = run, experiment, limits
        self.site_list = site_list
        self._at = (0, 0)

    def close(self) -> None:
        """See `Engine.close`: sites run on."""

    def ask(
        self,
        method: Method,
        request: str,
        payloads: Mapping[str, Payload],
        at: Round,
        done: Callable[[str, float], None] = lambda client, seconds: None,
        received: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> list[Reply]:
        """The replies that arrive in time; only the first answer of a site to a request counts."""
        began = time.perf_counter()
        step = self._at[1] if self._at[0] == at.number else 0
        self._at = (at.number, step + 1)
        fingerprints: dict[str, str] = {}
        requests = _Requests(self, request, payloads, at.number, step, fingerprints)
        replies: dict[str, Reply] = {}
        for site, answer in self.carrier.exchange(requests):
            if site in payloads and site not in replies:
                replies[site] = received(_reply(site, fingerprints.get(site), answer, self.limits))
                done(site, time.perf_counter() - began)
        return [replies[name] for name in payloads if name in replies]


class _Requests(Mapping[str, bytes]):
    """Each site's request, encoded when it is sent and not kept; its fingerprint is recorded in `fingerprints`."""

    def __init__(
        self,
        engine: RemoteEngine,
        request: str,
        payloads: Mapping[str, Payload],
        round: int,
        step: int,
        fingerprints: dict[str, str],
    ) -> None:
        self.engine, self.request, self.payloads = engine, request, payloads
        self.round, self.step, self.fingerprints = round, step, fingerprints
        listed = engine.site_list()
        self.sites = "" if listed is None else listed.text

    def __getitem__(self, site: str) -> bytes:
        engine = self.engine
        request = Request(
            engine.run,
            engine.experiment,
            self.request,
            self.round,
            self.step,
            self.payloads[site],
            self.sites,
        )
        data = request.encode()
        self.fingerprints[site] = fingerprint(data)
        return data

    def __contains__(self, site: object) -> bool:
        return site in self.payloads

    def __iter__(self) -> Iterator[str]:
        return iter(self.payloads)

    def __len__(self) -> int:
        return len(self.payloads)


def _reply(site: str, expected: str | None, data: bytes | Lost, limits: Limits) -> Reply:
    """The validated reply of one site; every fault becomes that site's error."""
    if isinstance(data, Lost):
        return Reply(site, error=data.why)
    try:
        answer = Answer.decode(data, limits)
    except PayloadError as error:
        return Reply(site, error=f"unreadable: {error}")
    if answer.site != site:
        return Reply(site, error=f"uninvited: the answer is signed {answer.site!r}")
    if answer.to != expected:
        return Reply(site, error="stale: answers another question")
    if answer.error is not None:
        return Reply(site, error=answer.error)
    return Reply(site, answer.payload)
