"""Cohort training: one loop for several clients, with the client as a batch dimension.

Clients' tensors are stacked on a client axis, their batches are concatenated, and the frozen foundation runs once for all. Each
client has its own loss, gradient norm, optimiser state, step count and dropout stream, so that its result equals that of
`loop.train_one`, up to rounding. A client with fewer steps leaves the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from math import isfinite
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.core.payload import group_of
from fedloom.models.base import Trainable
from fedloom.models.loading.examples import taken
from fedloom.models.precision import moved, read_later
from fedloom.models.training.loop import LocalJob, Outcome, blown_up, mean_loss
from fedloom.models.training.settings import micro_batches
from fedloom.models.training.stacked_layers import AdapterStack
from fedloom.models.training.stacked_optimizer import Stacked, StackedAdamW, StackedSGD

Features = Callable[[Sequence[tuple[int, int]]], Sequence[Any] | None]


def kind(model: Trainable, job: LocalJob) -> object:
    """Key of jobs that can be trained together, given the same merged base."""
    stages = tuple((s.parts, bool(job.names_in(s.parts))) for s in job.stages())
    second = any(".local_" in n for n in job.start)
    scales, rates = (tuple(sorted(x.items())) for x in (job.ratios, job.rates))
    settings = (job.training, job.round, job.rounds, scales, rates, job.local)
    return stages, second, settings, job.penalty is None, job.gradients


def same_base(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two clients' tensors merged into the frozen weights are equal."""
    mine, theirs = ({n: t for n, t in own.items() if ".merged_" in n} for own in (one, other))
    return mine.keys() == theirs.keys() and all(_equal(mine[n], theirs[n]) for n in mine)


def differing(model: Trainable, starts: Sequence[Mapping[str, Tensor]]) -> set[str]:
    """Names of the model's tensors whose values differ among clients; a missing one has the start value."""
    names = set()
    for name, first in model.start.items():
        values = [own.get(name, first) for own in starts]
        if not all(_equal(values[0], v) for v in values[1:]):
            names.add(name)
    return names


def train_cohort(model: Trainable, jobs: Sequence[LocalJob]) -> list[Outcome | FloatingPointError]:
    """Train jobs of one kind together; one outcome each, or the error of a client whose loss is not finite."""
    model.load(jobs[0].start, jobs[0].ratios)
    model.mix(jobs[0].local)
    starts = [j.start for j in jobs]
    trained = {n for j in jobs for stage in j.stages() for n in j.names_in(stage.parts)}
    stack = AdapterStack(model, starts, sorted(trained | differing(model, starts)))
    stack.seed([j.dropout_seed() for j in jobs])
    run = _Run(model, jobs, stack)
    with stack.installed():
        for number in range(len(jobs[0].stages())):
            run.stage(number)
    model.rest()
    return [run.outcome(k) for k in range(len(jobs))]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other))


