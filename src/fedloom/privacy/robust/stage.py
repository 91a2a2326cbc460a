"""Robust combination, as a stage between firewall and method: replies in, replies out, so that any linear method works unchanged.

Papers: norm bounds, Sun et al., "Can You Really Backdoor Federated Learning?", 2019; coordinate median and trimmed mean, Yin et
al. (ICML 2018); multi-Krum, Blanchard et al. (NeurIPS 2017). Everything is measured on changes of what a client was sent, and on
a LoRA pair that is the change of the *product* B A (`aggregation/robust.py`, `aggregation/gauge.py`).

Deliberate differences:
- Each group (an encoder's adapters, the projector, the LLM's) is judged by itself and among those that trained it: a client
  without pictures says nothing about an image encoder.
- Clients count alike in a median, a trimmed mean and Krum: a weight that a client claims must not buy it votes.
- Pairs go to the method in the server's gauge, because a client that chooses it leads methods that average A and B separately.
- A factor without its partner, VeRA's vectors, projectors, heads and prompts are taken coordinate by coordinate as they are.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median, median_low
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedloom.aggregation import gauge, robust
from fedloom.aggregation.stack import wide
from fedloom.core.payload import Payload, Reply
from fedloom.privacy.robust.updates import FIRST, SECOND, Group, Update, at_share, groups, way

COMBINED = "combined"
"""The client's name in the one reply of a median or trimmed mean."""
Keep = Callable[[Reply], Reply]


@dataclass(frozen=True)
class Combined:
    """The replies for the method; for the ledger, who was left out of which groups and whose weight was capped, and notes."""

    replies: list[Reply]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    capped: Mapping[str, str] = field(default_factory=dict)


class RobustRule(BaseModel):
    """Base of every rule. A subclass has a field `kind: Literal["<name>"]` and writes `apply`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    TAG: ClassVar[str] = "kind"
    """The field that names the rule."""

    claims: float = Field(
        3.0,
        ge=1,
        description="a client's claimed examples count for at most this times the cohort's median",
    )

    kind: str
    """Name in experiment files."""

    @classmethod
    def rule_name(cls) -> str:
        """The name in `privacy.robust.kind`."""
        return str(cls.model_fields["kind"].default)

    @classmethod
    def registered(cls, fields: Mapping[str, Any]) -> "type[RobustRule]":
        """The rule that a mapping names. Raises ValueError for none, and for one that is not registered."""
        if "kind" not in fields:
            raise ValueError("must say its kind; docs/security.md names them")
        if not isinstance(fields["kind"], str) or fields["kind"] not in RULES:
            raise ValueError(f"there is no rule {fields['kind']!r}; known are {', '.join(RULES)}")
        return RULES[fields["kind"]]

    @property
    def least(self) -> int:
        """The least number of clients in a round for the rule to have an effect."""
        return 1

    @abstractmethod
    def apply(self, updates: Sequence[Update], server: Mapping[str, Tensor], keep: Keep) -> Combined:
        """The replies that the method gets; `keep` takes each as it is made. `server` holds the server's tensors."""


class NormBound(RobustRule):
    """Each client's change of a group is shortened to `bound`, along the factors' straight way in the server's gauge."""

    kind: Literal["norm_bound"] = "norm_bound"
    bound: float | None = Field(
        None,
        gt=0,
        description="largest norm of a client's change of a group; none = the median over those that trained it, the lower one "
        "of two",
    )

    def apply(self, updates: Sequence[Update], server: Mapping[str, Tensor], keep: Keep) -> Combined:
        """As many replies as before; notes name the shortened clients and to which share."""
        shares: dict[str, dict[str, float]] = {u.client: {} for u in updates}
        round_groups = groups(updates)
        for group in round_groups:
            ways = [way(group, u) for u in group.updates]
            norms = [w.norm() for w in ways]
            bound = median_low(norms) if self.bound is None else self.bound
            for update, path in zip(group.updates, ways, strict=True):
                shares[update.client][group.name] = path.share(bound)
        replies, notes = [], []
        for update in updates:
            group_shares = shares[update.client]
            tensors: dict[str, Tensor] = {}
            for group in round_groups:
                if group.name in group_shares:
                    tensors |= at_share(group, update, group_shares[group.name])
            replies.append(keep(_with(update.reply, tensors)))
            if shortened := ", ".join(f"{g} to {s:.2g}" for g, s in group_shares.items() if s < 1):
                notes.append(f"{update.client}: change shortened, {shortened} of its way")
        return Combined(replies, notes=notes)


