"""Measures new metrics on the answers that a finished run kept, without its model."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.files import text_lines, write_atomic
from fedloom.core.folder_lock import locked
from fedloom.core.seals import CHECKSUMS, write_checksums
from fedloom.experiment.finished_run import results
from fedloom.experiment.registry import OWN_METRICS, load_entry_points
from fedloom.experiment.report import write_report
from fedloom.experiment.report.load_study import read
from fedloom.experiment.report.predictions import predictions
from fedloom.experiment.report.read import Run
from fedloom.tasks.frozen_llm import WORLD, embedder_of
from fedloom.tasks.metrics import Embedder, EvaluationRecord, Scope, Summary, summarise
from fedloom.tasks.metrics.metric import metric_of

TOLERANCE = 1e-6
"""Largest distance of a kept figure from the same one measured anew, beyond which the answers are another model's."""


def rescore(folder: Path, bertscore: str = "off") -> dict[str, list[str]]:
    """Measure the metrics that a run, or every run of a study, lacks; the names of the new figures by run folder.

    `bertscore`: an embedder as in `evaluation.bertscore`, but `world`, whose model is not loaded. What the run measured stays as
    it is. Summary, metrics, checksums and report are written anew. Raises ExperimentError for a run that kept no answers.
    """
    if bertscore == WORLD:
        raise ExperimentError(
            "--bertscore: world is the run's own model, which is not loaded; name minilm or a model"
        )
    load_entry_points()
    runs = read(folder).runs
    embedder = embedder_of(bertscore, None)
    found = {str(run.folder): _rescored(run, embedder) for run in runs}
    if any(found.values()):
        write_report(folder)
    return found


def _rescored(run: Run, embedder: Embedder | None) -> list[str]:
    """Measure one run and write what is new; its names."""
    last = run.summary.rounds
    moments = {0: "start", last: "end"} if last else {0: "start"}
    summaries = {number: _measured(run, moment, number, embedder) for number, moment in moments.items()}
    known = set(run.names())
    new = {
        number: {n: v for n, v in summary.metrics.items() if n not in known and math.isfinite(v)}
        for number, summary in summaries.items()
        if summary is not None
    }
    if not new:
        raise ExperimentError(
            f"{run.folder} holds no answers to measure; evaluation.generate=true keeps them, and a deployment leaves them at "
            "the sites"
        )
    names = list(dict.fromkeys(name for values in new.values() for name in values))
    if names:
        with locked(run.folder):
            _write(run, new, summaries.get(last))
    return names


def _measured(run: Run, moment: str, number: int, embedder: Embedder | None) -> Summary | None:
    """The figures of the answers at a moment, of the model that gave them; None if none were kept."""
    records = [
        EvaluationRecord(
            r.client, r.kind, r.uid, r.reference, r.prediction, r.tokens, r.correct, r.labelled, r.loss
        )
        for r in predictions(run.folder, moment).values()
    ]
    if all(r.prediction is None for r in records):
        return None
    kept = {
        name: value
        for name in run.names()
        if (value := run.start(name) if number == 0 else run.final(name)) is not None
    }
    scopes: Sequence[Scope] = ("global", "local")
    for scope in scopes:
        summary = summarise(records, scope, embedder)
        both = [n for n in summary.metrics if n in kept and n.startswith(f"{scope}/") and _is_fixed(n)]
        if both and all(abs(summary.metrics[n] - kept[n]) <= TOLERANCE for n in both):
            return summary
    raise ExperimentError(
        f"{run.folder / f'predictions-{moment}.jsonl'} does not give the run's own figures, so that new ones would belong to "
        "another model; run it again"
    )


def scopes_of(names: Iterable[str]) -> set[str]:
    """The first parts of figures' names, such as global and local."""
    return {name.partition("/")[0] for name in names}


def _is_fixed(name: str) -> bool:
    """Whether a figure is the same on every machine: no plug-in's, and none of an embedder."""
    return "[" not in name and (metric := metric_of(name)) is not None and metric in OWN_METRICS


def _write(run: Run, new: Mapping[int, Mapping[str, float]], end: Summary | None) -> None:
    """Add the figures to summary.json and metrics.jsonl, and seal the results anew."""
    file = run.folder / "summary.json"
    summary: dict[str, Any] = json.loads(file.read_bytes())
    last = summary["rounds"]
    summary["metrics"] |= new.get(last, {})
    summary["metrics"].setdefault("start", {}).update(new.get(0, {}))
    if end is not None and "local" in scopes_of(run.names()) - scopes_of(end.metrics):
        end = None  # the clients' own figures are those of their personal models
    rows = () if end is None else end.clients
    for client in summary.get("clients", []) if end is not None else ():
        own = {
            f"{row['kind']}/{name}": value
            for row in rows
            if row["client"] == client["client"]
            for name, value in row.items()
            if isinstance(value, float) and math.isfinite(value)
        }
        client["metrics"] = own | client["metrics"]
    lines = [
        {"round": n, "name": name, "value": v} for n, values in new.items() for name, v in values.items()
    ]
    before = [line for line in text_lines(run.folder / "metrics.jsonl") if line]
    text = "".join(f"{line}\n" for line in [*before, *(json.dumps(x, sort_keys=True) for x in lines)])
    (run.folder / CHECKSUMS).unlink(
        missing_ok=True
    )  # a kill from here on leaves files without checksums, which are read
    write_atomic(run.folder / "metrics.jsonl", text.encode())
    write_atomic(file, (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode())
    write_checksums(run.folder, results(run.folder))
