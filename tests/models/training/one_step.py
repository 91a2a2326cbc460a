"""Jobs of a few steps on any model, and what they end with."""

from collections.abc import Sequence
from typing import Any

import torch

from fedloom.core.payload import group_of
from fedloom.core.streams import torch_stream
from fedloom.models.base import Trainable
from fedloom.models.training.cohort import train_cohort
from fedloom.models.training.loop import LocalJob, Outcome, train_one
from fedloom.models.training.settings import Training, proximal


def as_dtype(model: Trainable, dtype: torch.dtype) -> Trainable:
    """The model in this precision, every tensor moved at random, so that no adapter is without effect."""
    model.root.to(dtype)
    rng = torch_stream(0, "stirred")
    moved = {n: t + 0.05 * torch.randn(t.shape, generator=rng) for n, t in model.start.items()}
    model.start = {n: t.to(dtype) for n, t in moved.items()}
    return model


def jobs_of(model: Trainable, examples: Sequence[Sequence[Any]], **training: Any) -> list[LocalJob]:
    """A job for each client's examples, over all tensors of its groups that the examples reach."""
    prox = training.get("prox")
    away = {n: t + 0.1 for n, t in model.start.items()}
    settings = {"optimizer": "sgd", "lr": 0.05, "schedule": "simultaneous", "projector": "both", **training}
    return [
        LocalJob(
            client=f"c{k}",
            examples=own,
            start=model.start,
            names=frozenset(model.tensors),
            training=Training(**settings),
            seed=0,
            round=1,
            rounds=2,
            ratios={},
            penalty=proximal(prox, away) if prox else None,
            gradients=True,
        )
        for k, own in enumerate(examples)
    ]


def ended(model: Trainable, jobs: Sequence[LocalJob], *, together: bool) -> list[Outcome]:
    """The outcome of each job, alone or in one cohort."""
    if not together:
        return [train_one(model, job) for job in jobs]
    outcomes = []
    for outcome in train_cohort(model, jobs):
        assert isinstance(outcome, Outcome)
        outcomes.append(outcome)
    return outcomes


def agree(one: Sequence[Outcome], two: Sequence[Outcome], tolerance: float) -> None:
    """Losses, gradients and trained tensors are equal."""
    for a, b in zip(one, two, strict=True):
        assert a.steps == b.steps > 0
        torch.testing.assert_close(a.loss, b.loss, rtol=tolerance, atol=tolerance)
        for mine, theirs in ((a.gradients, b.gradients), (a.tensors, b.tensors)):
            assert mine.keys() == theirs.keys()
            for name in mine:
                torch.testing.assert_close(mine[name], theirs[name], rtol=tolerance, atol=tolerance, msg=name)


def groups_with_gradients(outcomes: Sequence[Outcome]) -> set[str]:
    """The groups that some gradient reached."""
    return {group_of(n) for o in outcomes for n, t in o.gradients.items() if t.abs().max() > 1e-8}
