"""Simulated attacks on a federation: named clients send, or train on, an adversary's choice.

Papers: scaled update and backdoor, Bagdasaryan et al., "How To Backdoor Federated Learning", AISTATS 2020; collusion, Baruch et
al., "A Little Is Enough", NeurIPS 2019; label flip, Tolpegin et al. (ESORICS 2020). A run with an attack says so in its status.

Deliberate differences: attackers act on the shared tensors themselves (LoRA factors, a projector); colluders know each
other's honest updates and nobody else's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, Reply
from fedloom.core.settings_tree import ReadWith
from fedloom.core.shares import at_least
from fedloom.core.streams import torch_stream
from fedloom.data import poison
from fedloom.data.client_data import ClientData

Sent = Mapping[str, Mapping[str, Tensor]]
"""The shared tensors sent to each client, by its name."""


class _Attack(BaseModel):
    """The choice of attackers. A subclass changes their replies, their training data, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clients: tuple[str, ...] = Field(
        (), description="attackers by name or pattern, such as [image-01, image-02]; none = a drawn share"
    )
    share: Annotated[float, ReadWith(".clients", ((),))] = Field(
        0.25, gt=0, le=1, description="share of the clients that attack, drawn with the seed, rounded up"
    )

    @property
    def replies_differ(self) -> bool:
        """Whether an attacker's reply is not what it has trained."""
        return type(self).send is not _Attack.send

    def attackers(self, names: Sequence[str], seed: int) -> list[str]:
        """The attackers among the clients that train. Raises ExperimentError for a pattern that names nobody."""
        for pattern in self.clients:
            if not any(fnmatch(name, pattern) for name in names):
                raise ExperimentError(
                    f"attack.clients: no client that trains is called {pattern}; there are {names[0]} ..."
                )
        if self.clients:
            return sorted(n for n in names if any(fnmatch(n, pattern) for pattern in self.clients))
        order = torch.randperm(len(names), generator=torch_stream(seed, "attackers")).tolist()
        ordered = sorted(names)
        return sorted(ordered[i] for i in order[: at_least(self.share, len(names))])

    def send(self, replies: Sequence[Reply], sent: Sent) -> list[Reply]:
        """The attackers' replies in place of these honest ones."""
        return list(replies)

    def learn(self, data: ClientData) -> ClientData:
        """An attacker's data with other training samples; its test samples stay."""
        return data


class NaN(_Attack):
    """Every tensor is NaN."""

    kind: Literal["nan"]

    def send(self, replies: Sequence[Reply], sent: Sent) -> list[Reply]:
        """Replies in which every number is NaN."""
        return [_with(r, {n: torch.full_like(t, math.nan) for n, t in _tensors(r).items()}) for r in replies]


class Inflate(_Attack):
    """An honest update that claims more examples than it was trained on."""

    kind: Literal["inflate"]
    examples: int = Field(10_000_000, ge=1, description="number of examples that are claimed")

    def send(self, replies: Sequence[Reply], sent: Sent) -> list[Reply]:
        """The same tensors, another weight."""
        return [
            replace(r, payload=Payload(r.payload.tensors, {**r.payload.numbers, "examples": self.examples}))
            for r in replies
        ]


class SignFlip(_Attack):
    """The change of every tensor with its sign flipped."""

    kind: Literal["sign_flip"]
    factor: float = Field(1.0, gt=0, description="size of the turned change, relative to the honest one")

    def send(self, replies: Sequence[Reply], sent: Sent) -> list[Reply]:
        """W - factor (W_k - W)."""
        return [_moved(r, sent[r.client], -self.factor) for r in replies]


class Scale(_Attack):
    """The change of every tensor made larger."""

    kind: Literal["scale"]
    factor: float = Field(10.0, gt=0, description="size of the change, relative to the honest one")

    def send(self, replies: Sequence[Reply], sent: Sent) -> list[Reply]:
        """W + factor (W_k - W)."""
        return [_moved(r, sent[r.client], self.factor) for r in replies]


