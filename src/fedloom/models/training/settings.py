"""Settings of local training, its stages (UniFLoW Eq. 7), and its index batches."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from fedloom.core.payload import group_of
from fedloom.core.settings_tree import ReadWith
from fedloom.core.shares import at_most
from fedloom.core.streams import torch_stream
from fedloom.models.parts import Part, part_of

Penalty = Callable[[Mapping[str, Tensor]], Tensor]
"""A scalar of the tensors in training, by name, that is added to the loss of every step."""
Schedule = Literal["two_stage", "simultaneous", "reverse", "rounds"]


class Training(BaseModel):
    """Settings of a client's training in one round. Defaults follow UniFLoW section 4 and the preset `uniflow-table3`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schedule: Schedule = Field("two_stage", description="two_stage | simultaneous | reverse | rounds")
    tau: Annotated[float, ReadWith(".schedule", ("two_stage", "reverse"))] = Field(
        0.25, ge=0, le=1, description="share of a round's steps that train the encoder (Eq. 7)"
    )
    rho: Annotated[float, ReadWith(".schedule", ("rounds",))] = Field(
        0.5, ge=0, le=1, description="schedule `rounds`: share of the rounds that train the encoder"
    )
    projector: Literal["frozen", "stage1", "stage2", "both"] = Field(
        "stage1",
        description="when the projector is trained: never, with the encoder, with the LLM, or always",
    )
    text_only: Annotated[
        Literal["llm", "idle"], ReadWith(".schedule", ("two_stage", "reverse", "rounds"))
    ] = Field(
        "llm",
        description="a client without modalities in the encoder stage: trains the LLM, or idles",
    )
    epochs: Annotated[int, ReadWith(".steps", (None,))] = Field(
        1, ge=1, description="passes over the client's data in one round (E)"
    )
    steps: int | None = Field(
        None,
        ge=1,
        description="local steps in one round instead of whole epochs; the next round goes on where this one ended",
    )
    batch_size: int = Field(16, ge=1, description="samples in one step")
    accumulate: int = Field(
        1,
        ge=1,
        description="parts that a step's samples are cut into, one after another in memory; results agree up to rounding "
        "(dropout is drawn for each part)",
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw | sgd with momentum; made anew whenever a client takes part"
    )
    lr: float = Field(2e-3, gt=0, description="learning rate")
    rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="learning rates of groups of tensors with a rate of their own, such as {head: 0.0001}"
    )
    lr_schedule: Literal["cosine", "constant", "run_cosine", "run_constant"] = Field(
        "cosine",
        description="cosine: falls from round to round; constant; run_cosine: one warm-up and cosine over all steps of the run; "
        "run_constant: one warm-up, then constant",
    )
    warmup: Annotated[float, ReadWith(".lr_schedule", ("run_cosine", "run_constant"))] = Field(
        0.03, ge=0, lt=1, description="share of the run in which the rate rises from zero"
    )
    one_pass: bool = Field(
        False,
        description="every sample once in the whole run: round t trains on the t-th part of a client's data",
    )
    prox: float = Field(
        0.0,
        ge=0,
        description="FedProx mu: weight of 1/2 ||w - w_t||^2, w_t the tensors that the server sent",
    )
    weight_decay: float = Field(
        0.0, ge=0, description="decoupled in adamw; with sgd it is added to the gradient"
    )
    momentum: Annotated[float, ReadWith(".optimizer", ("sgd",))] = Field(
        0.9, ge=0, lt=1, description="sgd: share of the last step that is kept"
    )
    betas: Annotated[tuple[float, float], ReadWith(".optimizer", ("adamw",))] = Field(
        (0.9, 0.95), description="AdamW moment decay rates"
    )
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm per step; none = no clipping")

    @model_validator(mode="after")
    def _parts_of_a_batch(self) -> "Training":
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate {self.accumulate} is above batch_size {self.batch_size}, and a part needs a sample; "
                f"at most {self.batch_size} is right"
            )
        return self

    @property
    def by_step(self) -> bool:
        """Whether the learning rate changes within a round."""
        return self.lr_schedule in ("run_cosine", "run_constant")

    def rate(self, round: int, rounds: int, step: int = 0, steps: int = 1, group: str | None = None) -> float:
        """Learning rate of a group at step 0..steps-1 of round 1..rounds: half a cosine from its rate towards, never to, zero.

        `run_cosine` and `run_constant` go by the run's progress u = (round - 1 + step / steps) / rounds, so that clients with
        different numbers of steps stay in phase; they rise from zero over the first `warmup` of the run. The first then falls
        towards zero at the run's end.
        """
        full = self.lr if group is None else self.rates.get(group, self.lr)
        if self.lr_schedule == "constant":
            return full
        if self.by_step:
            u = (round - 1 + step / steps) / rounds
            if u < self.warmup:
                return full * u / self.warmup
            if self.lr_schedule == "run_constant":
                return full
            return full * 0.5 * (1 + math.cos(math.pi * (u - self.warmup) / (1 - self.warmup)))
        return full * 0.5 * (1 + math.cos(math.pi * (round - 1) / rounds))


@dataclass(frozen=True)
class Stage:
    """`steps` consecutive local steps that train the same parts."""

    steps: int
    parts: frozenset[Part]


def local_steps(examples: int, training: Training) -> int:
    """S = E * ceil(n_k / batch), or the experiment's `steps`."""
    return training.steps or training.epochs * math.ceil(examples / training.batch_size)


