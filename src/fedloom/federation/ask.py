"""The door between server and clients: a round's `ask`, as a method sees it."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fedloom.core.lazy_mapping import LazyMapping
from fedloom.core.payload import EVERYTHING, Check, Payload, Reply, Scope
from fedloom.federation.private_ask import NoReplies, private_reply
from fedloom.federation.settings import Round
from fedloom.methods import Method
from fedloom.models.lora.ranks import ratios
from fedloom.privacy.firewall import Firewall, inspect
from fedloom.privacy.robust.attacks import attacked
from fedloom.privacy.robust.stage import Combined, combine

if TYPE_CHECKING:
    from fedloom.federation.loop import Federation


__all__ = ["NoReplies", "RoundAsk"]


@dataclass(frozen=True)
class RoundAsk:
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
    def tools(self) -> object | None:
        """The server's own models, which the task made."""
        return self.of.tools

    def note(self, text: str) -> None:
        """Put a remark into the ledger, beside the last question of the round."""
        self.entries[-1]["notes"].append(text)

    @property
    def sums(self) -> bool:
        """Whether privacy lets the server see nothing but sums over clients."""
        return self.of.experiment.privacy.sums

    def __call__(
        self,
        task: str,
        payload: Payload | Mapping[str, Payload],
        cohort: Sequence[str] | None = None,
        expect: Scope | Mapping[str, Mapping[str, Tensor]] = EVERYTHING,
        check: Check | None = None,
    ) -> list[Reply]:
        """Replies that passed the firewall, ordered by client; raises NoReplies where none did. See `methods.base.Ask`."""
        of, began = self.of, time.perf_counter()
        asked = sorted(self.cohort if cohort is None else cohort)
        reference: Mapping[str, Mapping[str, Tensor]]
        server: Mapping[str, Tensor]
        if isinstance(expect, Scope):
            due = Payload(expect.pick(self.method.scope.pick(of.state.shared, "shared"), "shared"))
            if self.sums:
                return [private_reply(self, task, payload, asked, due)]
            reference, server = {c: view.tensors for c, view in self.views(asked, due)}, due.tensors
        else:
            reference, server = expect, {}
        heard, up, down = self.exchange(task, dict(self.views(asked, payload)))
        if of.experiment.attack is not None:
            heard = attacked(of.experiment.attack, heard, of.attackers, reference)
        answers = not isinstance(expect, Scope)
        replies, refused = self.inspected(
            heard, asked, reference, of.experiment.firewall, answers=answers, check=check
        )
        made, rule = Combined(replies), of.experiment.privacy.robust
        if rule is not None:
            made = combine(rule, replies, reference, server, of.uploads.take)
        self.record(
            task, asked, replies, refused, up, down, began, left_out=dict(made.left_out), notes=made.notes
        )
        if not made.replies:
            raise NoReplies
        of.replies = made.replies
        return made.replies

    def exchange(
        self, task: str, views: Mapping[str, Payload]
    ) -> tuple[list[Reply], Counter[str], Counter[str]]:
        """Send each client its view, and hear them: replies, bytes up and bytes down by group."""
        of, asked = self.of, sorted(views)
        groups_up: Counter[str] = Counter()

        def received(reply: Reply) -> Reply:
            if reply.error is None:
                groups_up.update(reply.payload.nbytes_by_group())
            return of.uploads.take(reply)

        groups_down = sum((p.nbytes_by_group() for p in views.values()), Counter())
        heard = of.engine.ask(
            self.method,
            task,
            LazyMapping(asked, lambda client: views[client].detached()),
            Round(self.round, of.experiment.rounds, of.experiment.seed),
            lambda client, seconds: of.heard(self.round, client, len(asked)),
            received,
        )
        heard = [replace(r, ratios=ratios(of.clients[r.client].shapes)) for r in heard]
        return heard, groups_up, groups_down

    def inspected(
        self,
        heard: Sequence[Reply],
        asked: Sequence[str],
        reference: Mapping[str, Mapping[str, Tensor]],
        rules: Firewall,
        *,
        answers: bool = False,
        check: Check | None = None,
    ) -> tuple[list[Reply], dict[str, str]]:
        """The replies that pass the firewall, and why the others do not; see `firewall.inspect`."""
        return inspect(
            heard,
            rules=rules,
            round=self.round,
            asked=asked,
            reference=reference,
            answers=answers,
            check=check,
        )

    def record(
        self,
        task: str,
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
        totals = self.of.totals
        totals.bytes_down += down.total()
        totals.bytes_up += up.total()
        totals.asked += len(asked)
        totals.refused += len(refused)
        totals.left_out += len(left_out or {})
        truncated = [
            f"{r.client}: {r.payload.numbers['truncated']} training samples were cut to fit"
            for r in replies
            if r.payload.numbers.get("truncated")
        ]
        entry = {
            "round": self.round,
            "task": task,
            "asked": asked,
            "answered": [r.client for r in replies],
            "refused": refused,
            "bytes_up": up.total(),
            "bytes_down": down.total(),
            "groups_up": dict(sorted(up.items())),
            "groups_down": dict(sorted(down.items())),
            "seconds": round(time.perf_counter() - began, 4),
            "left_out": dict(left_out or {}),
            "notes": [*truncated, *notes],
        }
        self.entries.append(entry | more)

    def views(
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
