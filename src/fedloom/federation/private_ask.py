"""`ask` under privacy: the method receives one reply, the mean over the clients."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, Reply, group_of
from fedloom.federation.exchange import Exchange, NoReplies
from fedloom.models.training.settings import ANY_STEPS
from fedloom.privacy.differential.quantile import BELOW


def private_reply(
    exchange: Exchange,
    request: str,
    payload: Payload | Mapping[str, Payload],
    asked: Sequence[str],
    due: Payload,
) -> Reply:
    """The mean of the clients' replies. Raises NoReplies where there is none.

    `due` holds the tensors to be summed; changes are measured from the payload's tensors of these names.
    """
    if not isinstance(payload, Payload):
        raise TypeError(
            f"method {exchange.method.name} sends each client something else; that cannot be summed"
        )
    federation = exchange.federation
    mechanism = federation.mechanism
    if mechanism is not None and len(exchange.entries) >= mechanism.sums:
        raise ExperimentError(
            f"method {exchange.method.name} asks for more than {mechanism.sums} sums in a round, which its combination "
            f"{exchange.method.combination} does not say; their noise would not be accounted"
        )
    clip = 0.0 if mechanism is None else mechanism.clip(request)
    reply = (
        _secure(exchange, request, payload, asked, due)
        if federation.experiment.privacy.secure
        else _plain(exchange, request, payload, asked, due)
    )
    if mechanism is not None and mechanism.adaptive:
        federation.noted_metrics.setdefault("privacy/clip", clip)
    federation.replies = []  # diagnostics compare single replies
    if "loss" in reply.payload.numbers:
        federation.noted_metrics["train/loss"] = float(reply.payload.numbers["loss"])
    return reply


def _secure(exchange: Exchange, request: str, payload: Payload, asked: Sequence[str], due: Payload) -> Reply:
    """The mean by secure summation; the server never holds a single client's tensors."""
    from fedloom.privacy.noise_refusals import largest_clip
    from fedloom.privacy.secure.protocol import Abandoned
    from fedloom.privacy.secure.server import SecureSum

    began, settings = time.perf_counter(), exchange.federation.experiment.privacy
    assert settings.secure is not None  # noqa: S101
    views = dict(exchange.views(asked, payload))
    layouts = {c: {n: tuple(t.shape) for n, t in v.tensors.items()} for c, v in exchange.views(asked, due)}
    expected, mechanism = _expected(exchange) if settings.dp else None, exchange.federation.mechanism
    clip = mechanism.clip(request) if mechanism is not None and mechanism.adaptive else None
    if expected is not None and clip is not None:
        layouts = {c: {**layout, BELOW: (1,)} for c, layout in layouts.items()}
        expected[group_of(BELOW)] = _clients(exchange)
    summing = SecureSum(
        settings.secure,
        exchange.send,
        exchange.round,
        layouts,
        expected,
        lambda client: any(exchange.idle(client, layouts[client], steps) for steps in ANY_STEPS),
        exchange.federation.public_keys(),
        clip,
    )
    reply: Reply | None = None
    try:
        reply = summing.mean(request, views, payload.tensors)
    except Abandoned as reason:
        summing.record.notes.append(f"secure sum: {reason}")
    except ExperimentError:
        raise
    except Exception as error:  # the messages made it raise; the sum is lost, the run is not
        summing.record.notes.append(f"secure sum: raised {type(error).__name__}: {error}")
    record = summing.record
    exchange.federation.totals.closed_sums += len(record.closed)
    if reply is None:
        unused = "not used: the secure sum was abandoned"
        record.lost |= {c: unused for c in asked if c not in record.lost}
    exchange.record(
        request,
        asked,
        [],
        record.lost,
        record.up,
        record.down,
        began,
        answered=record.inside if reply else [],
        phases=record.phases,
        notes=record.notes,
        **_spent(exchange, request),
    )
    if reply is None:
        raise NoReplies
    if mechanism is None or clip is None:
        return reply
    tensors = dict(reply.payload.tensors)
    share = 0.5 + float(tensors.pop(BELOW))
    mechanism.learn(request, share, largest_clip(mechanism.dp, settings.secure))
    counts = {g: n for g, n in reply.counts.items() if g != group_of(BELOW)}
    return replace(reply, payload=Payload(tensors, reply.payload.numbers), counts=counts)


def _plain(exchange: Exchange, request: str, payload: Payload, asked: Sequence[str], due: Payload) -> Reply:
    """The server sees the replies; the method sees their differentially private mean."""
    from fedloom.privacy.differential.private_mean import private_mean

    began, experiment = time.perf_counter(), exchange.federation.experiment
    mechanism = exchange.federation.mechanism
    assert mechanism is not None  # noqa: S101
    arrived, up, down = exchange.send(request, dict(exchange.views(asked, payload)))
    # The cohort's median norm depends on every client: one more client could change which others are refused.
    rules = experiment.firewall.model_copy(update={"norm_ratio": float("inf")})
    reference = {c: view.tensors for c, view in exchange.views(asked, due)}
    replies, refused = exchange.inspected(arrived, asked, reference, rules)
    exchange.record(request, asked, replies, refused, up, down, began, **_spent(exchange, request))
    expected = _expected(exchange)
    layout = {n: tuple(t.shape) for n, t in due.tensors.items() if group_of(n) in expected}
    noise = partial(mechanism.noise, exchange.round, request)
    clip = mechanism.clip(request)
    mean, below = private_mean(replies, payload.tensors, layout, clip, noise, expected)
    if mechanism.adaptive:
        share = 0.5 + (below + mechanism.count_noise(exchange.round, request)) / _clients(exchange)
        mechanism.learn(request, share)
    return mean


def _clients(exchange: Exchange) -> float:
    """q K: the expected number of clients in a round."""
    return exchange.federation.experiment.cohort.fraction * len(exchange.federation.clients)


def _expected(exchange: Exchange) -> dict[str, float]:
    """q K_g: the expected number of holders of each group in a round."""
    rate = exchange.federation.experiment.cohort.fraction
    holders: dict[str, float] = {}
    for client in exchange.federation.clients.values():
        for group in client.groups:
            holders[group] = holders.get(group, 0.0) + rate
    return holders


def _spent(exchange: Exchange, request: str) -> dict[str, Any]:
    """The clip of this sum where it is adaptive, and the privacy budget spent up to this round, for the ledger."""
    mechanism = exchange.federation.mechanism
    if mechanism is None:
        return {}
    clip = {"clip": mechanism.clip(request)} if mechanism.adaptive else {}
    return clip | {"epsilon": round(mechanism.accountant.epsilon(exchange.round), 6)}
