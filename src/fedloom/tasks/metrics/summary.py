"""From one record per test sample to named numbers: per modality, per client, worst and mean client."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Literal

from fedloom.tasks.metrics.bertscore import Embedder, bert_score
from fedloom.tasks.metrics.metric import METRICS, metric_of
from fedloom.tasks.metrics.text import bleu, exact_match, meteor, rouge_l, sentence_bleu, token_f1
from fedloom.tasks.metrics.token_accuracy import TokenAccuracy

Scope = Literal["global", "local"]
"""Which model was evaluated: the federation's shared one, or each client's own (with its personal state)."""

COUNTS = frozenset({"samples", "tokens", "generated"})
"""Columns that count instead of measuring; they have neither a worst client nor a mean over clients."""


@dataclass(frozen=True)
class EvaluationRecord:
    """What one client's test sample gave.

    `kind` is its modalities (`Sample.kind`). `prediction` is the generated answer, "" if it was empty
    (scores 0), None if nothing was generated (not asked for; the sample then counts for token accuracy
    alone). `tokens` and `correct` count answer tokens, teacher forced; 0 and 0 if that was not measured. `loss` is the mean
    negative log-likelihood of an answer token, None if not measured.
    `labelled` marks a classification: 1 and 1 for a right label, and `accuracy` is all that is measured.
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


@dataclass(frozen=True)
class Summary:
    """Named numbers, all in [0, 1] but the counts and negative cosines.

    `metrics`: flat, by name. `clients`: one row per client and kind (`client`, `kind`, then its metrics).
    `worst`: which client each `worst_client/...` number belongs to. `samples`: one row per record
    (`client`, `kind`, `uid`, then its metrics), in the records' order. `notes`: what reproduces a number,
    such as BLEU's signature.
    """

    metrics: Mapping[str, float]
    clients: Sequence[Mapping[str, str | float]]
    worst: Mapping[str, str]
    samples: Sequence[Mapping[str, str | float]]
    notes: Mapping[str, str] = field(default_factory=dict)


def score_samples(
    records: Sequence[EvaluationRecord], embedder: Embedder | None = None
) -> list[dict[str, float]]:
    """Every per-sample metric of every record, in order; a metric that was not measured is an absent key."""
    rows: list[dict[str, float]] = [
        {"accuracy" if r.labelled else "token_accuracy": r.correct / r.tokens} if r.tokens else {}
        for r in records
    ]
    for row, record in zip(rows, records, strict=True):
        if record.loss is not None:
            row["loss"] = record.loss
    asked = [i for i, r in enumerate(records) if r.prediction is not None and not r.labelled]
    if not asked:
        return rows
    predictions = [records[i].prediction or "" for i in asked]
    references = [records[i].reference for i in asked]
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
            columns[metric.name] = [metric.score(p, r) for p, r in zip(predictions, references, strict=True)]
    for name, values in columns.items():
        for i, value in zip(asked, values, strict=True):
            rows[i][name] = value
    return rows


def summarise(
    records: Sequence[EvaluationRecord], scope: Scope = "global", embedder: Embedder | None = None
) -> Summary:
    """Evaluate the records of one model (`scope`) on every modality and client.

    Names: `<scope>/<kind>/<metric>` over all samples of a modality, whatever their client (token accuracy
    and BLEU over the corpus, the others as means over samples); `worst_client/<kind>/<metric>`, the lowest
    of the clients' own numbers; `mean_client/<kind>/<metric>`, their unweighted mean. For scope `local` the
    latter two start with `local/`, so that both scopes fit into one mapping. The order of the records
    changes nothing but the order of `samples`. No records give no numbers.
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
            measured = {client: values[name] for client, values in clients.items() if name in values}
            # Clients stand in alphabetical order, so a tie has one answer.
            metric = metric_of(name)
            sign = -1 if metric is not None and metric.lower_is_better else 1
            lowest = min(measured, key=lambda client: sign * measured[client])
            metrics[f"{prefix}worst_client/{kind}/{name}"] = measured[lowest]
            worst[f"{prefix}worst_client/{kind}/{name}"] = lowest
            metrics[f"{prefix}mean_client/{kind}/{name}"] = _mean(list(measured.values()))
    table: list[Mapping[str, str | float]] = [
        {"client": r.client, "kind": r.kind, "uid": r.uid, **s} for r, s in zip(records, samples, strict=True)
    ]
    return Summary(metrics, rows, worst, table, notes)


def _corpus(
    records: Sequence[EvaluationRecord], samples: Sequence[Mapping[str, float]], chosen: Sequence[int]
) -> dict[str, float]:
    """The metrics of the chosen records as one corpus."""
    part = [records[i] for i in chosen]
    if all(r.labelled for r in part):
        return {"samples": float(len(part)), "accuracy": _mean([samples[i]["accuracy"] for i in chosen])}
    counts = TokenAccuracy.of([r.tokens for r in part], [r.correct for r in part])
    asked = [r for r in part if r.prediction is not None]
    values = {"samples": float(len(part)), "generated": float(len(asked)), **counts.metrics()}
    told = [r for r in part if r.loss is not None]
    if told and counts_tokens(told):  # over all tokens, as token accuracy
        values["loss"] = fsum((r.loss or 0.0) * r.tokens for r in told) / counts_tokens(told)
    names = {name for i in chosen for name in samples[i]} - {"token_accuracy", "loss"}
    for name in sorted(names):
        values[name] = _mean([samples[i][name] for i in chosen if name in samples[i]])
    if asked:
        values["bleu"] = bleu([r.prediction or "" for r in asked], [r.reference for r in asked]).score
    return values


def counts_tokens(records: Sequence[EvaluationRecord]) -> int:
    """Answer tokens of these records."""
    return sum(r.tokens for r in records)


def _notes(records: Sequence[EvaluationRecord], embedder: Embedder | None) -> dict[str, str]:
    if all(record.prediction is None or record.labelled for record in records):
        return {}
    notes = {
        "bleu": bleu([""], [""]).signature,  # the signature does not depend on the texts
        "sentence_bleu": "mean over samples, exponential smoothing, effective order",
        "rouge_l": "rouge-score rougeL F-measure, no stemmer, mean over samples",
    }
    if embedder is not None:
        notes["bertscore"] = f"{embedder.name}, no IDF, no baseline rescaling, F per sample"
    return notes


def _mean(values: Sequence[float]) -> float:
    # fsum is exact before its one rounding: the order of the samples cannot change a mean.
    return fsum(values) / len(values)
