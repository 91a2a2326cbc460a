"""The update firewall: every reply is checked before any arithmetic touches it; a refusal has a name and a reason.

A bad client costs its own update and nothing else (docs/decisions/0003-firewall.md).
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedloom.aggregation.mean import squared_distance
from fedloom.core.payload import Check, Reply, group_of


class Firewall(BaseModel):
    """Limits on a client's reply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
) -> tuple[list[Reply], dict[str, str]]:
    """Split replies into the accepted ones, ordered by client name, and `{client: reason}` for the refused.

    `reference[client]` holds the tensors that the client may send, as the server has them (names, shapes, dtypes, and the
    point from which a change is measured). A client sends whole groups or leaves them out. With `answers` the replies are no
    updates but, for example, predictions: every name of the reference is required, and norms are not compared.
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
        if reason is None and check is not None:
            reason = check(reply)
        if reason is None:
            accepted[reply.client] = reply
        else:
            refused[reply.client] = reason
            accepted.pop(reply.client, None)
    for client in asked:
        if client not in accepted and client not in refused:
            refused[client] = "missing: no reply"
    if answers:
        lacking = {c: sorted(set(reference[c]) - set(accepted[c].payload.tensors)) for c in accepted}
        for client in [c for c, names in lacking.items() if names]:
            refused[client] = f"names: {lacking[client][0]} is missing"
            del accepted[client]
        return [accepted[c] for c in sorted(accepted)], dict(sorted(refused.items()))
    for client, reason in _too_large({c: changes[c] for c in accepted}, rules).items():
        refused[client] = reason
        del accepted[client]
    return [accepted[c] for c in sorted(accepted)], dict(sorted(refused.items()))


def _fault(reply: Reply, rules: Firewall, round: int, asked: Sequence[str]) -> str | None:
    """The first thing wrong with a reply apart from its tensors, or None."""
    if reply.client not in asked:
        return "uninvited: not in this round's cohort"
    numbers = reply.payload.numbers
    if numbers.get("round") != round:
        return f"stale: answers round {numbers.get('round')}, this is round {round}"
    examples = numbers.get("examples")
    if not isinstance(examples, int) or isinstance(examples, bool) or examples < 1:
        return f"weight: claims {examples!r} examples, a whole number of at least 1 is right"
    if examples > rules.max_examples:
        return f"weight: claims {examples} examples, at most {rules.max_examples} are believed"
    for name, value in numbers.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"not finite: {name} is {value}"
    return None


def _wrong_names(tensors: Mapping[str, Tensor], allowed: Mapping[str, Tensor]) -> str | None:
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

    Each tensor is read once: values that are not finite show in their change. The outer loop is over names, so
    that the server's tensor is read from memory once and not for every client.
    """
    faults = {i: _wrong_names(tensors, references[i]) for i, tensors in sent.items()}
    squares: dict[int, dict[str, float]] = {i: {} for i in sent}
    for name in dict.fromkeys(n for tensors in sent.values() for n in tensors):
        group = group_of(name)
        for i, tensors in sent.items():
            if faults[i] is None and name in tensors:
                faults[i], change = _change(name, tensors[name], references[i][name])
                squares[i][group] = squares[i].get(group, 0.0) + change
    return {i: (faults[i], squares[i]) for i in sent}


def _change(name: str, tensor: Tensor, reference: Tensor) -> tuple[str | None, float]:
    """The fault of a tensor, or None; and its squared distance to the server's."""
    if tensor.shape != reference.shape:
        return f"shape: {name} is {tuple(tensor.shape)}, {tuple(reference.shape)} is right", 0.0
    if tensor.dtype != reference.dtype:
        return f"dtype: {name} is {tensor.dtype}, {reference.dtype} is right", 0.0
    change = squared_distance(tensor, reference)
    if not math.isfinite(change) and not bool(torch.isfinite(tensor).all()):
        return f"not finite: {name} holds NaN or infinity", change
    return None, change


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
