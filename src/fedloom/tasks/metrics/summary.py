"""Aggregates records of test samples to metrics: per modality, per client, worst and mean client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum, isfinite, isnan
from typing import Literal

from fedloom.core.errors import ExperimentError
from fedloom.tasks.metrics.bertscore import Embedder, bert_score
from fedloom.tasks.metrics.macro_f1 import macro_f1
from fedloom.tasks.metrics.metric import METRICS, Metric, metric_of
from fedloom.tasks.metrics.text import bleu, exact_match, meteor, rouge_l, sentence_bleu, token_f1
from fedloom.tasks.metrics.token_accuracy import TokenAccuracy

Scope = Literal["global", "local"]
"""The evaluated model: the federation's common model, or each client's personal one."""

COUNTS = frozenset({"samples", "tokens", "generated"})
"""Columns of counts, which have neither a worst client nor a mean over clients."""


@dataclass(frozen=True)
class EvaluationRecord:
    """The evaluation of one test sample of a client.

    `kind`: its modalities (`Sample.kind`). `prediction`: the generated answer; "" if empty (scores 0), None if nothing was
    generated (the sample then counts for token accuracy only). `tokens` and `correct`: answer tokens and how many of them are
    predicted, teacher forced; 0 and 0 if not measured. `loss`: mean negative log-likelihood of an answer token, None if not
    measured. `ranked`: 1 where the true answer is ranked first, less in a tie, 0 elsewhere; None if not ranked. `labelled`: marks
    a classification (`accuracy`, `macro_f1`); `tokens` and `correct` are then 1 and 0 or 1. `scores`: metrics by name that the
    texts alone do not give again, such as BERTScore's, which needs its embedder.
    """

    client: str
    kind: str
    uid: str
    reference: str
    prediction: str | None
    tokens: int
    correct: int
    labelled: bool = False
    loss: float | None = None
    ranked: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Named numbers, all in [0, 1] but the counts and negative cosines.

    `metrics`: flat, by name. `clients`: one row per client and kind (`client`, `kind`, then its metrics). `worst`: the client of
    each `worst_client/...` number. `samples`: one row per record (`client`, `kind`, `uid`, then its metrics), in the records'
    order. `notes`: details for reproducing a number, such as BLEU's signature. `records`: the records with their `scores`.
    """

    metrics: Mapping[str, float]
    clients: Sequence[Mapping[str, str | float]]
    worst: Mapping[str, str]
    samples: Sequence[Mapping[str, str | float]]
    notes: Mapping[str, str] = field(default_factory=dict)
    records: list[EvaluationRecord] = field(default_factory=list)


def score_samples(
    records: Sequence[EvaluationRecord], embedder: Embedder | None = None
) -> list[dict[str, float]]:
    """The per-sample metrics of every record, in order; absent are those not measured, or not measurable."""
    rows: list[dict[str, float]] = [
        {"accuracy" if r.labelled else "token_accuracy": r.correct / r.tokens} if r.tokens else {}
        for r in records
    ]
    for row, record in zip(rows, records, strict=True):
        if record.loss is not None:
            row["loss"] = record.loss
        if record.ranked is not None:
            row["ranked_first"] = record.ranked
    generated = [i for i, r in enumerate(records) if r.prediction is not None and not r.labelled]
    if not generated:
        return rows
    predictions = [records[i].prediction or "" for i in generated]
    references = [records[i].reference for i in generated]
    columns: dict[str, Sequence[float]] = {
        "exact_match": exact_match(predictions, references),
        "f1": token_f1(predictions, references),
        "sentence_bleu": sentence_bleu(predictions, references),
        "rouge_l": rouge_l(predictions, references),
    }
    meteor_name, columns_meteor = meteor(predictions, references)
    columns[meteor_name] = columns_meteor
    if embedder is not None:
        columns.update(bert_score(predictions, references, embedder).per_sample())
    for metric in METRICS.values():
        if metric.score is not None:
            columns[metric.name] = [
                _score(metric, p, r) for p, r in zip(predictions, references, strict=True)
            ]
    for name, values in columns.items():
        for i, value in zip(generated, values, strict=True):
            if not isnan(value):  # not measurable
                rows[i][name] = value
    return rows


def _score(metric: Metric, prediction: str, reference: str) -> float:
    """A registered metric of one answer. Raises ExperimentError where it fails, or gives no finite number."""
    assert metric.score is not None  # noqa: S101 - the caller saw to it
    try:
        value = float(metric.score(prediction, reference))
    except Exception as error:  # the metric is the user's: name it
        raise ExperimentError(
            f"the metric {metric.name} fails on the answer {prediction!r} to {reference!r}: {error}"
        ) from error
    if not isfinite(value):
        raise ExperimentError(
            f"the metric {metric.name} gives {value} for the answer {prediction!r} to {reference!r}"
        )
    return value


