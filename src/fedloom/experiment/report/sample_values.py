"""Per-sample values of a figure, from a run's predictions; bootstrap intervals and paired differences rest on them.

A figure that is no plain mean over samples (token accuracy is one over tokens, `clients/...` one over clients) is linearised:
each sample gets the figure plus its influence on it, so that the mean of the values is the figure and their spread is its spread
to first order. BLEU and harmonic means are in `linearised.py`.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import fsum
from pathlib import Path
from statistics import fmean

from fedloom.experiment.report.columns import AVERAGE, CLIENTS, Column, figure_of
from fedloom.experiment.report.linearised import bleu_values, harmonic_values
from fedloom.experiment.report.predictions import Prediction, common_predictions, predictions
from fedloom.experiment.report.read import Run
from fedloom.tasks.metrics.metric import METRICS
from fedloom.tasks.metrics.text import exact_match, meteor, rouge_l, sentence_bleu, token_f1

TOLERANCE = 1e-6
"""Largest distance of a figure from the same one computed on the predictions, beyond which they are not its samples."""

Sample = tuple[str, str]
"""A client and the uid of one of its test samples."""
Unit = tuple[str | None, str, str]
"""The same with the study's part before it."""
Weighed = Mapping[Sample, tuple[float, float]]
"""A sample's score and its weight in the mean."""

COMMON = {"base/image/accuracy": "base", "novel/image/accuracy": "novel"}
"""Figures over the common test sets, whose samples are the same for every client: no client is part of their unit."""
HARMONIC = {"hm": ("local/image/accuracy", *COMMON), "hm2": tuple(COMMON)}
"""Harmonic means, with the accuracies of which they are made."""

TEXT: Mapping[str, Callable[[Sequence[str], Sequence[str]], Sequence[float]]] = {
    "exact_match": exact_match,
    "f1": token_f1,
    "rouge_l": rouge_l,
    "sentence_bleu": sentence_bleu,
}
"""Scores of generated answers that need the two texts alone."""


class SampleValues:
    """Per-sample values of runs; every predictions file is read once, and every figure scored once."""

    def __init__(self) -> None:
        self._records: dict[Path, Mapping[Sample, Prediction]] = {}
        self._own: dict[Path, Mapping[Sample, Prediction]] = {}
        self._commons: dict[Path, Mapping[str, Mapping[Sample, float]]] = {}
        self._values: dict[tuple[Path, str], dict[Sample, float] | None] = {}

    def of_runs(self, runs: Sequence[Run], column: Column) -> dict[Unit, float] | None:
        """Values by part, client and uid, whose mean is the row's figure in the column.

        One uid of several seeds is one unit, with its mean over the seeds. None unless every run's predictions give its figure.
        """
        chosen = [run for run in runs if column.across in (None, AVERAGE, run.across)]
        if column.across == AVERAGE and len(chosen) != column.parts * len({r.summary.seed for r in chosen}):
            return None
        found = [(run.across, self.of_run(run, column.key)) for run in chosen]
        influence: dict[Unit, float] = defaultdict(float)
        means = []
        for across, values in found:
            if values is None:
                return None
            mean = fmean(values.values())
            means.append(mean)
            for (client, uid), value in values.items():
                influence[across, client, uid] += (value - mean) / len(values) / len(found)
        if not means:
            return None
        return {unit: fmean(means) + len(influence) * value for unit, value in influence.items()}

    def of_run(self, run: Run, key: str) -> dict[Sample, float] | None:
        """Values by client and uid, whose mean is the run's figure `key`; None unless the predictions give that figure."""
        place = (run.folder, key)
        if place not in self._values:
            self._values[place] = self._of_run(run, key)
        return self._values[place]

    def _of_run(self, run: Run, key: str) -> dict[Sample, float] | None:
        plain, bracket, embedder = key.partition("[")
        scope, _, rest = plain.partition("/")
        kind, _, metric = rest.rpartition("/")
        metric += bracket + embedder
        figure = figure_of(run, key)
        if figure is not None and (key in COMMON or key in HARMONIC):
            found = self._shares(run, COMMON[key]) if key in COMMON else self._harmonic(run, HARMONIC[key])
            return found if _gives(figure, found) else None
        if figure is not None and (scope, metric) == ("global", "accuracy"):
            found = self._shares(run, kind)
            if _gives(figure, found):
                return found
        if scope not in ("global", "local", CLIENTS[:-1]) or figure is None or not math.isfinite(figure):
            return None
        if metric == "bleu":
            answered = {s: r for s, r in self._read(run).items() if r.kind == kind and not r.labelled}
            found = bleu_values({s: (r.prediction, r.reference) for s, r in answered.items()})
            near = found and abs(fmean(found.values()) - figure) <= TOLERANCE
            return found if near and scope != CLIENTS[:-1] else None
        for records in self._answers(run, scope):
            scored = _scored({s: r for s, r in records.items() if r.kind == kind}, metric)
            if not scored or (scope != "global" and not _are_the_clients(scored, run, f"{kind}/{metric}")):
                continue
            ways = {"global": (_pooled,), "local": (_pooled, _by_client)}.get(scope, (_by_client,))
            for way in ways:
                mean, values = way(scored)
                if abs(mean - figure) <= TOLERANCE:
                    return values
        return None

    def _shares(self, run: Run, name: str) -> dict[Sample, float]:
        """The share of clients' models that are right, by sample of a set."""
        if run.folder not in self._commons:
            self._commons[run.folder] = common_predictions(run.folder, _moment(run))
        return dict(self._commons[run.folder].get(name, {}))

    def _harmonic(self, run: Run, keys: Sequence[str]) -> dict[Sample, float] | None:
        parts = [self.of_run(run, key) for key in keys]
        if any(not part for part in parts):
            return None
        # One picture may stand in a client's own and in a common set: it is drawn once for both.
        return harmonic_values([{("", uid): v for (_, uid), v in part.items()} for part in parts if part])

    def _read(self, run: Run) -> Mapping[Sample, Prediction]:
        if run.folder not in self._records:
            self._records[run.folder] = predictions(run.folder, _moment(run))
        return self._records[run.folder]

    def _answers(self, run: Run, scope: str) -> list[Mapping[Sample, Prediction]]:
        """The answers that may give a scope's figures: personal models' before a common one's, but for `global`."""
        if scope == "global":
            return [self._read(run)]
        if run.folder not in self._own:
            self._own[run.folder] = predictions(run.folder, _moment(run), "own-")
        return [self._own[run.folder], self._read(run)]