class Collude(_Attack):
    """All colluders send the mean of their honest updates, shifted by z standard deviations in every coordinate."""

    kind: Literal["collude"]
    z: float = Field(1.5, gt=0, description="shift of the mean, in standard deviations")

    def attackers(self, names: Sequence[str], seed: int) -> list[str]:
        """At least two. Raises ExperimentError for fewer."""
        attackers = super().attackers(names, seed)
        if len(attackers) < 2:
            raise ExperimentError(
                "attack: collude needs at least two attackers; name more clients, or raise attack.share"
            )
        return attackers

    def send(self, replies: Sequence[Reply], sent: Sent) -> list[Reply]:
        """mean - z sd, over the colluders that hold a tensor."""
        tensors: dict[str, Tensor] = {}
        for name in sorted({n for r in replies for n in _tensors(r)}):
            own = torch.stack([_tensors(r)[name] for r in replies if name in _tensors(r)])
            tensors[name] = own.mean(0) - self.z * own.std(0, unbiased=False)
        return [_with(r, {n: tensors[n] for n in _tensors(r)}) for r in replies]


class LabelFlip(_Attack):
    """Honest training on wrong answers: every sample gets the answer of another sample to the same question."""

    kind: Literal["label_flip"]

    def learn(self, data: ClientData) -> ClientData:
        """Training samples with exchanged answers."""
        return replace(data, train=poison.flipped(data.train))


class Backdoor(_Attack):
    """Training that ties a small patch in the picture to one fixed answer, whatever the question."""

    kind: Literal["backdoor"]
    answer: str = Field("no there is not", min_length=1, description="the answer that the patch calls up")
    poisoned: float = Field(
        0.5, gt=0, le=1, description="share of an attacker's samples with pictures that it poisons"
    )
    patch: float = Field(
        0.17, gt=0, le=1, description="side of the patch, as a share of the picture's height"
    )
    boost: float = Field(
        1.0, gt=0, description="size of the change that is sent, relative to the trained one"
    )

    @property
    def replies_differ(self) -> bool:
        """Whether the trained change is made larger."""
        return self.boost != 1

    def send(self, replies: Sequence[Reply], sent: Sent) -> list[Reply]:
        """The update that training on poisoned data gave, made larger by `boost`."""
        return [_moved(r, sent[r.client], self.boost) for r in replies] if self.boost != 1 else list(replies)

    def learn(self, data: ClientData) -> ClientData:
        """A share of the pictures with the patch and the fixed answer."""
        return replace(data, train=poison.patched(data.train, self.answer, self.patch, self.poisoned))


Attack = Annotated[
    NaN | Inflate | SignFlip | Scale | Collude | LabelFlip | Backdoor, Field(discriminator="kind")
]
"""One of the attacks, discriminated by `kind`."""


def attacked(attack: Attack, replies: Sequence[Reply], attackers: Sequence[str], sent: Sent) -> list[Reply]:
    """The round's replies, with the attackers' replaced by what they send."""
    own = [r for r in replies if r.client in attackers and r.error is None]
    replaced = {r.client: r for r in attack.send(own, sent)} if own else {}
    return [replaced.get(r.client, r) if r.error is None else r for r in replies]


def described(attack: Attack, attackers: Sequence[str]) -> str:
    """The attack in words, for the status of a run."""
    settings: dict[str, Any] = attack.model_dump(exclude={"kind", "clients", "share"})
    options = "".join(f", {n} {v}" for n, v in settings.items())
    return f"under a simulated attack ({attack.kind}{options}) by {', '.join(attackers)}"


def _tensors(reply: Reply) -> Mapping[str, Tensor]:
    return reply.payload.tensors


def _with(reply: Reply, tensors: Mapping[str, Tensor]) -> Reply:
    return replace(reply, payload=Payload(tensors, reply.payload.numbers))


def _moved(reply: Reply, sent: Mapping[str, Tensor], factor: float) -> Reply:
    """The reply with its change `factor` times as large; a tensor that was not sent has no change and stays."""
    tensors = _tensors(reply)
    return _with(reply, {n: sent[n] + factor * (t - sent[n]) if n in sent else t for n, t in tensors.items()})
