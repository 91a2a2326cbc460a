"""The door between server and clients: a round's `ask`, as a method sees it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from fedloom.adapters.ranks import ratios
from fedloom.client import Round
from fedloom.exchange import EVERYTHING, Payload, Scope
from fedloom.firewall import Check, Reply, inspect
from fedloom.methods import Method

if TYPE_CHECKING:
    from fedloom.federation import Federation
    from fedloom.foundations.synthesis import Synthesis
    from fedloom.foundations.zoo import Zoo

T = TypeVar("T")


class NoReplies(Exception):  # noqa: N818 - not an error: the round simply has nothing to combine
    """Not one usable reply came back."""


@dataclass(frozen=True)
class Door:
    """`ask` of one round: sends each client its part, checks what comes back, writes the ledger."""

    of: "Federation"
    method: Method
    round: int
    entries: list[dict[str, Any]]

    @cached_property
    def cohort(self) -> Sequence[str]:
        """The clients of this round."""
        return self.of.cohort(self.round)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.of.experiment.seed

    @property
    def frozen(self) -> Mapping[str, Tensor]:
        """Frozen tensors that server and clients know from the seed."""
        model = self.of.engine.model
        return {**model.frozen, **self.method.scope.pick(model.start, "frozen")}

    @property
    def unequal(self) -> bool:
        """Whether clients' ranks or scales differ."""
        return self.of.unequal

    @property
    def modalities(self) -> Mapping[str, str]:
        """What each client with a model of its own holds."""
        return self.zoo.modalities

    @property
    def zoo(self) -> "Zoo":
        """The architectures of clients with models of their own."""
        from fedloom.foundations.zoo import Zoo

        model = self.of.engine.model
        assert isinstance(model, Zoo)  # noqa: S101 - the experiment saw to it
        return model

    @property
    def synthesis(self) -> "Synthesis":
        """The server's generator and captioner."""
        assert self.of.synthesis is not None  # noqa: S101 - the experiment saw to it
        return self.of.synthesis

    def note(self, text: str) -> None:
        """Put a remark into the ledger, beside the last question of the round."""
        self.entries[-1]["notes"].append(text)

    def __call__(
        self,
        task: str,
        payload: Payload | Mapping[str, Payload],
        cohort: Sequence[str] | None = None,
        expect: Scope | Mapping[str, Mapping[str, Tensor]] = EVERYTHING,
        check: Check | None = None,
    ) -> list[Reply]:
        """Replies that passed the firewall, ordered by client; raises NoReplies where none did. See `methods.base.Ask`."""
        of, number = self.of, self.round
        began = time.perf_counter()
        asked = sorted(self.cohort if cohort is None else cohort)
        groups_up: Counter[str] = Counter()

        def received(reply: Reply) -> Reply:
            if reply.error is None:
                groups_up.update(reply.payload.nbytes_by_group())
            return of.uploads.take(reply)

        views = dict(self._views(asked, payload))
        groups_down = sum((p.nbytes_by_group() for p in views.values()), Counter())
        heard = of.engine.ask(
            self.method,
            task,
            Each(asked, lambda client: views[client].detached()),
            Round(number, of.experiment.rounds, of.experiment.seed),
            lambda client, seconds: of.heard(number, client, len(asked)),
            received,
        )
        heard = [replace(r, ratios=ratios(of.clients[r.client].shapes)) for r in heard]
        reference: Mapping[str, Mapping[str, Tensor]]
        if isinstance(expect, Scope):
            due = Payload(expect.pick(self.method.scope.pick(of.state.shared, "shared"), "shared"))
            reference = {c: view.tensors for c, view in self._views(asked, due)}
        else:
            reference = expect
        replies, refused = inspect(
            heard,
            rules=of.experiment.firewall,
            round=number,
            asked=asked,
            reference=reference,
            answers=not isinstance(expect, Scope),
            check=check,
        )
        of.totals.bytes_down += groups_down.total()
        of.totals.bytes_up += groups_up.total()
        of.totals.asked += len(asked)
        of.totals.refused += len(refused)
        self.entries.append(
            {
                "round": number,
                "task": task,
                "asked": asked,
                "answered": [r.client for r in replies],
                "refused": refused,
                "bytes_up": groups_up.total(),
                "bytes_down": groups_down.total(),
                "groups_up": dict(sorted(groups_up.items())),
                "groups_down": dict(sorted(groups_down.items())),
                "seconds": round(time.perf_counter() - began, 4),
                "notes": [
                    f"{r.client}: {r.payload.numbers['truncated']} training samples were cut to fit"
                    for r in replies
                    if r.payload.numbers.get("truncated")
                ],
            }
        )
        if not replies:
            raise NoReplies
        of.replies = replies
        return replies

    def _views(
        self, asked: Sequence[str], payload: Payload | Mapping[str, Payload]
    ) -> Iterator[tuple[str, Payload]]:
        """What each client is to see of a payload; one and the same object for all clients of one kind."""
        kinds: dict[Any, Payload] = {}
        for name in asked:
            client = self.of.clients[name]
            if not isinstance(payload, Payload):
                yield name, client.view(payload[name])
                continue
            kind = client.groups, frozenset(client.shapes.items())
            if kind not in kinds:
                kinds[kind] = client.view(payload)
            yield name, kinds[kind]


@dataclass(frozen=True)
class Each(Mapping[str, T]):
    """Something of every client, made when it is asked for and kept by nobody."""

    clients: Sequence[str]
    make: Callable[[str], T]

    def __getitem__(self, client: str) -> T:
        return self.make(client)

    def __contains__(self, client: object) -> bool:
        return client in self.clients  # a Mapping's own would make the value, and never miss

    def __iter__(self) -> Iterator[str]:
        return iter(self.clients)

    def __len__(self) -> int:
        return len(self.clients)