class _Run:
    """The state of one cohort's training."""

    def __init__(self, model: Trainable, jobs: Sequence[LocalJob], stack: AdapterStack) -> None:
        self.model, self.jobs, self.stack = model, jobs, stack
        self.streams = [j.batches() for j in jobs]
        self.losses: list[list[float]] = [[] for _ in jobs]
        self.failed: dict[int, FloatingPointError] = {}
        self.trained: set[str] = set()
        self.sums: dict[str, Tensor] = {}
        self.at = [0] * len(jobs)

    def outcome(self, k: int) -> Outcome | FloatingPointError:
        """Outcome of client k, or its error."""
        if k in self.failed:
            return self.failed[k]
        losses = self.losses[k]
        tensors = self.stack.of(k, frozenset(self.trained & self.jobs[k].names))
        own = self.trained & self.jobs[k].names
        means = {n: t[k] / max(len(losses), 1) for n, t in self.sums.items() if n in own}
        return Outcome(tensors, mean_loss(losses), len(losses), means)

    def stage(self, number: int) -> None:
        """One stage of every client."""
        stages = [j.stages()[number] for j in self.jobs]
        parts = stages[0].parts
        names = [j.names_in(parts) for j in self.jobs]
        chosen = frozenset().union(*names)
        self.trained |= chosen
        parameters = self.stack.begin(chosen)
        if not parameters:
            for stream, stage in zip(self.streams, stages, strict=True):
                for _ in range(stage.steps):
                    next(stream)
            self.at = [at + s.steps for at, s in zip(self.at, stages, strict=True)]
            return
        self.model.begin(chosen)  # for its dropouts; the stack replaces its tensors
        optimiser = self._optimiser(parameters)
        order = [n for n in self.stack.tensors if n in chosen]
        features, groups = self._features(), [group_of(n) for n in order]
        of_group = dict(zip(groups, order, strict=True))  # one rate for all of a group's tensors
        before: Callable[[], None] | None = None
        for step in range(max(s.steps for s in stages)):
            active = [k for k, s in enumerate(stages) if s.steps > step and k not in self.failed]
            if step == 0 or self.jobs[0].training.by_step:
                rates = [
                    {g: j.rate(n, at + step) for g, n in of_group.items()}
                    for j, at in zip(self.jobs, self.at, strict=True)
                ]
                optimiser.at_rates([[own[g] for g in groups] for own in rates])
            note = self._step(active, names, optimiser, features) if active else None
            if before is not None:  # the losses of a step are read while a GPU computes the next one
                before()
            before = note
        if before is not None:
            before()
        self.at = [at + s.steps for at, s in zip(self.at, stages, strict=True)]

    def _optimiser(self, parameters: Sequence[nn.Parameter]) -> Stacked:
        settings = self.jobs[0].training
        rates = [settings.lr] * len(parameters)
        if settings.optimizer == "sgd":
            return StackedSGD(
                parameters, rates, momentum=settings.momentum, weight_decay=settings.weight_decay
            )
        return StackedAdamW(parameters, rates, betas=settings.betas, weight_decay=settings.weight_decay)

    def _features(self) -> Features:
        """Function from (client, example index) pairs to features, as in `loop.train_one`."""
        model, stack = self.model, self.stack
        trained = (n in stack.tensors and stack.tensors[n].requires_grad for n in model.feature_tensors)
        if not model.has_features or any(trained):
            return lambda at: None
        if model.store.constant and self.trained.isdisjoint(model.feature_tensors):
            return self._kept()
        cache: dict[tuple[int, int], Any] = {}

        def cached(at: Sequence[tuple[int, int]]) -> Sequence[Any]:
            if new := [p for p in at if p not in cache]:
                stack.at([k for k, _ in new])
                features = model.features([self.jobs[k].examples[i] for k, i in new])
                cache.update(zip(new, features, strict=True))
            return [cache[p] for p in at]

        return cached

    def _kept(self) -> Features:
        """Features from the model's store, client by client, so that they do not depend on the cohort."""
        model, stack, jobs = self.model, self.stack, self.jobs
        own = [n for n in model.feature_tensors if n in stack.tensors]
        common = None if own else model.feature_version()
        # A stacked layer rounds differently from a plain one, which must not show in features shared with other runs.
        versions = [
            common or model.feature_version({n: stack.tensors[n][k] for n in own}) + b" stacked"
            for k in range(len(jobs))
        ]

        def stored(at: Sequence[tuple[int, int]]) -> Sequence[Any]:
            features: list[Any] = []
            for k, pairs in groupby(at, key=itemgetter(0)):

                def work(batch: Sequence[Any], k: int = k) -> Sequence[Any]:
                    stack.at([k] * len(batch))
                    return model.features(batch)

                job, indices = jobs[k], [i for _, i in pairs]
                features += model.store.of(versions[k], job.client, indices, job.examples, work)
            return features

        return stored

    def _shares(self, parts: Mapping[int, Sequence[Sequence[int]]], number: int) -> Tensor:
        """(K,): share of each client's part with this number in the mean of its loss; 0 without one."""
        shares = torch.zeros(len(self.jobs), dtype=torch.float64)
        for k, own in parts.items():
            weights = [sum(self.model.weight(self.jobs[k].examples[i]) for i in part) for part in own]
            shares[k] = dict(enumerate(weights)).get(number, 0) / max(sum(weights), 1)
        return shares

    def _step(
        self,
        active: Sequence[int],
        names: Sequence[frozenset[str]],
        optimiser: Stacked,
        features_of: Features,
    ) -> Callable[[], None]:
        """One step of the active clients. The result notes their losses, and who fails leaves the batch from then on."""
        optimiser.zero_grad()
        accumulate = self.jobs[0].training.accumulate
        parts = {k: micro_batches(next(self.streams[k]), accumulate) for k in active}
        whole: float | Tensor = 0.0
        moves = torch.tensor(False)
        for number in range(max(map(len, parts.values()))):
            now = [(k, own) for k in active for own in parts[k][number : number + 1]]
            at = [(k, i) for k, own in now for i in own]
            features = features_of(at)
            owners = [k for k, _ in at]
            self.stack.at(owners)
            batch = [example for k, own in now for example in taken(self.jobs[k].examples, own)]
            losses = self.model.losses(batch, owners, len(self.jobs), features)
            if accumulate > 1:
                losses = losses * moved(self._shares(parts, number).to(losses.dtype), losses.device)
            total = losses.sum()
            for k in active if number == 0 else ():
                penalty = self.jobs[k].penalty
                if penalty is not None:
                    total = total + penalty({n: self.stack.tensors[n][k] for n in sorted(names[k])})
            total.backward()  # type: ignore[no-untyped-call]
            moves = moves | self.stack.took_part(names)
            whole = whole + losses.detach().to(
                torch.float32 if losses.device.type == "mps" else torch.float64
            )
        if self.jobs[0].gradients:
            for name, parameter in self.stack.tensors.items():
                if parameter.requires_grad and parameter.grad is not None:
                    known = self.sums.get(name)
                    self.sums[name] = parameter.grad.clone() if known is None else known + parameter.grad
        if (clip := self.jobs[0].training.clip) is not None:
            optimiser.clip(clip)
        if self.jobs[0].penalty is not None:  # it also moves tensors that were applied to no row
            moves |= optimiser.touched()
        optimiser.step(moves)
        assert isinstance(whole, Tensor)  # noqa: S101 - some client is active
        read = read_later(whole)

        def note() -> None:
            losses = read()
            for k in active:
                self.losses[k].append(losses[k])
                if not isfinite(losses[k]):
                    self.failed.setdefault(k, blown_up(losses[k]))

        return note
