"""The update firewall: every reply is checked before any arithmetic touches it; a refusal has a name and a reason.

A bad client costs its own update and nothing else (docs/decisions/0003-firewall.md).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation.mean import squared_distances
from fedloom.core.payload import Check, Limits, Reply, group_of
from fedloom.core.plain_text import plain
from fedloom.privacy.reply_schema import number_fault

_FAR = 1e9
"""Largest Frobenius norm of a tensor's change: products of two such tensors, squared, still fit float32."""


class Firewall(Limits):
    """Limits on a client's reply."""

    max_text: int = Field(
        500,
        ge=100,
        description="longest text of a client in ledger, report and terminal; the rest is cut off",
    )
    max_examples: int = Field(10_000_000, gt=0, description="largest number of examples a client may claim")
    norm_ratio: float = Field(
        50.0,
        gt=1,
        description="refuse a group's change larger than this times the cohort's median (3 or more holders)",
    )
    max_norm: float | None = Field(
        None,
        gt=0,
        description="refuse a group's change with a larger Frobenius norm than this; none = no absolute cap",
    )


def inspect(
    replies: Sequence[Reply],
    *,
    rules: Firewall,
    round: int,
    asked: Sequence[str],
    reference: Mapping[str, Mapping[str, Tensor]],
    answers: bool = False,
    check: Check | None = None,
    idle: Callable[[Reply], bool] = lambda reply: False,
) -> tuple[list[Reply], dict[str, str]]:
    """Split replies into the accepted ones, ordered by client name, and `{client: reason}` for the refused.

    `reference[client]` holds the tensors that the client may send, as the server has them (names, shapes, dtypes, and the
    point from which a change is measured). A client sends whole groups or leaves them out; all of them only where it is `idle`,
    because no step of this round trains them. With `answers` the replies are no updates but, for example, predictions: every
    name of the reference is required, and norms are not compared. Reasons are plain text of at most `rules.max_text` characters.
    """
    refused: dict[str, str] = {}
    accepted: dict[str, Reply] = {}
    changes: dict[str, dict[str, float]] = {}
    faults = [r.error or _fault(r, rules, round, asked) for r in replies]
    sound = {i: r for i, (r, fault) in enumerate(zip(replies, faults, strict=True)) if fault is None}
    inspected = _changes(
        {i: r.payload.tensors for i, r in sound.items()}, {i: reference[r.client] for i, r in sound.items()}
    )
    for i, reply in enumerate(replies):
        reason = faults[i]
        if reason is None:
            reason, changes[reply.client] = inspected[i]
        if reply.client in accepted or (reply.client in refused and reason is None):
            reason = "duplicate: a second reply in one round"
        if reason is None:
            reason = _missing(reply, reference[reply.client], answers, idle)
        if reason is None and check is not None:
            reason = _checked(reply, check)
        if reason is None:
            accepted[reply.client] = reply
        else:
            refused[reply.client] = reason
            accepted.pop(reply.client, None)
    for client in asked:
        if client not in accepted and client not in refused:
            refused[client] = "missing: no reply"
    if not answers:
        for client, reason in _too_large({c: changes[c] for c in accepted}, rules).items():
            refused[client] = reason
            del accepted[client]
    reasons = {plain(c, rules.max_text): plain(refused[c], rules.max_text) for c in sorted(refused)}
    return [accepted[c] for c in sorted(accepted)], reasons


def _missing(
    reply: Reply, allowed: Mapping[str, Tensor], answers: bool, idle: Callable[[Reply], bool]
) -> str | None:
    """The fault of a reply without tensors that are due, or None."""
    sent = reply.payload.tensors
    if allowed and not sent and not idle(reply):
        return "names: sent no tensors"
    lacking = sorted(set(allowed) - set(sent)) if answers else []
    return f"names: {lacking[0]} is missing" if lacking else None


def _checked(reply: Reply, check: Check) -> str | None:
    """The fault that the method's own check finds, or that it raises."""
    try:
        return check(reply)
    except Exception as error:  # of this client's making
        return f"check: raised {type(error).__name__}: {error}"