def summarise(
    records: Sequence[EvaluationRecord], scope: Scope = "global", embedder: Embedder | None = None
) -> Summary:
    """Evaluate the records of one model (`scope`) on every modality and client.

    Names: `<scope>/<kind>/<metric>` over all samples of a modality, of all clients (token accuracy
    and BLEU over the corpus, the others as means over samples); `worst_client/<kind>/<metric>`, the lowest
    of the clients' own numbers; `mean_client/<kind>/<metric>`, their unweighted mean. For scope `local` the
    latter two start with `local/`, so that both scopes fit into one mapping. The order of the records
    affects the order of `samples` only. A metric that no sample allows to measure has no name there. Without records all
    are empty.
    """
    samples = score_samples(records, embedder)
    prefix = "" if scope == "global" else f"{scope}/"
    metrics: dict[str, float] = {}
    worst: dict[str, str] = {}
    rows: list[Mapping[str, str | float]] = []
    notes = _notes(records, embedder)
    for kind in sorted({record.kind for record in records}):
        of_kind = [i for i, record in enumerate(records) if record.kind == kind]
        metrics.update(
            {f"{scope}/{kind}/{name}": v for name, v in _corpus(records, samples, of_kind).items()}
        )
        clients = {
            client: _corpus(records, samples, [i for i in of_kind if records[i].client == client])
            for client in sorted({records[i].client for i in of_kind})
        }
        rows += [{"client": client, "kind": kind, **values} for client, values in clients.items()]
        for name in sorted({name for values in clients.values() for name in values} - COUNTS):
            values_of = {client: values[name] for client, values in clients.items() if name in values}
            # Clients are in alphabetical order, which breaks ties.
            metric = metric_of(name)
            sign = -1 if metric is not None and metric.lower_is_better else 1
            worst_client = min(values_of, key=lambda client: sign * values_of[client])
            metrics[f"{prefix}worst_client/{kind}/{name}"] = values_of[worst_client]
            worst[f"{prefix}worst_client/{kind}/{name}"] = worst_client
            metrics[f"{prefix}mean_client/{kind}/{name}"] = _mean(list(values_of.values()))
    table: list[Mapping[str, str | float]] = [
        {"client": r.client, "kind": r.kind, "uid": r.uid, **s} for r, s in zip(records, samples, strict=True)
    ]
    kept = list(records) if embedder is None else list(map(_with_scores, records, samples))
    return Summary(metrics, rows, worst, table, notes, kept)


def _with_scores(record: EvaluationRecord, sample: Mapping[str, float]) -> EvaluationRecord:
    scores = {name: value for name, value in sample.items() if name.startswith("bertscore_")}
    return replace(record, scores=scores) if scores else record


def _corpus(
    records: Sequence[EvaluationRecord], samples: Sequence[Mapping[str, float]], chosen: Sequence[int]
) -> dict[str, float]:
    """The metrics of the chosen records as one corpus."""
    chosen_records = [records[i] for i in chosen]
    if all(r.labelled for r in chosen_records):
        values = {
            "samples": float(len(chosen_records)),
            "accuracy": _mean([samples[i]["accuracy"] for i in chosen]),
        }
        predicted = [r.prediction for r in chosen_records if r.prediction is not None]
        if len(predicted) == len(chosen_records):
            values["macro_f1"] = macro_f1(predicted, [r.reference for r in chosen_records])
        return values
    counts = TokenAccuracy.of([r.tokens for r in chosen_records], [r.correct for r in chosen_records])
    generated = [r for r in chosen_records if r.prediction is not None]
    values = {"samples": float(len(chosen_records)), "generated": float(len(generated)), **counts.metrics()}
    with_loss = [r for r in chosen_records if r.loss is not None]
    if with_loss and counts_tokens(with_loss):  # over all tokens, as token accuracy
        values["loss"] = fsum((r.loss or 0.0) * r.tokens for r in with_loss) / counts_tokens(with_loss)
    names = {name for i in chosen for name in samples[i]} - {"token_accuracy", "loss"}
    for name in sorted(names):
        values[name] = _mean([samples[i][name] for i in chosen if name in samples[i]])
    with_reference = [r for r in generated if r.reference.strip()]
    if with_reference:
        score = bleu(
            [r.prediction or "" for r in with_reference], [r.reference for r in with_reference]
        ).score
        values |= {} if isnan(score) else {"bleu": score}
    return values


def counts_tokens(records: Sequence[EvaluationRecord]) -> int:
    """Number of answer tokens of these records."""
    return sum(r.tokens for r in records)


def _notes(records: Sequence[EvaluationRecord], embedder: Embedder | None) -> dict[str, str]:
    if all(record.prediction is None or record.labelled for record in records):
        return {}
    notes = {
        # The signature does not depend on the texts.
        "bleu": f"{bleu([''], ['']).signature}, letters of scripts without spaces set apart",
        "sentence_bleu": "mean over samples, exponential smoothing, effective order",
        "rouge_l": "rouge-score rougeL F-measure, no stemmer, words in any script, mean over samples",
    }
    if embedder is not None:
        notes["bertscore"] = f"{embedder.name}, no IDF, no baseline rescaling, F per sample"
    return notes


def _mean(values: Sequence[float]) -> float:
    # fsum rounds once: the mean does not depend on the order of the samples.
    return fsum(values) / len(values)
