"""Evaluation on the clients' test samples; a metric's name gives the model and the clients it is measured on."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from statistics import fmean
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from fedloom.core.activity import stage, tell
from fedloom.core.settings_tree import ReadWith
from fedloom.core.streams import torch_stream
from fedloom.data.sample import Sample
from fedloom.models.base import Trainable
from fedloom.models.loading.examples import part_of
from fedloom.models.loading.prepared import prepared
from fedloom.tasks.frozen_llm import embedder_of
from fedloom.tasks.metrics import EvaluationRecord, Summary, summarise
from fedloom.tasks.personal_batches import ClientModel, packs, with_pack
from fedloom.tasks.ranking import RanksAnswers, candidates, rank


class Evaluation(BaseModel):
    """Settings of the evaluation, which uses test samples only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(
        1,
        ge=1,
        description="rounds between teacher-forced evaluations; the first and the last round are always evaluated",
    )
    generate: bool = Field(True, description="generate answers before the first and after the last round")
    max_new_tokens: Annotated[int, ReadWith(".generate", (True,))] = Field(
        16, ge=1, description="length limit of a generated answer"
    )
    batch_size: int = Field(64, ge=1, description="samples evaluated together; changes no figure")
    bertscore: Annotated[str, ReadWith(".generate", (True,))] = Field(
        "off",
        description="embedder of BERTScore: off | world (the foundation's own LLM) | minilm | Hugging Face id",
    )
    gptscore: Annotated[str, ReadWith(".generate", (True,))] = Field(
        "off",
        description="language model that scores the cases of `compare --cases`: off | world (the foundation's own LLM) | "
        "Hugging Face id",
    )
    controls: bool = Field(
        True, description="repeat the last evaluation with inputs removed, zeroed and shuffled"
    )
    clients: int | None = Field(
        None,
        ge=1,
        description="number of evaluated clients, a seeded draw; none = all",
    )
    loss: bool = Field(
        False,
        description="also measure the held-out loss per answer token; one more pass over the test samples",
    )
    ranking: Annotated[int | None, ReadWith(".generate", (True,))] = Field(
        None,
        ge=2,
        description="number of answers to the same question among which the true one is ranked by the model's likelihood; "
        "none = not measured",
    )
    ranked: Annotated[int | None, ReadWith(".ranking")] = Field(
        None, ge=1, description="most ranked samples of one client and question; none = all"
    )
    updates: bool = Field(
        False,
        description="per round: agreement between the clients' changes, and with the previous round's change",
    )
    diagnostics: Literal["off"] | Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="rounds between diagnostics of the LoRA aggregation (docs/methods/lora-family.md); the last round has them, "
        "too: a number | off; none = in the rounds in which the models are evaluated",
    )
    samples: int = Field(8, ge=0, description="test samples per modality shown in the report")

    @field_validator("diagnostics", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """Read `off` as written: YAML takes it for false."""
        return "off" if value is False else value


TESTS = ("test samples",)
"""Owner of the test samples' features in the cache; a tuple, which no client's name is."""


@dataclass(frozen=True)
class TestSet:
    """Every client's prepared test samples, in client order; `of[i]` is the client of `samples[i]`."""

    __test__ = False  # not a pytest class

    of: Sequence[str]
    samples: Sequence[Sample]
    examples: Sequence[Any]
    places: Sequence[int] = ()
    """Positions of the samples in the whole test set."""
    whole: Sequence[Any] = ()
    """The whole set's examples; empty if features must not be cached."""

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Positions of each client's samples."""
        places: dict[str, list[int]] = {}
        for i, client in enumerate(self.of):
            places.setdefault(client, []).append(i)
        return places

    @classmethod
    def prepare(cls, parts: Mapping[str, Sequence[Sample]], model: Trainable) -> "TestSet":
        """Prepare the union of the clients' test samples; those from files as they are used."""
        pairs = [(client, sample) for client in sorted(parts) for sample in parts[client]]
        samples = [s for _, s in pairs]
        examples = prepared(model, samples, TESTS)
        return cls([c for c, _ in pairs], samples, examples, range(len(pairs)), examples)

    def count(self, client: str) -> int:
        """The number of a client's samples."""
        return len(self._places.get(client, []))

    def only(self, client: str) -> "TestSet":
        """One client's samples."""
        return self.part([client])

    def part(self, clients: Sequence[str]) -> "TestSet":
        """These clients' samples, client by client."""
        keep = [(client, i) for client in clients for i in self._places.get(client, [])]
        return TestSet(
            [c for c, _ in keep],
            [self.samples[i] for _, i in keep],
            part_of(self.examples, [i for _, i in keep]),
            [self.places[i] for _, i in keep] if self.whole else (),
            self.whole,
        )


def evaluated_clients(names: Sequence[str], settings: Evaluation, seed: int) -> list[str]:
    """The evaluated clients in name order: all, or a seeded draw, the same in every round."""
    ordered = sorted(names)
    if settings.clients is None or settings.clients >= len(ordered):
        return ordered
    order = torch.randperm(len(ordered), generator=torch_stream(seed, "evaluated clients"))
    return sorted(ordered[i] for i in order[: settings.clients].tolist())


@torch.no_grad()
def evaluate(
    model: Trainable, tests: TestSet, settings: Evaluation, *, generate: bool
) -> list[EvaluationRecord]:
    """One record per test sample, by the model as loaded."""
    records = []
    version = model.feature_version() if tests.whole and model.store.on and model.has_features else None
    ranks = _ranks(model, tests, settings, version) if generate and settings.ranking is not None else {}
    for start in range(0, len(tests.examples), settings.batch_size):
        tell(f"evaluating, {start} of {len(tests.examples)} samples")
        part = slice(start, start + settings.batch_size)
        batch = tests.examples[part]
        features = _features(model, tests, range(len(tests.examples))[part], version)
        counts = model.score(batch, features)
        answers: Sequence[str | None] = [None] * len(batch)
        if generate:
            answers = model.generate(batch, settings.max_new_tokens, features)
        losses: Sequence[float | None] = [None] * len(batch)
        if settings.loss:
            losses = model.losses(batch, range(len(batch)), len(batch), features).tolist()
        for i, (client, sample, (tokens, correct), answer, loss) in enumerate(
            zip(tests.of[part], tests.samples[part], counts, answers, losses, strict=True), start
        ):
            records.append(
                EvaluationRecord(
                    client,
                    sample.kind,
                    sample.uid,
                    sample.answer,
                    answer,
                    tokens,
                    correct,
                    labelled="labels" in sample.meta or "classes" in sample.meta,
                    loss=loss,
                    ranked=ranks.get(i),
                )
            )
    return records


def _features(
    model: Trainable, tests: TestSet, positions: Sequence[int], version: bytes | None
) -> Sequence[Any]:
    """The features of the samples at these positions; `version` is the cache's, None where they are computed anew."""
    if version is None:
        return model.features([tests.examples[i] for i in positions])
    return model.kept_features(version, TESTS, [tests.places[i] for i in positions], tests.whole)


def _ranks(
    model: Trainable, tests: TestSet, settings: Evaluation, version: bytes | None
) -> Mapping[int, float]:
    """See `ranking.rank`; of a model that cannot rank answers nothing, and no task with such a model reads the setting."""
    if settings.ranking is None or not isinstance(model, RanksAnswers):
        return {}
    listed = candidates(tests.of, tests.samples, settings.ranking, settings.ranked)
    features = partial(_features, model, tests, version=version)
    return rank(model, tests.samples, tests.examples, listed, features, settings.batch_size)


@dataclass(frozen=True)
class Assessment:
    """Metrics by name, per-client metrics, and the records for the report."""

    metrics: Mapping[str, float]
    clients: Mapping[str, Mapping[str, float]]
    """Per client, on its own test samples, `<kind>/<metric>`: of its personal model, else of the common one."""
    records: Sequence[EvaluationRecord]
    common: Mapping[str, Mapping[tuple[str, str], float]] = field(default_factory=dict)
    """By test set of all clients' models and sample (client or "", uid), the share of the models that answer it right."""
    own: Sequence[EvaluationRecord] = ()
    """Of the personal models, each on its client's samples, where `records` are the common model's."""


def assess(
    model: Trainable,
    common: Mapping[str, Tensor],
    own: Mapping[str, ClientModel],
    tests: TestSet,
    settings: Evaluation,
    *,
    generate: bool,
    everywhere: bool,
    cohort: int = 1,
) -> Assessment:
    """`global/...`: the common model on all clients' test samples. `local/...`: each personal model on its client's samples.

    `cohort`: most clients whose personal models share a batch.

    Without a common model, `global/...` is the mean over the personal models, each on all clients' test samples. It is
    measured only if `everywhere`, because it costs clients x samples.
    """
    embedder = embedder_of(settings.bertscore, model) if generate else None
    metrics: dict[str, float] = {}
    records: list[EvaluationRecord] = []
    summary = summarise([])
    if common:
        model.load(common)
        with stage("the common model"):
            found = evaluate(model, tests, settings, generate=generate)
        summary = summarise(found, "global", embedder)
        records = summary.records
        metrics |= summary.metrics
    local: list[EvaluationRecord] = []
    per_client: list[Mapping[str, float]] = []
    answered: list[EvaluationRecord] = []
    whole = not common and everywhere  # a client's own samples are among everybody's
    alone = whole or (generate and settings.ranking is not None)  # candidates stand in batches of their own
    due = packs(
        model,
        own,
        sorted(own),
        tests.count,
        batch_size=settings.batch_size,
        cohort=1 if alone else cohort,
    )

    def records_of(clients: Sequence[str]) -> list[EvaluationRecord]:
        part = tests if whole else tests.part(clients)
        return evaluate(model, part, settings, generate=generate)

    number = 1
    for pack in due:
        with stage(pack.whose(number, len(own)) + (" on all clients' samples" if whole else "")):
            found = [record for part in with_pack(model, pack, records_of) for record in part]
        number += len(pack.clients)
        local += [record for record in found if record.client in pack.clients]
        if whole:
            per_client.append(summarise(found, "global", embedder).metrics)
            answered += found
    if local:
        summary = summarise(local, "local", embedder)
        local = summary.records
        metrics |= summary.metrics
    if per_client:
        metrics |= {n: fmean(f[n] for f in per_client) for n in per_client[0] if n.startswith("global/")}
    return Assessment(
        metrics,
        client_figures(summary),
        records or local,
        shares_right(answered),
        local if records else (),
    )


def shares_right(records: Iterable[EvaluationRecord]) -> dict[str, dict[tuple[str, str], float]]:
    """By kind and labelled sample (its client, uid), the share of the models that answer it right; one record per model."""
    hits: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for r in records:
        if r.labelled:
            hits[r.kind][r.client, r.uid].append(r.correct)
    return {kind: {sample: fmean(own) for sample, own in of.items()} for kind, of in hits.items()}


def client_figures(summary: Summary) -> dict[str, dict[str, float]]:
    """Per client, `<kind>/<metric>`, of a summary's rows; without the metrics of an embedder, named in brackets."""
    figures: dict[str, dict[str, float]] = {}
    for row in summary.clients:
        own = {f"{row['kind']}/{n}": v for n, v in row.items() if isinstance(v, float) and "[" not in n}
        figures.setdefault(str(row["client"]), {}).update(own)
    return figures