def _fault(reply: Reply, rules: Firewall, round: int, asked: Sequence[str]) -> str | None:
    """The first thing wrong with a reply apart from its tensors, or None."""
    if reply.client not in asked:
        return "uninvited: not in this round's cohort"
    return number_fault(reply.payload.numbers, round, rules.max_examples, rules.max_text)


def _wrong_names(tensors: Mapping[str, Tensor], allowed: Mapping[str, Tensor]) -> str | None:
    if tensors.keys() == allowed.keys():
        return None
    if foreign := sorted(set(tensors) - set(allowed)):
        return f"names: sent {foreign[0]}, which it does not share"
    groups = {group_of(name) for name in tensors}
    if lacking := sorted(n for n in allowed if group_of(n) in groups and n not in tensors):
        return f"names: {lacking[0]} is missing from its group"
    return None


def _changes(
    sent: Mapping[int, Mapping[str, Tensor]], references: Mapping[int, Mapping[str, Tensor]]
) -> dict[int, tuple[str | None, dict[str, float]]]:
    """For every reply the first thing wrong with its tensors, or None; and the squared norm of its change by group.

    Each tensor is read once: values that are not finite show in their change. All clients' tensors of one name are compared
    with the server's at once.
    """
    faults = {i: _wrong_names(tensors, references[i]) for i, tensors in sent.items()}
    squares: dict[int, dict[str, float]] = {i: {} for i in sent}
    for name in dict.fromkeys(n for tensors in sent.values() for n in tensors):
        group = group_of(name)
        alike: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}
        for i, tensors in sent.items():
            if faults[i] is not None or name not in tensors:
                continue
            tensor, reference = tensors[name], references[i][name]
            if tensor.shape == reference.shape and tensor.dtype == reference.dtype:
                # Clients of unequal ranks have references of their own.
                alike.setdefault(id(reference), (reference, {}))[1][i] = tensor
            else:
                faults[i] = _wrong_form(name, tensor, reference)
        for reference, own in alike.values():
            for i, change in zip(own, squared_distances(list(own.values()), reference), strict=True):
                squares[i][group] = squares[i].get(group, 0.0) + change
                if not change <= _FAR**2:
                    faults[i] = _wrong_values(name, own[i], change)
    return {i: (faults[i], squares[i]) for i in sent}


def _wrong_form(name: str, tensor: Tensor, reference: Tensor) -> str:
    """The fault of a tensor of another shape or dtype."""
    if tensor.shape != reference.shape:
        return f"shape: {name} is {tuple(tensor.shape)}, {tuple(reference.shape)} is right"
    return f"dtype: {name} is {tensor.dtype}, {reference.dtype} is right"


def _wrong_values(name: str, tensor: Tensor, change: float) -> str:
    """The fault of a tensor whose squared distance to the server's is too large or not finite."""
    if not math.isfinite(change) and not bool(torch.isfinite(tensor).all()):
        return f"not finite: {name} holds NaN or infinity"
    return f"norm: {name} changed by more than {_FAR:g}, with which products overflow"


def _too_large(changes: Mapping[str, Mapping[str, float]], rules: Firewall) -> dict[str, str]:
    """Refusals for a group's change that stands far outside what the cohort sent, or above the absolute cap."""
    squares: dict[str, dict[str, float]] = {}
    for client, by_group in changes.items():
        for group, square in by_group.items():
            squares.setdefault(group, {})[client] = square
    refused: dict[str, str] = {}
    for group, by_client in sorted(squares.items()):
        norms = {client: math.sqrt(value) for client, value in by_client.items()}
        middle = median(norms.values())
        for client, norm in norms.items():
            if rules.max_norm is not None and norm > rules.max_norm:
                refused.setdefault(
                    client, f"norm: {group} changed by {norm:.3g}, at most {rules.max_norm:.3g} is allowed"
                )
            if len(norms) >= 3 and middle > 0 and norm > rules.norm_ratio * middle:
                refused.setdefault(
                    client,
                    f"norm: {group} changed by {norm:.3g}, over {rules.norm_ratio:g} times the median {middle:.3g}",
                )
    return refused
