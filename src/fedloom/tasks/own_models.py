"""Evaluation of clients with models of their own: each at home, and on what all clients of its modality hold."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean, pstdev

from fedloom.data.sample import Sample
from fedloom.models.own.model_bank import ModelBank
from fedloom.tasks.evaluation import Assessment, ClientModel, TestSet
from fedloom.tasks.metrics import EvaluationRecord, summarise


def assess_own_models(model: ModelBank, own: Mapping[str, ClientModel], tests: TestSet) -> Assessment:
    """`local/<modality>/accuracy` on the clients' own test parts, `global/...` on those of all clients of the modality.

    The latter is the mean over clients, with `spread/<modality>/accuracy`, its standard deviation over clients, and
    `client/<name>/accuracy`.
    """
    records: list[EvaluationRecord] = []
    everywhere: dict[str, list[float]] = defaultdict(list)
    metrics: dict[str, float] = {}
    for client in sorted(own):
        model.load(own[client].tensors)
        modality = model.current.modality
        chosen = [i for i, s in enumerate(tests.samples) if s.kind == modality]
        if not chosen:  # a draw of clients to evaluate has left out the whole modality
            continue
        examples = model.read([tests.samples[i] for i in chosen])
        guesses = model.guesses(examples)
        right = [g == e.label for g, e in zip(guesses, examples, strict=True)]
        everywhere[modality].append(fmean(right))
        metrics[f"client/{client}/accuracy"] = fmean(right)
        records += [
            _record(client, tests.samples[i], model.names[g], hit)
            for i, g, hit in zip(chosen, guesses, right, strict=True)
            if tests.of[i] == client
        ]
    for modality, found in sorted(everywhere.items()):
        metrics[f"global/{modality}/accuracy"] = fmean(found)
        metrics[f"spread/{modality}/accuracy"] = pstdev(found)
    summary = summarise(records, "local")
    clients: dict[str, dict[str, float]] = {}
    for row in summary.clients:
        figures = {f"{row['kind']}/{n}": v for n, v in row.items() if isinstance(v, float)}
        clients.setdefault(str(row["client"]), {}).update(figures)
    return Assessment({**metrics, **summary.metrics}, clients, records)


def _record(client: str, sample: Sample, guess: str, hit: bool) -> EvaluationRecord:
    return EvaluationRecord(client, sample.kind, sample.uid, sample.answer, guess, 1, int(hit), labelled=True)