class Median(RobustRule):
    """The coordinate median of the clients' changes, as one reply that stands for all."""

    kind: Literal["median"] = "median"

    def apply(self, updates: Sequence[Update], server: Mapping[str, Tensor], keep: Keep) -> Combined:
        """One reply, the median of all."""
        return _one_reply(updates, server, lambda holders: robust.median, keep)


class TrimmedMean(RobustRule):
    """The coordinate mean of the clients' changes without the largest and smallest, as one reply that stands for all."""

    kind: Literal["trimmed_mean"] = "trimmed_mean"
    byzantine: int = Field(1, ge=0, description="number of smallest and of largest values that are cut off")

    @property
    def least(self) -> int:
        """2 byzantine + 1, so that one value is left."""
        return 2 * self.byzantine + 1

    def apply(self, updates: Sequence[Update], server: Mapping[str, Tensor], keep: Keep) -> Combined:
        """One reply; where fewer than 2 byzantine + 1 hold a group, the cut is lowered to leave at least one value."""

        def rule(holders: int) -> robust.Rule:
            return partial(robust.trimmed_mean, cut=min(self.byzantine, (holders - 1) // 2))

        combined = _one_reply(updates, server, rule, keep)
        few = [g for g in groups(updates) if len(g.updates) < self.least]
        notes = [f"{g.name}: only {len(g.updates)} hold it, fewer than byzantine are cut" for g in few]
        return replace(combined, notes=notes)


class MultiKrum(RobustRule):
    """In each group the replies that lie closest together, the others left out."""

    kind: Literal["multi_krum"] = "multi_krum"
    byzantine: int = Field(
        1, ge=0, description="f, number of clients that may be hostile; needs 2 f + 3 holders"
    )
    keep: int | None = Field(
        None, ge=1, description="number of replies of a group that are kept; none = all but byzantine"
    )

    @property
    def least(self) -> int:
        """Krum's condition, 2 byzantine + 3."""
        return 2 * self.byzantine + 3

    def apply(self, updates: Sequence[Update], server: Mapping[str, Tensor], keep: Keep) -> Combined:
        """The replies without the groups from which they were left out; a group with too few holders is not judged."""
        out: dict[str, dict[str, str]] = {u.client: {} for u in updates}
        notes = []
        for group in groups(updates):
            if len(group.updates) < self.least:
                notes.append(
                    f"{group.name}: not judged by multi_krum, {len(group.updates)} hold it and "
                    f"{self.least} are needed"
                )
                continue
            squared = _squared_distances(group)
            scores = robust.krum_scores(squared, self.byzantine).sqrt()
            size = min(self.keep or len(group.updates), len(group.updates) - self.byzantine)
            kept = robust.multi_krum(squared.sqrt(), self.byzantine, size)
            for i, update in enumerate(group.updates):
                if i not in kept:
                    reason = f"score {float(scores[i]):.3g}, median {float(scores.median()):.3g}"
                    out[update.client][group.name] = reason
        replies = []
        for update in updates:
            tensors: dict[str, Tensor] = {}
            for group in groups([update]):
                if group.name not in out[update.client]:
                    tensors |= at_share(group, update, 1.0)
            if tensors or not update.reply.payload.tensors:
                replies.append(keep(_with(update.reply, tensors)))
        left_out = {
            client: "multi_krum: far from the others in "
            + ", ".join(f"{group} ({reason})" for group, reason in sorted(reasons.items()))
            for client, reasons in out.items()
            if reasons
        }
        return Combined(replies, left_out, notes)


RULES: dict[str, type[RobustRule]] = {r.rule_name(): r for r in (NormBound, Median, TrimmedMean, MultiKrum)}
"""Every rule by its name in `privacy.robust.kind`."""


def combine(
    rule: RobustRule,
    replies: Sequence[Reply],
    sent: Mapping[str, Mapping[str, Tensor]],
    server: Mapping[str, Tensor],
    keep: Keep = lambda reply: reply,
) -> Combined:
    """The replies after the robust stage, for the method.

    `sent[client]` are the shared tensors sent to that client, `server` the server's own;
    `keep` takes each new reply, one after another, and returns the one to hold.
    """
    if not replies:
        return Combined([])
    most = int(rule.claims * median_low([r.examples for r in replies]))
    believed = [_claiming(r, min(r.examples, most)) for r in replies]
    combined = rule.apply([Update(r, sent[r.client]) for r in believed], server, keep)
    capped = {r.client: f"claims {r.examples} examples, {most} count" for r in replies if r.examples > most}
    return replace(combined, capped=capped)


def _one_reply(
    updates: Sequence[Update],
    server: Mapping[str, Tensor],
    rule_for: Callable[[int], robust.Rule],
    keep: Keep,
) -> Combined:
    """Every tensor by the rule for its number of holders, in the server's shapes and gauge."""
    tensors: dict[str, Tensor] = {}
    for group in groups(updates):
        rule = rule_for(len(group.updates))
        for place in group.places:
            tensors |= _pair(place, group, server, rule)
        for name in group.others:
            like = server.get(name, group.updates[0].reply.payload.tensors[name])
            changes = torch.stack([_fitted(u.change(name), like) for u in group.updates])
            middle = rule(wide(changes)).to(like.dtype)
            tensors[name] = like + middle if name in server else middle
    numbers = _middle([u.reply.payload.numbers for u in updates])
    numbers["examples"] = sum(u.reply.examples for u in updates)
    return Combined([keep(Reply(COMBINED, Payload(tensors, numbers)))])


def _pair(place: str, group: Group, server: Mapping[str, Tensor], rule: robust.Rule) -> dict[str, Tensor]:
    """The server's product plus the rule over the products' changes, cut to the server's rank."""
    A_0, B_0 = server[place + FIRST], server[place + SECOND]
    A_k, B_k = zip(*(u.product_change(place) for u in group.updates), strict=True)
    A, B = robust.combine_products(A_k, B_k, rule)
    A, B = robust.cut(torch.cat([A, A_0]), torch.cat([B, B_0], dim=1), len(A_0))
    A, B = gauge.in_gauge(A, B, A_0)
    return {place + FIRST: A, place + SECOND: B}


def _squared_distances(group: Group) -> Tensor:
    """(K, K): squared distances between the changes of one group, products for pairs; one layer in memory at a time."""
    k = len(group.updates)
    total = torch.zeros(k, k, dtype=torch.float64)
    for place in group.places:
        A_k, B_k = zip(*(u.product_change(place) for u in group.updates), strict=True)
        total += robust.squared_distances(robust.inner_products(A_k, B_k)).cpu()
    for name in group.others:
        changes = [u.change(name) for u in group.updates]
        like = max(changes, key=Tensor.numel)
        flat = wide(torch.stack([_fitted(c, like) for c in changes])).flatten(1)
        total += robust.squared_distances(flat @ flat.T).cpu()
    return total


def _fitted(change: Tensor, like: Tensor) -> Tensor:
    """The change in the shape of `like`; rows and columns that a client of lower rank lacks did not change."""
    missing = [
        m for have, want in zip(change.shape[::-1], like.shape[::-1], strict=True) for m in (0, want - have)
    ]
    return torch.nn.functional.pad(change, missing) if any(missing) else change


def _middle(numbers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median of every number that all replies hold; whole numbers stay whole."""
    medians: dict[str, Any] = {}
    for name in numbers[0]:
        values = [n[name] for n in numbers if type(n.get(name)) in (int, float)]
        if len(values) == len(numbers):
            whole = all(isinstance(v, int) for v in values)
            medians[name] = median_low(values) if whole else median(values)
    return medians


def _with(reply: Reply, tensors: Mapping[str, Tensor]) -> Reply:
    return replace(reply, payload=Payload(tensors, reply.payload.numbers))


def _claiming(reply: Reply, examples: int) -> Reply:
    numbers = {**reply.payload.numbers, "examples": examples}
    return replace(reply, payload=Payload(reply.payload.tensors, numbers))
