"""A run's figures and predictions as pandas' DataFrames."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from fedloom.tasks.metrics import EvaluationRecord

if TYPE_CHECKING:
    from pandas import DataFrame


def metrics_frame(lines: Iterable[Mapping[str, Any]]) -> "DataFrame":
    """Rounds by figures, of the lines of `metrics.jsonl`; NaN where a round did not measure a figure."""
    from pandas import DataFrame, Index

    rounds: dict[int, dict[str, float]] = {}
    names: dict[str, None] = {}
    for line in lines:
        rounds.setdefault(line["round"], {})[line["name"]] = float(line["value"])
        names[line["name"]] = None
    ordered = sorted(rounds)
    index = Index(ordered, name="round")
    return DataFrame([rounds[r] for r in ordered], index=index, columns=list(names), dtype="float64")


def predictions_frame(records: Iterable[Mapping[str, Any]]) -> "DataFrame":
    """A row for each test sample: client, kind, uid, reference, prediction, and the counts of its evaluation."""
    from pandas import DataFrame

    # a file leaves out scores that nobody computed
    rows = [{**record, "scores": record.get("scores") or {}} for record in records]
    return DataFrame(rows, columns=[field.name for field in fields(EvaluationRecord)])
