"""Labelled text for classifiers: tasks of the Tabletop world or of GLUE, partitioned by label mix.

An example is a Sample without modalities: `question` is the text or the first sentence, `answer` the label's word, and
meta holds `pair` (the second sentence or None), `labels` (all label words, in label order) and `task`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import ReadWith
from fedloom.core.streams import numpy_stream
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.partition.label_mix import Mix, deal, label_mix, quotas
from fedloom.data.partition.redeal import redealt
from fedloom.data.partition.settings import RowPartition
from fedloom.data.sample import Sample
from fedloom.data.sources import glue
from fedloom.data.sources.source import Features, Source, checked_counts
from fedloom.data.tabletop import tasks as tabletop
from fedloom.data.tabletop.world import Tabletop

TextTask = Literal["entailment", "follows", "same", "warm", "mnli", "rte", "sst2", "qqp", "qnli"]

LABELS: dict[str, tuple[str, ...]] = {**tabletop.TASKS, **{n: t.labels for n, t in glue.TASKS.items()}}
"""Label words of every task, in label order; fixed, never derived from the examples."""

_SCENES = 1_000_000
"""Scene numbers reserved for one client: the first half for its training part, the second for its test part."""


class TextSource(Source):
    """Labelled sentences for a classifier: tasks about the small world, or GLUE."""

    for_task: ClassVar[str] = "text-classification"
    not_read: ClassVar[Mapping[str, str]] = {"missing": "its samples are texts alone"}

    source: Literal["text"] = "text"
    task: TextTask = Field(
        "entailment",
        description="entailment, follows, same or warm, about the small world; or GLUE's mnli, rte, sst2, qqp or qnli",
    )
    path: Annotated[Path | None, ReadWith(".task", tuple(glue.TASKS))] = Field(
        None,
        description="a folder with GLUE's parquet files, <path>/<task>/train*.parquet; none = download",
    )
    clients: dict[Holding, int] = Field({"text": 3}, description="number of clients, as {text: N}")
    partition: RowPartition | None = Field(
        None,
        description="how all clients' samples are dealt anew, as {kind: quantity}; the label is the answer; none = by dirichlet",
    )
    train: int | None = Field(
        160,
        ge=1,
        description="training samples per client; none = all of the GLUE task, dealt by data.partition",
    )
    test: int | None = Field(40, ge=1, description="test samples per client; none = all, as for train")
    dirichlet: Annotated[float | None, ReadWith(".partition", (None,))] = Field(
        0.5, gt=0, description="Dirichlet parameter of the clients' label mixes; none = all clients alike"
    )

    @property
    def published(self) -> tuple[str, ...]:
        """GLUE, for its tasks."""
        return (glue.REPOSITORY,) if self.task in glue.TASKS else ()

    @field_validator("clients")
    @classmethod
    def _counts(cls, value: dict[Holding, int]) -> dict[Holding, int]:
        checked_counts(value, "text", ("text",), "{text: N}")
        return value

    @model_validator(mode="after")
    def _whole_sets_are_dealt(self) -> "TextSource":
        for name in ("train", "test"):
            if getattr(self, name) is None and self.task not in glue.TASKS:
                raise ValueError(f"{name}: the task {self.task} has no last sample; give a number")
            if getattr(self, name) is None and self.partition is None:
                raise ValueError(
                    f"{name}: all samples of a task need a data.partition, such as {{kind: dirichlet}}"
                )
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """The label words, in label order."""
        return LABELS[self.task]

    @property
    def pairs(self) -> bool:
        """Whether a sample is a pair of texts."""
        return len(glue.TASKS[self.task].columns) > 1 if self.task in glue.TASKS else self.task != "warm"

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """Clients text-01 and so on, each with one label mix."""
        alpha = self.dirichlet if self.partition is None else None
        clients = text_clients(self.task, self.clients["text"], self.train, self.test, alpha, seed, self.path)
        return redealt(clients, self.partition, self.clients["text"], seed) if self.partition else clients


def text_clients(
    task: str,
    clients: int,
    train: int | None,
    test: int | None,
    alpha: float | None,
    seed: int,
    path: Path | None = None,
) -> list[ClientData]:
    """`clients` clients named text-01 and so on, each with one label mix for its training and its test part.

    Args:
        task: one of LABELS.
        clients: number of clients.
        train: training examples per client; None, for GLUE: all at the first client, none at the others.
        test: test examples per client; None as for `train`.
        alpha: the Dirichlet parameter of the label mixes; None gives every client the task's own mix.
        seed: the run's seed; determines mixes and examples.
        path: folder of GLUE's parquet files; None reads from the Hugging Face hub.

    Raises:
        ExperimentError: an unknown task, or too few examples of a label.

    """
    if task not in LABELS:
        raise ExperimentError(f"data.task: there is no task {task!r}; known are {', '.join(LABELS)}")
    if task in tabletop.TASKS and train is not None and test is not None:
        parts = _tabletop(task, clients, train, test, alpha, seed)
    else:
        parts = _glue(task, clients, train, test, alpha, seed, path)
    return sorted((ClientData(f"text-{i:02d}", *p) for i, p in enumerate(parts, 1)), key=lambda c: c.name)


def _tabletop(
    task: str, clients: int, train: int, test: int, alpha: float | None, seed: int
) -> list[tuple[list[Sample], list[Sample]]]:
    world, labels = Tabletop(seed), LABELS[task]
    natural = (1 / len(labels),) * len(labels)
    parts = []
    for i in range(clients):
        mix = label_mix(seed, i, task, natural, alpha)
        middle = i * _SCENES + _SCENES // 2
        parts.append(
            (
                _tabletop_samples(world, task, i * _SCENES, quotas(mix, train), held_back=False),
                _tabletop_samples(world, task, middle, quotas(mix, test), held_back=True),
            )
        )
    return parts


def _tabletop_samples(
    world: Tabletop, task: str, first: int, counts: Sequence[int], *, held_back: bool
) -> list[Sample]:
    """Examples of private scenes from number `first` on, each of a different scene."""
    targets = [label for label, n in zip(LABELS[task], counts, strict=True) for _ in range(n)]
    order = numpy_stream(world.seed, "text", task, "order", first).permutation(len(targets))
    samples, scene = [], first
    if len(targets) > _SCENES // 64:  # task warm takes 25 scenes per held-back example
        raise ExperimentError(
            f"data.train and data.test: {len(targets)} examples are too many for one client of the Tabletop world; "
            f"at most {_SCENES // 64} are right"
        )
    for i in order:
        sample = None
        while sample is None or is_held_back(sample) != held_back:
            sample = tabletop.text_sample(world, "private", scene, task, targets[i])
            scene += 1
        samples.append(sample)
    return samples


def is_held_back(sample: Sample) -> bool:
    """Whether a text is reserved for test parts (one in five, by hash): different scenes can give equal texts."""
    words = f"{sample.question}\n{sample.meta['pair']}"
    return hashlib.sha256(words.encode()).digest()[0] % 5 == 0


def _glue(
    task: str,
    clients: int,
    train: int | None,
    test: int | None,
    alpha: float | None,
    seed: int,
    path: Path | None,
) -> list[tuple[list[Sample], list[Sample]]]:
    labels = LABELS[task]
    mixes: list[Mix] | None = None
    parts = []
    for part, size in (("train", train), ("test", test)):
        rows = glue.read_glue(task, part, path)  # type: ignore[arg-type]
        pool: dict[int, list[int]] = {number: [] for number in range(len(labels))}
        for row in numpy_stream(seed, "text", task, "deal", part).permutation(len(rows.labels)).tolist():
            pool[rows.labels[row]].append(row)
        if mixes is None:  # drawn once: the test part has the same mixes
            natural = [len(pool[n]) / max(len(rows.labels), 1) for n in range(len(labels))]
            mixes = [label_mix(seed, i, task, natural, alpha) for i in range(clients)]
        dealt = (
            [range(len(rows.labels)), *[()] * (clients - 1)]
            if size is None
            else deal(pool, [quotas(mix, size) for mix in mixes], labels, f"data.{part}")
        )
        parts.append([[_glue_sample(task, part, rows, row) for row in chosen] for chosen in dealt])
    return list(zip(*parts, strict=True))


def _glue_sample(task: str, part: str, rows: glue.Split, row: int) -> Sample:
    first, *rest = (column[row] for column in rows.texts)
    meta = {"pair": rest[0] if rest else None, "labels": list(LABELS[task]), "task": task}
    return Sample(f"glue/{task}/{part}/{row}", {}, first, LABELS[task][rows.labels[row]], meta)
