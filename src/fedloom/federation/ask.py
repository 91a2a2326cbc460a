"""A round's `ask`, as a method sees it: an exchange, then the firewall, a simulated attack and the robust stage."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from fedloom.core.payload import EVERYTHING, Check, Payload, Reply, Scope
from fedloom.federation.exchange import Exchange, NoReplies
from fedloom.federation.private_ask import private_reply
from fedloom.methods import Method
from fedloom.privacy.robust.attacks import attacked
from fedloom.privacy.robust.stage import Combined, combine

if TYPE_CHECKING:
    from fedloom.federation.loop import Federation


__all__ = ["NoReplies", "RoundAsk"]


@dataclass(frozen=True)
class RoundAsk:
    """`ask` of one round: sends each client its part, checks what comes back, writes the ledger."""

    exchange: Exchange

    @property
    def of(self) -> "Federation":
        """The run."""
        return self.exchange.of

    @property
    def method(self) -> Method:
        """The round's method."""
        return self.exchange.method

    @property
    def round(self) -> int:
        """The round's number, from 1."""
        return self.exchange.round

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
        """The server's own models, which the task built."""
        return self.of.tools

    def note(self, text: str) -> None:
        """Put a remark into the ledger, beside the last question of the round."""
        self.exchange.entries[-1]["notes"].append(text)

    @property
    def sums(self) -> bool:
        """Whether privacy lets the server see nothing but sums over clients."""
        return self.of.experiment.privacy.sums

    def __call__(
        self,
        request: str,
        payload: Payload | Mapping[str, Payload],
        cohort: Sequence[str] | None = None,
        expect: Scope | Mapping[str, Mapping[str, Tensor]] = EVERYTHING,
        check: Check | None = None,
    ) -> list[Reply]:
        """Replies that passed the firewall, ordered by client; raises NoReplies where none did. See `methods.base.method.Ask`."""
        exchange, of, began = self.exchange, self.of, time.perf_counter()
        asked = sorted(self.cohort if cohort is None else cohort)
        reference: Mapping[str, Mapping[str, Tensor]]
        server: Mapping[str, Tensor]
        if isinstance(expect, Scope):
            due = Payload(expect.pick(self.method.scope.pick(of.state.shared, "shared"), "shared"))
            if self.sums:
                return [private_reply(exchange, request, payload, asked, due)]
            reference, server = {c: view.tensors for c, view in exchange.views(asked, due)}, due.tensors
        else:
            reference, server = expect, {}
        arrived, up, down = exchange.send(request, dict(exchange.views(asked, payload)))
        if of.experiment.attack is not None:
            arrived = attacked(of.experiment.attack, arrived, of.attackers, reference)
        answers = not isinstance(expect, Scope)
        replies, refused = exchange.inspected(
            arrived, asked, reference, of.experiment.firewall, answers=answers, check=check
        )
        combined, rule = Combined(replies), of.experiment.privacy.robust
        if rule is not None:
            combined = combine(rule, replies, reference, server, of.uploads.take)
        exchange.record(
            request,
            asked,
            replies,
            refused,
            up,
            down,
            began,
            left_out=dict(combined.left_out),
            notes=combined.notes,
        )
        if not combined.replies:
            raise NoReplies
        of.replies = combined.replies
        return combined.replies
