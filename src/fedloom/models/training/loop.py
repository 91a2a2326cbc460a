"""One client's local training in one round: the job, its outcome, and the reference loop.

Optimiser, schedule and random streams are made here and dropped afterwards: no state reaches another client.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedloom.core.payload import group_of
from fedloom.core.streams import stream_seed
from fedloom.models.base import Trainable
from fedloom.models.loading.examples import follow, taken
from fedloom.models.parts import Part, part_of
from fedloom.models.training.settings import (
    Penalty,
    Stage,
    Training,
    batches,
    has_encoder,
    has_llm,
    local_steps,
    micro_batches,
    part_of_round,
    plan,
)

Features = Callable[[Sequence[int]], Sequence[Any] | None]


@dataclass(frozen=True, eq=False)
class LocalJob:
    """One client's training in one round: the tensors `names`, from `start` (missing ones from the model's start values).

    `ratios`: the client's scales over the model's by group; `local`: weight of a second adapter; `penalty`: added to every loss;
    `rates`: constant learning rates of groups that do not follow the run's; `gradients`: whether to return mean gradients.
    """

    client: str
    examples: Sequence[Any]
    start: Mapping[str, Tensor]
    names: frozenset[str]
    training: Training
    seed: int
    round: int
    rounds: int
    ratios: Mapping[str, float]
    local: float | None = 0.0
    penalty: Penalty | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    gradients: bool = False

    @cached_property
    def chosen(self) -> list[int]:
        """Indices of the examples that this round trains on."""
        return part_of_round(
            len(self.examples), self.training, self.seed, self.client, self.round, self.rounds
        )

    @property
    def steps(self) -> int:
        """Local steps of this round."""
        return local_steps(len(self.chosen), self.training)

    def rate(self, name: str, step: int) -> float:
        """The learning rate of a tensor at a local step of this round, counted from 0 over all stages."""
        group = group_of(name)
        if group in self.rates:
            return self.rates[group]
        return self.training.rate(self.round, self.rounds, step, max(self.steps, 1), group)

    def stages(self) -> list[Stage]:
        """The stages of this round."""
        encoder, llm = has_encoder(self.training, self.names), has_llm(self.training, self.names)
        return plan(self.training, self.steps, self.round, self.rounds, encoder, llm)

    def names_in(self, parts: frozenset[Part]) -> frozenset[str]:
        """The tensors that a stage with these parts trains."""
        return frozenset(n for n in self.names if part_of(group_of(n)) in {*parts, None})

    def batches(self) -> Iterator[list[int]]:
        """Index batches over all steps; examples that are loaded from files are told of them, so as to be read ahead."""
        follow(self.examples, (i for batch in self._batches() for i in batch))
        yield from self._batches()

    def _batches(self) -> Iterator[list[int]]:
        for batch in batches(len(self.chosen), self.training, self.seed, self.client, self.round):
            yield [self.chosen[i] for i in batch]

    def dropout_seed(self) -> int:
        """Seed of the client's stream for dropout in this round."""
        return stream_seed(self.seed, "dropout", self.client, self.round)


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of a job: trained tensors, mean loss over its steps (None without a step), steps, mean gradients by name."""

    tensors: Mapping[str, Tensor]
    loss: float | None
    steps: int
    gradients: Mapping[str, Tensor] = field(default_factory=dict)


def mean_loss(losses: Sequence[float]) -> float | None:
    """The mean loss of the steps; None where no step was taken."""
    return sum(losses) / len(losses) if losses else None


def blown_up(loss: float) -> FloatingPointError:
    """The error of a client whose loss is not finite."""
    return FloatingPointError(f"the training loss became {loss}; a smaller training.lr may help")


def train_one(model: Trainable, job: LocalJob) -> Outcome:
    """Train one job on the model, stage by stage. Raises FloatingPointError if the loss blows up."""
    model.load(job.start, job.ratios)
    model.mix(job.local)
    stream = job.batches()
    losses: list[float] = []
    trained: set[str] = set()
    sums: dict[str, Tensor] = {}
    at = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.dropout_seed())
        for stage in job.stages():
            names = job.names_in(stage.parts)
            trained |= names
            parameters = model.begin(names)
            if not parameters:  # no tensor of the method is trained in this stage
                for _ in range(stage.steps):
                    next(stream)
                at += stage.steps
                continue
            features = _features(model, job, trained)
            optimiser = _optimiser(job, [n for n in model.tensors if n in names], parameters)
            for _ in range(stage.steps):
                indices = next(stream)
                extra = None
                if job.penalty is not None:
                    extra = job.penalty({n: model.tensors[n] for n in sorted(names)})
                for group in optimiser.param_groups:
                    group["lr"] = job.rate(group["name"], at)
                losses.append(_backward(model, job, optimiser, indices, features, extra))
                if job.gradients:
                    _add(sums, {n: model.tensors[n].grad for n in names})
                if job.training.clip is not None:
                    torch.nn.utils.clip_grad_norm_(parameters, job.training.clip)
                optimiser.step()
                at += 1
    model.rest()
    tensors = {n: model.tensors[n].detach().clone() for n in sorted(trained)}
    means = {n: t / max(len(losses), 1) for n, t in sums.items()}
    return Outcome(tensors, mean_loss(losses), len(losses), means)


def _features(model: Trainable, job: LocalJob, trained: Collection[str]) -> Features:
    """Function from example indices to features, each computed once; it returns None while the prefix is trained, or for none.

    `trained`: tensors of this stage and the ones before.
    """
    parameters = model.tensors
    if not model.has_features or any(parameters[n].requires_grad for n in model.feature_tensors):
        return lambda indices: None
    if model.store.constant and not any(n in trained for n in model.feature_tensors):
        version = model.feature_version()
        return lambda indices: model.kept_features(version, job.client, indices, job.examples)
    cache: dict[int, Any] = {}

    def cached(indices: Sequence[int]) -> Sequence[Any]:
        if new := [i for i in indices if i not in cache]:
            cache.update(zip(new, model.features(taken(job.examples, new)), strict=True))
        return [cache[i] for i in indices]

    return cached


def _optimiser(
    job: LocalJob, names: Sequence[str], parameters: Sequence[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """A fresh optimiser; parameters with the same learning rates share a group, named after its first one."""
    groups: dict[float, dict[str, Any]] = {}
    for name, parameter in zip(names, parameters, strict=True):
        group = group_of(name)
        own = job.rates.get(group, job.training.rates.get(group, job.training.lr))
        groups.setdefault(own, {"name": name, "params": []})["params"].append(parameter)
    settings, decay = job.training, job.training.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups.values(), settings.lr, momentum=settings.momentum, weight_decay=decay)
    return torch.optim.AdamW(groups.values(), settings.lr, betas=settings.betas, weight_decay=decay)


def _backward(
    model: Trainable,
    job: LocalJob,
    optimiser: torch.optim.Optimizer,
    indices: Sequence[int],
    features: Features,
    extra: Tensor | None,
) -> float:
    """Loss of a batch; leaves fresh gradients of it plus `extra`.

    The parts of a batch count by their share in the mean of its loss, so that the gradients are those of the whole batch.
    """
    optimiser.zero_grad(set_to_none=True)
    parts = micro_batches(indices, job.training.accumulate)
    batch = dict(zip(indices, taken(job.examples, indices), strict=True))
    weights = [sum(model.weight(batch[i]) for i in part) for part in parts]
    whole = 0.0
    for part, weight in zip(parts, weights, strict=True):
        if weight == 0 and sum(weights) > 0:  # the mean of no answer token is not defined
            continue
        loss = model.loss([batch[i] for i in part], features(part))
        if len(parts) > 1:
            loss = loss * (weight / max(sum(weights), 1))
        if not torch.isfinite(loss):
            raise blown_up(loss.item())
        (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
        extra = None
        whole += float(loss.detach())
    return whole


def _add(sums: dict[str, Tensor], gradients: Mapping[str, Tensor | None]) -> None:
    """Add a step's gradients; a tensor outside the loss has none."""
    for name, gradient in gradients.items():
        if gradient is not None:
            sums[name] = sums[name] + gradient if name in sums else gradient.clone()
