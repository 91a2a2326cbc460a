"""The model's answers to all test samples: `predictions-start.jsonl` and `predictions-end.jsonl` of a run folder."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from pydantic import Field

from fedloom.core.seals import check_files
from fedloom.experiment.report.read import Record, Run, lines

CLIENTS_MEANS = ("local/mean_client/text/accuracy", "mean_client/text/accuracy", "global/text/accuracy")
"""The clients' mean accuracy by round: by their own models, by the global one; over all samples in older runs."""


class Prediction(Record):
    """One test sample's reference and its answer; None if nothing was generated (evaluation.generate=false).

    `tokens`, `correct`, `labelled`, `loss` and `scores` as in `EvaluationRecord`.
    """

    uid: str
    kind: str = "text"
    client: str = ""
    reference: str
    prediction: str | None = None
    tokens: int = Field(0, ge=0)
    correct: int = Field(0, ge=0)
    labelled: bool = False
    loss: float | None = None
    scores: dict[str, float] = Field(default_factory=dict)


class CommonPrediction(Record):
    """One sample of a test set of all clients' models, and the share of them that answer it right.

    `set`: base, novel and so on, or a kind of samples; `client`: the sample's, "" if it is nobody's.
    """

    set: str
    client: str = ""
    uid: str
    right: float = Field(ge=0, le=1 + 1e-9)


def predictions(folder: Path, moment: str, whose: str = "") -> dict[tuple[str, str], Prediction]:
    """The answers of the moment `start` or `end` by client and uid; empty if the run wrote none.

    `whose`: `own-` for those of personal models beside a common one.
    """
    path = folder / f"predictions-{whose}{moment}.jsonl"
    check_files(folder, path.name)
    records = lines(path, Prediction) if path.is_file() else ()
    return {(record.client, record.uid): record for record in records}


def generated_answers(folder: Path, moment: str) -> dict[tuple[str, str], Prediction]:
    """The predictions with an answer; empty if the run generated none."""
    return {key: p for key, p in predictions(folder, moment).items() if p.prediction is not None}


def common_predictions(folder: Path, moment: str) -> dict[str, dict[tuple[str, str], float]]:
    """By test set, client and uid, the share of clients' models that are right; empty if the run wrote none."""
    path = folder / f"predictions-common-{moment}.jsonl"
    check_files(folder, path.name)
    sets: dict[str, dict[tuple[str, str], float]] = {}
    for record in lines(path, CommonPrediction) if path.is_file() else ():
        sets.setdefault(record.set, {})[record.client, record.uid] = record.right
    return sets


def majority(run: Run) -> float | None:
    """The clients' mean accuracy if each always says the commonest reference of its own test samples."""
    records = predictions(run.folder, "start") or predictions(run.folder, "end")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records.values():
        counts[record.client][record.reference] += 1
    return fmean(max(own.values()) / own.total() for own in counts.values()) if counts else None


def rounds_above_majority(run: Run) -> float | None:
    """The first round from which the accuracy stays above that of `majority`; None if there is none.

    The accuracy is the clients' mean, each by its own model where it has one, as in the column clients/text/accuracy.
    """
    line = majority(run)
    series: Mapping[int, float] = next((s for name in CLIENTS_MEANS if (s := run.series(name))), {})
    if line is None:
        return None
    above: int | None = None
    for round, value in series.items():
        above = (round if above is None else above) if value > line else None
    return None if above is None else float(above)