def _gives(figure: float, values: Mapping[Sample, float] | None) -> bool:
    """Whether there are values and their mean is the figure."""
    return bool(values) and abs(fmean((values or {}).values()) - figure) <= TOLERANCE


def _moment(run: Run) -> str:
    """The moment of the run's last figures."""
    return "end" if run.summary.rounds else "start"


def _scored(records: Mapping[Sample, Prediction], metric: str) -> Weighed:
    """Score and weight of every sample on which the metric was measured."""
    if metric == "accuracy":
        return {s: (r.correct / r.tokens, 1.0) for s, r in records.items() if r.labelled and r.tokens}
    if metric == "token_accuracy":
        return {
            s: (r.correct / r.tokens, float(r.tokens))
            for s, r in records.items()
            if r.tokens and not r.labelled
        }
    if metric == "loss":
        return {s: (r.loss, float(r.tokens)) for s, r in records.items() if r.loss is not None and r.tokens}
    if metric.startswith("bertscore_"):
        return {s: (r.scores[metric], 1.0) for s, r in records.items() if metric in r.scores}
    answered = {s: r for s, r in records.items() if r.prediction is not None and not r.labelled}
    scores = _of_answers(
        metric, [r.prediction or "" for r in answered.values()], [r.reference for r in answered.values()]
    )
    return {
        s: (score, 1.0) for s, score in zip(answered, scores, strict=bool(scores)) if not math.isnan(score)
    }


def _of_answers(metric: str, answers: Sequence[str], references: Sequence[str]) -> Sequence[float]:
    """The scores of generated answers; empty for a metric that the texts alone do not give."""
    if metric in TEXT:
        return TEXT[metric](answers, references)
    if metric in ("meteor", "meteor_exact"):
        name, scores = meteor(answers, references)
        return scores if name == metric else ()
    known = METRICS.get(metric)
    if known is None or known.score is None:
        return ()
    return [known.score(answer, reference) for answer, reference in zip(answers, references, strict=True)]


def _pooled(scored: Weighed) -> tuple[float, dict[Sample, float]]:
    """The weighted mean over all samples, and the values whose plain mean it is."""
    total = fsum(weight for _, weight in scored.values())
    mean = fsum(score * weight for score, weight in scored.values()) / total
    return mean, {s: mean + len(scored) * w * (score - mean) / total for s, (score, w) in scored.items()}


def _by_client(scored: Weighed) -> tuple[float, dict[Sample, float]]:
    """The mean over the clients of each one's weighted mean, and the values whose plain mean it is."""
    means = _client_means(scored)
    mean = fmean(means.values())
    totals: dict[str, float] = defaultdict(float)
    for (client, _), (_, weight) in scored.items():
        totals[client] += weight
    values = {
        (client, uid): mean + len(scored) * w * (score - means[client]) / totals[client] / len(means)
        for (client, uid), (score, w) in scored.items()
    }
    return mean, values


def _client_means(scored: Weighed) -> dict[str, float]:
    clients: dict[str, dict[Sample, tuple[float, float]]] = defaultdict(dict)
    for sample, pair in scored.items():
        clients[sample[0]][sample] = pair
    return {client: _pooled(own)[0] for client, own in clients.items()}


def _are_the_clients(scored: Weighed, run: Run, name: str) -> bool:
    """Whether the samples give every client's own figure, which the answers of another model would not."""
    means = _client_means(scored)
    own = {c.client: c.metrics[name] for c in run.summary.clients if name in c.metrics}
    return own.keys() == means.keys() and all(abs(own[c] - means[c]) <= TOLERANCE for c in own)
