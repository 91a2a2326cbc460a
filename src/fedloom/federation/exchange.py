"""An exchange with clients: sends views, inspects replies, and records the ledger and the totals."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Check, Payload, Reply, group_of
from fedloom.core.plain_text import plain
from fedloom.federation.client import Client
from fedloom.federation.engine import Engine
from fedloom.federation.progress import Totals
from fedloom.federation.settings import Round, RunSettings
from fedloom.federation.spilled_uploads import SpilledUploads
from fedloom.methods import Method, State
from fedloom.models.lora.ranks import ratios
from fedloom.models.training.settings import local_steps, trained_in
from fedloom.privacy.firewall import Firewall, inspect
from fedloom.tasks.base import ServerTools

if TYPE_CHECKING:
    from fedloom.privacy.differential.mechanism import Mechanism
    from fedloom.privacy.secure.signatures import PublicKeys


class Server(Protocol):
    """The run, as an exchange and a round's ask see it; `federation.loop.Federation` is one."""

    experiment: RunSettings
    engine: Engine
    totals: Totals
    uploads: SpilledUploads
    state: State
    tools: ServerTools | None
    attackers: Sequence[str]
    replies: list[Reply]
    noted_metrics: dict[str, float]

    @property
    def public_keys(self) -> Callable[[], "PublicKeys | None"]:
        """The clients' signing keys, under which secure sums are signed; none where all clients live in this process."""

    @property
    def clients(self) -> Mapping[str, Client]:
        """The clients by name."""

    @property
    def unequal(self) -> bool:
        """Whether clients' ranks or scales differ."""

    mechanism: "Mechanism | None"

    def cohort(self, number: int) -> list[str]:
        """The clients of a round."""

    def report_answer(self, number: int, client: str, clients: int) -> None:
        """Tell the observer that one of `clients` has answered."""


_GROUPS, _GROUP = 1000, 100
"""Largest number of groups of tensors in a ledger entry, and of characters of their names."""


class NoReplies(Exception):  # noqa: N818 - not an error: the round has nothing to combine
    """No usable reply came back."""


@dataclass(frozen=True)
class Exchange:
    """The messages of one round; `entries` are its ledger lines, one per ask.

    `notes`: the engine's notes on replies that the next ledger line takes.
    """

    federation: Server
    method: Method
    round: int
    entries: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def send(
        self, request: str, views: Mapping[str, Payload]
    ) -> tuple[list[Reply], Counter[str], Counter[str]]:
        """Send each client its view; returns replies, bytes up and bytes down by group."""
        federation, asked = self.federation, sorted(views)
        groups_up: Counter[str] = Counter()

        def received(reply: Reply) -> Reply:
            try:
                if reply.error is None:
                    _add(groups_up, reply.payload.nbytes_by_group())
                return federation.uploads.take(reply)
            except ExperimentError:
                raise
            except Exception as error:  # of this client's making
                return Reply(reply.client, error=f"raised {type(error).__name__}: {error}")

        groups_down = sum((p.nbytes_by_group() for p in views.values()), Counter())
        replies = federation.engine.ask(
            self.method,
            request,
            {client: views[client] for client in asked},
            Round(self.round, federation.experiment.rounds, federation.experiment.seed),
            lambda client, seconds: federation.report_answer(self.round, client, len(asked)),
            received,
        )
        self.notes.extend(dict.fromkeys(note for reply in replies for note in reply.notes))
        scales = federation.engine.model.scales
        replies = [
            replace(r, ratios=ratios(federation.clients[r.client].shapes), scales=scales) for r in replies
        ]
        return replies, groups_up, groups_down

    def inspected(
        self,
        replies: Sequence[Reply],
        asked: Sequence[str],
        reference: Mapping[str, Mapping[str, Tensor]],
        rules: Firewall,
        *,
        answers: bool = False,
        check: Check | None = None,
    ) -> tuple[list[Reply], dict[str, str]]:
        """The replies that pass the firewall, and the reason of refusal for the others; see `firewall.inspect`."""
        return inspect(
            replies,
            rules=rules,
            round=self.round,
            asked=asked,
            reference=reference,
            answers=answers,
            check=check,
            idle=lambda r: self.idle(
                r.client, reference[r.client], local_steps(r.examples, self.federation.experiment.training)
            ),
        )

    def idle(self, client: str, names: Collection[str], steps: int) -> bool:
        """Whether none of a client's local steps of this round trains any of these tensors, though they are the model's."""
        settings, scope, federation = self.federation.experiment, self.method.scope, self.federation
        held = federation.clients[client].groups
        own = [
            n for n in federation.engine.model.tensors if group_of(n) in held and scope.role(n) != "frozen"
        ]
        trained = trained_in(settings.training, own, self.round, settings.rounds, steps)
        return {group_of(n) for n in names} <= held - {group_of(n) for n in trained}

    def record(
        self,
        request: str,
        asked: Sequence[str],
        replies: Sequence[Reply],
        refused: Mapping[str, str],
        up: Counter[str],
        down: Counter[str],
        began: float,
        notes: Sequence[str] = (),
        left_out: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """Add one ask to the ledger and to the run's totals; `more` are further fields of the entry."""
        totals = self.federation.totals
        totals.bytes_down += down.total()
        totals.bytes_up += up.total()
        totals.asked += len(asked)
        totals.refused += len(refused)
        totals.left_out += len(left_out or {})
        entry = {
            "round": self.round,
            "request": request,
            "asked": asked,
            "answered": [r.client for r in replies],
            "refused": self._plain(refused),
            "bytes_up": up.total(),
            "bytes_down": down.total(),
            "groups_up": dict(sorted(up.items())),
            "groups_down": dict(sorted(down.items())),
            "seconds": round(time.perf_counter() - began, 4),
            "left_out": self._plain(left_out or {}),
            "notes": [plain(note) for note in [*_notes(replies), *notes, *self.notes]],
        }
        self.notes.clear()
        self.entries.append(entry | more)

    def _plain(self, reasons: Mapping[str, str]) -> dict[str, str]:
        """Reasons by client as plain text."""
        most = self.federation.experiment.firewall.max_text
        return {client: plain(reason, most) for client, reason in reasons.items()}

    def views(
        self, asked: Sequence[str], payload: Payload | Mapping[str, Payload]
    ) -> Iterator[tuple[str, Payload]]:
        """Each client's view of a payload; clients with equal groups and shapes share one object."""
        shared_views: dict[Any, Payload] = {}
        for name in asked:
            client = self.federation.clients[name]
            if not isinstance(payload, Payload):
                yield name, client.view(payload[name])
                continue
            kind = client.groups, frozenset(client.shapes.items())
            if kind not in shared_views:
                shared_views[kind] = client.view(payload)
            yield name, shared_views[kind]


def _notes(replies: Sequence[Reply]) -> list[str]:
    """Notes on samples that a client cut, and on clients that trained nothing."""
    notes = []
    for reply in replies:
        if truncated := reply.payload.numbers.get("truncated"):
            notes.append(f"{reply.client}: {truncated} training samples were cut to fit")
        if reply.payload.numbers.get("steps") == 0:
            notes.append(f"{reply.client}: took no step")
    return notes


def _add(total: Counter[str], sent: Mapping[str, int]) -> None:
    """Add bytes by group. Groups are named by the client, so that there is an end to their number and length."""
    for group, size in sent.items():
        name = plain(group, _GROUP)
        total[name if name in total or len(total) < _GROUPS else "others"] += size
