"""A round's replies as changes of the tensors sent to each client, by group: the input of a robust stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.aggregation import gauge
from fedloom.aggregation.gauge import Step
from fedloom.aggregation.stack import wide
from fedloom.core.payload import Reply, group_of

FIRST, SECOND = "lora_A", "lora_B"


@dataclass(frozen=True)
class Update:
    """One client's reply and the shared tensors sent to it; a name that was not sent counts from zero."""

    reply: Reply
    sent: Mapping[str, Tensor]

    @property
    def client(self) -> str:
        """The client's name."""
        return self.reply.client

    def change(self, name: str) -> Tensor:
        """The client's change of a tensor."""
        tensor = self.reply.payload.tensors[name]
        return tensor - self.sent[name] if name in self.sent else tensor

    def pair(self, place: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(A, B, A_0, B_0) of a place, as sent back and as received."""
        names = (place + FIRST, place + SECOND)
        tensors = self.reply.payload.tensors
        A, B = (tensors[n] for n in names)
        A_0, B_0 = (self.sent.get(n, torch.zeros_like(tensors[n])) for n in names)
        return A, B, A_0, B_0

    def product_change(self, place: str) -> tuple[Tensor, Tensor]:
        """The change of the product as factors (2r, d_in), (d_out, 2r), in the model's scale."""
        A, B = gauge.change(*self.pair(place))
        return A, B * self.reply.ratios.get(group_of(place), 1.0)


@dataclass(frozen=True)
class Group:
    """A group's tensors among the clients that trained it: LoRA pairs by place (`<group>/<layer>.`), and every other name.

    A factor that travels without its partner (frozen, personal, or the other one's turn) stands among the others.
    """

    name: str
    updates: Sequence[Update]
    places: Sequence[str]
    others: Sequence[str]


def groups(updates: Sequence[Update]) -> list[Group]:
    """The groups of a round, in name order."""
    names_by_group: dict[str, dict[str, None]] = {}
    for update in updates:
        for name in update.reply.payload.tensors:
            names_by_group.setdefault(group_of(name), {})[name] = None
    result = []
    for group, names in sorted(names_by_group.items()):
        places = sorted(n[: -len(FIRST)] for n in names if n.endswith("." + FIRST))
        places = [place for place in places if place + SECOND in names]
        paired = {place + factor for place in places for factor in (FIRST, SECOND)}
        own = [u for u in updates if any(group_of(n) == group for n in u.reply.payload.tensors)]
        result.append(Group(group, own, places, sorted(n for n in names if n not in paired)))
    return result


def way(group: Group, update: Update) -> Step:
    """One client's step of the group, with its norm at any share of the way."""
    total = Step()
    for place in group.places:
        A, B, A_0, B_0 = update.pair(place)
        A, B = gauge.in_gauge(A, B, A_0)
        ratio = update.reply.ratios.get(group.name, 1.0)
        total += gauge.step(A, B * ratio, A_0, B_0 * ratio)
    for name in group.others:
        total += Step(linear=float(wide(update.change(name)).square().sum()))
    return total


def at_share(group: Group, update: Update, share: float) -> dict[str, Tensor]:
    """The group's tensors at this share of the client's way; pairs in the server's gauge."""
    tensors: dict[str, Tensor] = {}
    for place in group.places:
        A, B, A_0, B_0 = update.pair(place)
        A, B = gauge.in_gauge(A, B, A_0)
        tensors[place + FIRST], tensors[place + SECOND] = A_0 + share * (A - A_0), B_0 + share * (B - B_0)
    for name in group.others:
        tensor = update.reply.payload.tensors[name]
        tensors[name] = tensor - (1 - share) * update.change(name)
    return tensors
