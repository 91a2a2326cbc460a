"""One client's local training in one round as data, and the loop that does it for one client: every engine's reference.

Optimiser, schedule and random streams are made here, used once and dropped: nothing of them reaches another client.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedloom.exchange import group_of
from fedloom.model import AdaptedModel
from fedloom.streams import stream_seed
from fedloom.training import Part, Penalty, Stage, Training, batches, local_steps, part_of, plan


@dataclass(frozen=True, eq=False)
class Job:
    """What a client trains: from `start` (missing tensors begin at the model's start values) the tensors `names`.

    `ratios` are its scales over the model's by group, `local` weighs a second adapter, `penalty` is added to every loss.
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

    def stages(self) -> list[Stage]:
        """The stages of this round."""
        has_encoder = any(part_of(group_of(n)) == "encoder" for n in self.names)
        steps = local_steps(len(self.examples), self.training)
        return plan(self.training, steps, self.round, self.rounds, has_encoder)

    def names_in(self, parts: frozenset[Part]) -> frozenset[str]:
        """The tensors that a stage with these parts trains."""
        return frozenset(n for n in self.names if part_of(group_of(n)) in {*parts, None})

    def batches(self) -> Iterator[list[int]]:
        """Index batches over all steps."""
        return batches(len(self.examples), self.training, self.seed, self.client, self.round)

    def dropout_seed(self) -> int:
        """Seed of the client's stream for dropout in this round."""
        return stream_seed(self.seed, "dropout", self.client, self.round)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a job: the tensors that were trained, the mean loss over its steps, their number."""

    tensors: Mapping[str, Tensor]
    loss: float
    steps: int


def blown_up(loss: float) -> FloatingPointError:
    """The error of a client whose loss is not finite."""
    return FloatingPointError(f"the training loss became {loss}; a smaller training.lr may help")


def alone(model: AdaptedModel, job: Job) -> Outcome:
    """Do the job on the model, stage by stage. Raises FloatingPointError if the loss blows up."""
    model.load(job.start, job.ratios)
    model.mix(job.local)
    stream = job.batches()
    losses: list[float] = []
    trained: set[str] = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.dropout_seed())
        for stage in job.stages():
            names = job.names_in(stage.parts)
            trained |= names
            parameters = model.begin(names)
            if not parameters:  # this stage trains nothing that the method trains
                for _ in range(stage.steps):
                    next(stream)
                continue
            features = _features(model, job, trained)
            settings = job.training
            adam = torch.optim.AdamW(
                parameters,
                lr=settings.rate(job.round, job.rounds),
                betas=settings.betas,
                weight_decay=settings.weight_decay,
            )
            for _ in range(stage.steps):
                indices = next(stream)
                batch = [job.examples[i] for i in indices]
                extra = None
                if job.penalty is not None:
                    extra = job.penalty({n: model.tensors[n] for n in sorted(names)})
                losses.append(
                    _step(model, adam, parameters, batch, features(indices), job.training.clip, extra)
                )
    model.rest()
    tensors = {n: model.tensors[n].detach().clone() for n in sorted(trained)}
    return Outcome(tensors, sum(losses) / max(len(losses), 1), len(losses))


def _features(
    model: AdaptedModel, job: Job, trained: Collection[str]
) -> Callable[[Sequence[int]], Sequence[Any] | None]:
    """What makes, of indices of the job's examples, their features: made once each, as far as nothing of the prefix is trained.

    `trained` are the tensors of this stage and those before.
    """
    parameters = model.tensors
    if any(parameters[n].requires_grad for n in model.feature_tensors):
        return lambda indices: None
    if model.store.constant and not any(n in trained for n in model.feature_tensors):
        version = model.feature_version()
        return lambda indices: model.kept_features(version, job.client, indices, job.examples)
    cache: dict[int, Any] = {}

    def made(indices: Sequence[int]) -> Sequence[Any]:
        if new := [i for i in indices if i not in cache]:
            cache.update(zip(new, model.features([job.examples[i] for i in new]), strict=True))
        return [cache[i] for i in indices]

    return made


def _step(
    model: AdaptedModel,
    adam: torch.optim.Optimizer,
    parameters: list[torch.nn.Parameter],
    batch: Sequence[Any],
    features: Sequence[Any] | None,
    clip: float | None,
    extra: Tensor | None,
) -> float:
    adam.zero_grad(set_to_none=True)
    loss = model.loss(batch, features)
    if not torch.isfinite(loss):
        raise blown_up(loss.item())
    (loss if extra is None else loss + extra).backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    adam.step()
    return float(loss.detach())