def plan(
    training: Training, steps: int, round: int, rounds: int, has_encoder: bool, has_llm: bool = True
) -> list[Stage]:
    """The stages of one local round of `steps` steps (Eq. 7; Tables 14 and 15 for the other orders).

    `round` counts from 1. A client without modalities has nothing to do in an encoder stage, and one with a frozen LLM nothing in
    an LLM stage: its steps go to the other one. A single step trains both stages' parts, so that none is left out.
    """
    with_encoder: set[Part] = {"projector"} if training.projector in ("stage1", "both") else set()
    with_llm: set[Part] = {"projector"} if training.projector in ("stage2", "both") else set()
    encoder_stage: frozenset[Part] = frozenset({"encoder", *with_encoder})
    llm_stage: frozenset[Part] = frozenset({"llm", *with_llm})
    everything = encoder_stage | llm_stage

    if not has_encoder and training.schedule != "simultaneous":
        only_llm: frozenset[Part] = frozenset({"llm"})
        if training.text_only == "llm":
            return [Stage(steps, only_llm)]
        return [
            Stage(s.steps, only_llm) for s in plan(training, steps, round, rounds, True) if "llm" in s.parts
        ]
    if training.schedule == "simultaneous":
        return [Stage(steps, everything)]
    if training.schedule == "rounds":
        return [Stage(steps, encoder_stage if round <= at_most(training.rho, rounds) else llm_stage)]
    boundary = at_most(training.tau, steps)
    if 0 < training.tau < 1 and not has_llm:
        return [Stage(steps, encoder_stage)]
    if 0 < training.tau < 1 and steps == 1:
        return [Stage(steps, everything)]
    if 0 < training.tau < 1 and steps >= 2:
        boundary = min(max(boundary, 1), steps - 1)
    stages = [Stage(boundary, encoder_stage), Stage(steps - boundary, llm_stage)]
    if training.schedule == "reverse":
        stages.reverse()
    return [s for s in stages if s.steps > 0]


def ever_trained(training: Training, rounds: int) -> frozenset[Part]:
    """The parts that some stage of some round may train."""
    plans = [plan(training, 2, r, rounds, True) for r in {1, max(rounds, 1)}]
    return frozenset(part for stages in plans for stage in stages for part in stage.parts)


def has_encoder(training: Training, names: Collection[str]) -> bool:
    """Whether a client that trains these tensors has anything to do in an encoder stage."""
    first = {"encoder", "projector"} if training.projector in ("stage1", "both") else {"encoder"}
    return any(part_of(group_of(n)) in first for n in names)


def has_llm(training: Training, names: Collection[str]) -> bool:
    """Whether a client that trains these tensors has anything to do in an LLM stage."""
    second = {"llm", "projector"} if training.projector in ("stage2", "both") else {"llm"}
    return any(part_of(group_of(n)) in second for n in names)


ANY_STEPS = (1, 2, 1000)
"""Numbers of local steps that stand for any: one step has all stages in it."""


def trained_in(training: Training, names: Collection[str], round: int, rounds: int, steps: int) -> list[str]:
    """Those of a client's tensors that some stage of a round of `steps` local steps trains."""
    stages = plan(training, steps, round, rounds, has_encoder(training, names), has_llm(training, names))
    parts = {part for stage in stages for part in stage.parts}
    return [n for n in names if part_of(group_of(n)) in {*parts, None}]


def part_of_round(
    examples: int, training: Training, seed: int, client: str, round: int, rounds: int
) -> list[int]:
    """Indices that a client trains on in a round: all, or with `one_pass` the round's part of its seeded order.

    The parts of all rounds are disjoint, together everything, and differ in size by one at most.
    """
    if not training.one_pass:
        return list(range(examples))
    order: list[int] = torch.randperm(examples, generator=torch_stream(seed, "one pass", client)).tolist()
    return order[examples * (round - 1) // rounds : examples * round // rounds]


def proximal(mu: float, at: Mapping[str, Tensor]) -> Penalty:
    """FedProx penalty mu / 2 ||w - w_t||^2: w the tensors in training, w_t = `at`, over the names in both."""

    def penalty(tensors: Mapping[str, Tensor]) -> Tensor:
        parts = [(t - at[n].to(t)).square().sum() for n, t in tensors.items() if n in at]
        return 0.5 * mu * torch.stack(parts).sum() if parts else torch.zeros(())

    return penalty


def batches(n: int, training: Training, seed: int, client: str, round: int) -> Iterator[list[int]]:
    """Index batches over all local steps of a round: one seeded shuffle per epoch, running on across stage boundaries.

    With a fixed number of steps, epochs run on across rounds, including those without this client.
    """
    if training.steps is None:
        for epoch in range(training.epochs):
            yield from _epoch(n, training, seed, epoch, client, round)
        return
    per_epoch = math.ceil(n / training.batch_size)
    first, last = (round - 1) * training.steps, round * training.steps
    for epoch in range(first // per_epoch, math.ceil(last / per_epoch)):
        of_epoch = _epoch(n, training, seed, epoch, client)
        yield from of_epoch[max(first - epoch * per_epoch, 0) : last - epoch * per_epoch]


def micro_batches(batch: Sequence[int], parts: int) -> list[Sequence[int]]:
    """A batch cut into at most `parts` parts, whose sizes differ by one at most; none is empty."""
    bounds = [len(batch) * i // parts for i in range(parts + 1)]
    return [batch[first:last] for first, last in pairwise(bounds) if last > first]


def _epoch(n: int, training: Training, seed: int, epoch: int, *stream: str | int) -> list[list[int]]:
    order = torch.randperm(n, generator=torch_stream(seed, "order", epoch, *stream)).tolist()
    return [order[start : start + training.batch_size] for start in range(0, n, training.batch_size)]
