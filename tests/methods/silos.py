"""Clients with quadratic losses, trained by plain SGD: a method's rounds without a model or a federation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from fedloom.core.payload import EVERYTHING, Reply, Scope
from fedloom.methods import Method, State

Tensors = Mapping[str, torch.Tensor]


@dataclass
class Silo:
    """A client that stands for a Trainer: F(w) = 1/2 sum ||curvature (w - target)||^2 over its tensors, J steps of rate lr."""

    client: str
    targets: Tensors
    curvature: float = 1.0
    examples: list[int] = field(default_factory=lambda: [0])
    personal: dict[str, torch.Tensor] = field(default_factory=dict)
    round: int = 1
    steps: int = 4
    lr: float = 0.1
    calls: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0
    model: Any = field(
        default_factory=lambda: SimpleNamespace(prompt_states=lambda rows: torch.ones(len(rows), 2))
    )
    loaded: list[Any] = field(default_factory=list)

    def loss(self, tensors: Tensors) -> torch.Tensor:
        """F at these tensors."""
        parts = [
            0.5 * self.curvature * (t - self.targets.get(n, t.detach())).square().sum()
            for n, t in tensors.items()
        ]
        return torch.stack(parts).sum()

    def load(self, tensors: Tensors, **how: Any) -> None:
        """What was loaded, for the test."""
        self.loaded.append((dict(tensors), how))

    def keep(self, tensors: Tensors) -> None:
        """See Trainer."""
        self.personal.update(tensors)

    def train(
        self,
        start: Tensors,
        *,
        only: Scope = EVERYTHING,
        local: float | None = 0.0,
        penalty: Callable[[Tensors], torch.Tensor] | None = None,
        rates: Mapping[str, float] | None = None,
        gradients: bool = False,
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """J steps on what `only` names; with `gradients` their mean, the penalty's included."""
        self.calls.append({"start": dict(start), "only": only, "local": local, "rates": dict(rates or {})})
        now = {n: t.clone().requires_grad_() for n, t in start.items() if only.role(n) == "shared"}
        total = {n: torch.zeros_like(t) for n, t in now.items()}
        for _ in range(self.steps):
            loss = self.loss(now) + (penalty(now) if penalty else 0.0)
            for (n, t), g in zip(now.items(), torch.autograd.grad(loss, list(now.values())), strict=True):
                total[n] += g / self.steps
                t.data -= self.lr * g
        trained = {n: t.detach() for n, t in now.items()}
        if gradients:
            trained |= {f"{n}.gradient": g for n, g in total.items()}
        return trained, {"examples": len(self.examples)}


@dataclass
class Cohort:
    """An Ask: the round's clients answer in name order."""

    method: Method
    silos: list[Silo]
    round: int = 1
    seed: int = 0
    sums: bool = False
    unequal: bool = False
    frozen: Mapping[str, torch.Tensor] = field(default_factory=dict)
    given: list[Reply] | None = None
    """Replies instead of those of `silos`."""

    @property
    def cohort(self) -> list[str]:
        """All silos."""
        return [s.client for s in self.silos]

    def __call__(self, request: str, payload: Any, *rest: Any, **more: Any) -> list[Reply]:
        """Every silo's answer."""
        if self.given is not None:
            return self.given
        replies = []
        for silo in self.silos:
            silo.round = self.round
            sent = payload[silo.client] if isinstance(payload, Mapping) else payload
            replies.append(Reply(silo.client, self.method.client(request, sent, silo)))
        return replies


def tensors_of(
    seed: int, dtype: torch.dtype = torch.float64, **shapes: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """Random tensors `projector/<name>`, the same numbers in every precision."""
    g = torch.Generator().manual_seed(seed)
    drawn = {n: torch.randn(*s, generator=g, dtype=torch.float64) for n, s in shapes.items()}
    return {f"projector/{n}": t.to(dtype) for n, t in drawn.items()}


def rounds(method: Method, silos: list[Silo], start: Tensors, count: int) -> list[State]:
    """The states before round 1 and after every round."""
    states = [method.start(start)]
    for number in range(1, count + 1):
        states.append(method.round(states[-1], Cohort(method, silos, number)))
    return states
