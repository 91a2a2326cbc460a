"""`ask` under privacy: one reply, the mean of many clients', in place of theirs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from fedloom.core.payload import Payload, Reply, group_of
from fedloom.federation.exchange import Exchange, NoReplies


def private_reply(
    exchange: Exchange,
    request: str,
    payload: Payload | Mapping[str, Payload],
    asked: Sequence[str],
    due: Payload,
) -> Reply:
    """The mean of the clients' replies, which is all that the method sees. Raises NoReplies where there is none.

    `due` are the tensors that are summed; changes are measured from the payload's tensors of these names.
    """
    if not isinstance(payload, Payload):
        raise TypeError(
            f"method {exchange.method.name} sends each client something else; that cannot be summed"
        )
    of, settings = exchange.of, exchange.of.experiment.privacy
    reply = (
        _secure(exchange, request, payload, asked, due)
        if settings.secure
        else _plain(exchange, request, payload, asked, due)
    )
    of.replies = []  # there are none that could be compared
    if "loss" in reply.payload.numbers:
        of.told["train/loss"] = float(reply.payload.numbers["loss"])
    return reply


def _secure(exchange: Exchange, request: str, payload: Payload, asked: Sequence[str], due: Payload) -> Reply:
    """By secure summation; the server never holds what one client sent."""
    from fedloom.privacy.secure.protocol import Abandoned
    from fedloom.privacy.secure.server import SecureSum

    began, settings = time.perf_counter(), exchange.of.experiment.privacy
    assert settings.secure is not None  # noqa: S101
    views = dict(exchange.views(asked, payload))
    layouts = {c: {n: tuple(t.shape) for n, t in v.tensors.items()} for c, v in exchange.views(asked, due)}
    expected = _expected(exchange) if settings.dp else None
    summing = SecureSum(settings.secure, exchange.send, exchange.round, layouts, expected)
    reply: Reply | None = None
    try:
        reply = summing.mean(request, views, payload.tensors)
    except Abandoned as reason:
        summing.record.notes.append(f"secure sum: {reason}")
    done = summing.record
    if reply is None:
        unused = "not used: the secure sum was abandoned"
        done.lost |= {c: unused for c in asked if c not in done.lost}
    exchange.record(
        request,
        asked,
        [],
        done.lost,
        done.up,
        done.down,
        began,
        answered=done.inside if reply else [],
        phases=done.phases,
        notes=done.notes,
        **_spent(exchange),
    )
    if reply is None:
        raise NoReplies
    return reply


def _plain(exchange: Exchange, request: str, payload: Payload, asked: Sequence[str], due: Payload) -> Reply:
    """The server sees the replies, and the method their private mean."""
    from fedloom.privacy.differential.private_mean import private_mean

    began, experiment = time.perf_counter(), exchange.of.experiment
    dp = experiment.privacy.dp
    assert dp is not None  # noqa: S101
    heard, up, down = exchange.send(request, dict(exchange.views(asked, payload)))
    # The median of the cohort depends on everybody: one client more could change who else is refused.
    rules = experiment.firewall.model_copy(update={"norm_ratio": float("inf")})
    reference = {c: view.tensors for c, view in exchange.views(asked, due)}
    replies, refused = exchange.inspected(heard, asked, reference, rules)
    exchange.record(request, asked, replies, refused, up, down, began, **_spent(exchange))
    expected = _expected(exchange)
    layout = {n: tuple(t.shape) for n, t in due.tensors.items() if group_of(n) in expected}
    stream = (exchange.of.experiment.seed, ("dp", exchange.round, request)) if dp.seeded else None
    return private_mean(replies, payload.tensors, layout, dp, expected, stream)


def _expected(exchange: Exchange) -> dict[str, float]:
    """q K_g: how many holders of each group are expected in a round."""
    rate = exchange.of.experiment.cohort.fraction
    held: dict[str, float] = {}
    for client in exchange.of.clients.values():
        for group in client.groups:
            held[group] = held.get(group, 0.0) + rate
    return held


def _spent(exchange: Exchange) -> dict[str, Any]:
    """The budget spent with this round, for the ledger."""
    accountant = exchange.of.accountant
    return {} if accountant is None else {"epsilon": round(accountant.epsilon(exchange.round), 6)}
