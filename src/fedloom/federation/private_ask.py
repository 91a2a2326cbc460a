"""What stands between a method's `ask` and the clients under `privacy`: one reply, the mean of many, instead of theirs."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedloom.core.payload import Payload, Reply, group_of

if TYPE_CHECKING:
    from fedloom.federation.ask import RoundAsk

    pass


class NoReplies(Exception):  # noqa: N818 - not an error: the round simply has nothing to combine
    """Not one usable reply came back."""


def private_reply(
    ask: "RoundAsk", task: str, payload: Payload | Mapping[str, Payload], asked: Sequence[str], due: Payload
) -> Reply:
    """The mean of the clients' replies, all that the method gets to see. Raises NoReplies where there is none.

    `due` are the tensors that are summed; changes are measured from the payload's tensors of these names.
    """
    if not isinstance(payload, Payload):
        raise TypeError(f"method {ask.method.name} sends each client something else; that cannot be summed")
    of, settings = ask.of, ask.of.experiment.privacy
    reply = (
        _secure(ask, task, payload, asked, due) if settings.secure else _plain(ask, task, payload, asked, due)
    )
    of.replies = []  # there are none that could be compared
    if "loss" in reply.payload.numbers:
        of.told["train/loss"] = float(reply.payload.numbers["loss"])
    return reply


def _secure(ask: "RoundAsk", task: str, payload: Payload, asked: Sequence[str], due: Payload) -> Reply:
    """By secure summation; the server never holds what one client sent."""
    from fedloom.privacy.secure.protocol import Abandoned
    from fedloom.privacy.secure.server import SecureSum

    began, settings = time.perf_counter(), ask.of.experiment.privacy
    assert settings.secure is not None  # noqa: S101
    views = dict(ask.views(asked, payload))
    layouts = {c: {n: tuple(t.shape) for n, t in v.tensors.items()} for c, v in ask.views(asked, due)}
    expected = _expected(ask) if settings.dp else None
    summing = SecureSum(settings.secure, ask.exchange, ask.round, layouts, expected)
    reply: Reply | None = None
    try:
        reply = summing.mean(task, views, payload.tensors)
    except Abandoned as reason:
        summing.record.notes.append(f"secure sum: {reason}")
    done = summing.record
    if reply is None:
        unused = "not used: the secure sum was abandoned"
        done.lost |= {c: unused for c in asked if c not in done.lost}
    ask.record(
        task,
        asked,
        [],
        done.lost,
        done.up,
        done.down,
        began,
        answered=done.inside if reply else [],
        phases=done.phases,
        notes=done.notes,
        **_spent(ask),
    )
    if reply is None:
        raise NoReplies
    return reply


def _plain(ask: "RoundAsk", task: str, payload: Payload, asked: Sequence[str], due: Payload) -> Reply:
    """The server sees the replies, and the method their private mean."""
    from fedloom.privacy.differential.private_mean import private_mean

    began, experiment = time.perf_counter(), ask.of.experiment
    dp = experiment.privacy.dp
    assert dp is not None  # noqa: S101
    heard, up, down = ask.exchange(task, dict(ask.views(asked, payload)))
    # The median of the cohort depends on everybody: one client more could change who else is refused.
    rules = experiment.firewall.model_copy(update={"norm_ratio": float("inf")})
    reference = {c: view.tensors for c, view in ask.views(asked, due)}
    replies, refused = ask.inspected(heard, asked, reference, rules)
    ask.record(task, asked, replies, refused, up, down, began, **_spent(ask))
    expected = _expected(ask)
    layout = {n: tuple(t.shape) for n, t in due.tensors.items() if group_of(n) in expected}
    stream = (ask.seed, ("dp", ask.round, task)) if dp.seeded else None
    return private_mean(replies, payload.tensors, layout, dp, expected, stream)


def _expected(ask: "RoundAsk") -> dict[str, float]:
    """q K_g: how many holders of each group are expected in a round."""
    rate = ask.of.experiment.cohort.fraction
    held: dict[str, float] = {}
    for client in ask.of.clients.values():
        for group in client.groups:
            held[group] = held.get(group, 0.0) + rate
    return held


def _spent(ask: "RoundAsk") -> dict[str, Any]:
    """The budget spent with this round, for the ledger."""
    accountant = ask.of.accountant
    return {} if accountant is None else {"epsilon": round(accountant.epsilon(ask.round), 6)}
