"""A method's `ask`: an exchange, a simulated attack if there is one, the firewall and the robust stage."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fedloom.core.payload import EVERYTHING, Check, Payload, Reply, Scope
from fedloom.core.plain_text import plain
from fedloom.federation.exchange import Exchange, NoReplies, Server
from fedloom.federation.private_ask import private_reply
from fedloom.methods import Method
from fedloom.privacy.robust.attacks import attacked
from fedloom.privacy.robust.stage import Combined, combine

__all__ = ["NoReplies", "RoundAsk"]


@dataclass(frozen=True)
class RoundAsk:
    """`ask` of one round: sends each client its view, checks the replies, and writes the ledger."""

    exchange: Exchange

    @property
    def federation(self) -> Server:
        """The run."""
        return self.exchange.federation

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
        return self.federation.cohort(self.round)

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.federation.experiment.seed

    @property
    def frozen(self) -> Mapping[str, Tensor]:
        """Frozen tensors that server and clients know from the seed."""
        model = self.federation.engine.model
        return {**model.frozen, **self.method.scope.pick(model.start, "frozen")}

    @property
    def unequal(self) -> bool:
        """Whether clients' ranks or scales differ."""
        return self.federation.unequal

    @property
    def tools(self) -> object | None:
        """The server's own models, which the task built."""
        return self.federation.tools

    def note(self, text: str) -> None:
        """Add a note to the last ledger entry of the round."""
        self.exchange.entries[-1]["notes"].append(plain(text))

    @property
    def sums(self) -> bool:
        """Whether privacy restricts the server to sums over clients."""
        return self.federation.experiment.privacy.sums

    def __call__(
        self,
        request: str,
        payload: Payload | Mapping[str, Payload],
        cohort: Sequence[str] | None = None,
        expect: Scope | Mapping[str, Mapping[str, Tensor]] = EVERYTHING,
        check: Check | None = None,
    ) -> list[Reply]:
        """Replies that passed the firewall, ordered by client; raises NoReplies where none did. See `methods.base.method.Ask`."""
        exchange, federation, began = self.exchange, self.federation, time.perf_counter()
        asked = sorted(self.cohort if cohort is None else cohort)
        reference: Mapping[str, Mapping[str, Tensor]]
        server: Mapping[str, Tensor]
        if isinstance(expect, Scope):
            due = Payload(expect.pick(self.method.scope.pick(federation.state.shared, "shared"), "shared"))
            if self.sums:
                return [private_reply(exchange, request, payload, asked, due)]
            reference, server = {c: view.tensors for c, view in exchange.views(asked, due)}, due.tensors
        else:
            reference, server = expect, {}
        arrived, up, down = exchange.send(request, dict(exchange.views(asked, payload)))
        if federation.experiment.attack is not None:
            arrived = attacked(federation.experiment.attack, arrived, federation.attackers, reference)
        answers = not isinstance(expect, Scope)
        replies, refused = exchange.inspected(
            arrived, asked, reference, federation.experiment.firewall, answers=answers, check=check
        )
        combined, rule, failed = Combined(replies), federation.experiment.privacy.robust, None
        if rule is not None:
            try:
                combined = combine(rule, replies, reference, server, federation.uploads.take)
            except Exception as error:  # the ledger comes first; the loop skips the round
                failed = error
        exchange.record(
            request,
            asked,
            replies,
            refused,
            up,
            down,
            began,
            left_out=dict(combined.left_out),
            capped=dict(combined.capped) if self.method.weights == "examples" else {},
            notes=combined.notes,
        )
        if failed is not None:
            raise failed
        if not combined.replies:
            raise NoReplies
        federation.replies = combined.replies
        return combined.replies
