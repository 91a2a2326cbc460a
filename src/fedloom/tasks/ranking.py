"""Ranking of answers: whether the model finds the true answer likelier than others to the same question.

A sample's candidates are its own answer and the next ones in a fixed order of its client's distinct answers to the same
question, cyclically. So every answer is as often right as wrong, and a model that does not look at the input is right in one of
`among` cases. Likelihood is that per token, the stop included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedloom.core.streams import torch_stream
from fedloom.data.conversation import exchanges
from fedloom.data.sample import Sample

Features = Callable[[Sequence[int]], Sequence[Any]]
"""Positions in the test set to the features of their examples."""


@runtime_checkable
class RanksAnswers(Protocol):
    """A model that gives the likelihood of any answer to a prepared question."""

    def with_answer(self, example: Any, sample: Sample) -> Any:
        """The prepared example with the answer of `sample` in place of its own; inputs and question stay."""

    def losses(
        self,
        examples: Sequence[Any],
        owners: Sequence[int],
        count: int,
        features: Sequence[Any] | None = None,
    ) -> Tensor:
        """See `Trainable.losses`."""


@dataclass(frozen=True)
class Candidates:
    """The position of a sample in the test set, and the answers among which its own, the first, is ranked."""

    place: int
    answers: Sequence[str]


def candidates(
    of: Sequence[str], samples: Sequence[Sample], among: int, most: int | None
) -> list[Candidates]:
    """The ranked samples, those of clients and questions with at least `among` answers; `most` of each client and question.

    Conversations of several answers are left out.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, (client, sample) in enumerate(zip(of, samples, strict=True)):
        if exchanges(sample.conversation) == 1:
            groups.setdefault((client, sample.kind, sample.question), []).append(place)
    found = []
    for key, places in sorted(groups.items()):
        distinct = sorted({samples[place].answer for place in places})
        if len(distinct) < among:
            continue
        stream = torch_stream(0, "ranking", *key)  # the same in every run, so that seeds compare
        answers = [distinct[i] for i in torch.randperm(len(distinct), generator=stream).tolist()]
        chosen = [places[i] for i in torch.randperm(len(places), generator=stream).tolist()[:most]]
        for place in sorted(chosen):
            first = answers.index(samples[place].answer)
            found.append(Candidates(place, [*answers[first:], *answers[:first]][:among]))
    return found


@torch.no_grad()
def rank(
    model: RanksAnswers,
    samples: Sequence[Sample],
    examples: Sequence[Any],
    listed: Sequence[Candidates],
    features: Features,
    batch: int,
) -> dict[int, float]:
    """By position: 1 where the true answer is the likeliest, 1 / n where it ties with n - 1 others, else 0.

    `batch`: most sequences that the model reads together.
    """
    results: dict[int, float] = {}
    among = max((len(c.answers) for c in listed), default=1)
    step = max(batch // among, 1)
    for start in range(0, len(listed), step):
        part = listed[start : start + step]
        read = dict(zip([c.place for c in part], features([c.place for c in part]), strict=True))
        variants, own = [], []
        for candidate in part:
            for answer in candidate.answers:
                sample = replace(samples[candidate.place], answer=answer)
                variants.append(model.with_answer(examples[candidate.place], sample))
                own.append(read[candidate.place])
        losses = model.losses(variants, range(len(variants)), len(variants), own).tolist()
        for candidate in part:
            scores, losses = losses[: len(candidate.answers)], losses[len(candidate.answers) :]
            best = min(scores)
            results[candidate.place] = (scores[0] == best) / scores.count(best)
    return results
