"""Cases (UniFLoW Tables 17 and 18): a few test samples with every row's answers and their scores."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.text import Text

from fedloom.core.errors import ExperimentError
from fedloom.core.terminal_tables import fitted
from fedloom.data.sources import SOURCES
from fedloom.experiment.report.load_study import gather
from fedloom.experiment.report.predictions import Prediction, generated_answers
from fedloom.experiment.report.read import Run, SampleRecord
from fedloom.experiment.report.samples import is_right
from fedloom.experiment.report.table import BEFORE, WIDTH, markdown_cell
from fedloom.models.base import Trainable
from fedloom.tasks.frozen_llm import WORLD, embedder_of, judge_of
from fedloom.tasks.metrics import Embedder, GPTScore, bert_score
from fedloom.tasks.registry import TASKS

FOOTNOTE = (
    "Samples are the first of the run's gallery (samples/samples.json), the same for every row; first seed. "
    "BLEURT, which the paper shows too, is not built."
)


Load = Callable[[Path], Trainable]


@dataclass(frozen=True)
class Case:
    """One test sample and its answers; a line is row, answer, exact match and, if measured, BERTScore F and GPTScore."""

    title: str
    question: str
    reference: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def rich(self, width: int = WIDTH) -> Group:
        """The case for the terminal; text from data is not parsed as markup."""
        head = Text(f"{self.title}\nQ: {self.question}\nreference: {self.reference}\n")
        return Group(head, fitted(self.header, self.lines, width))

    def markdown(self) -> str:
        """A heading, question and reference, and a GitHub-flavoured table."""
        head = [f"**{markdown_cell(self.title)}**", f"Q: {markdown_cell(self.question)}"]
        head.append(f"Reference: {markdown_cell(self.reference)}")
        lines = [self.header, ["---"] * len(self.header), *self.lines]
        grid = "\n".join(f"| {' | '.join(map(markdown_cell, line))} |" for line in lines)
        return "\n\n".join([*head, grid]) + "\n"


def cases(folders: Path | Sequence[Path], count: int, load: Load) -> tuple[list[Case], list[str]]:
    """Up to `count` cases of each kind of sample, and notes on what they show; `load` reads a run's trained model.

    Raises ExperimentError where no run has any.
    """
    study = gather(folders)
    shown: list[Case] = []
    notes = [FOOTNOTE]
    for across, part in study.parts().items():
        runs = {row: own[0] for row, own in part.rows.items() if own}
        judges, judge_notes = _judges(next(iter(runs.values())), load)
        notes += judge_notes
        answers = dict(_answers(runs))
        for sample in _chosen(runs, answers, count):
            shown.append(_case(sample, answers, judges, across))
    if not shown:
        raise ExperimentError(
            f"{study.folder} holds no answers to show; run it with evaluation.generate=true and evaluation.samples above 0"
        )
    return shown, list(dict.fromkeys(notes))


def _answers(runs: dict[str, Run]) -> Iterator[tuple[str, dict[tuple[str, str], Prediction]]]:
    """(label, answers by client and uid): before training (once if all rows agree), then of every trained row."""
    starts = {row: generated_answers(run.folder, "start") for row, run in runs.items()}
    answered = {row: start for row, start in starts.items() if start}
    alike = all(start == next(iter(answered.values())) for start in answered.values())
    if answered and alike:
        yield BEFORE, next(iter(answered.values()))
    for row, run in runs.items():
        if not alike and row in answered:
            yield f"{row}, {BEFORE}", answered[row]
        if end := generated_answers(run.folder, "end"):
            yield row, end


def _chosen(
    runs: dict[str, Run], answers: dict[str, dict[tuple[str, str], Prediction]], count: int
) -> list[SampleRecord]:
    """The gallery's first `count` samples of each kind with an answer of every row."""
    gallery = next((run.samples for run in runs.values() if run.samples), ())
    by_kind: dict[str, list[SampleRecord]] = {}
    for sample in gallery if answers else ():
        own = by_kind.setdefault(sample.kind, [])
        if len(own) < count and all(
            (sample.client, sample.uid) in by_sample for by_sample in answers.values()
        ):
            own.append(sample)
    return [sample for own in by_kind.values() for sample in own]


@dataclass(frozen=True)
class _Judges:
    """Scorers of answers besides exact match; None if the experiment disables one."""

    bertscore: Embedder | None
    gptscore: GPTScore | None


def _case(
    sample: SampleRecord,
    answers: dict[str, dict[tuple[str, str], Prediction]],
    judges: _Judges,
    across: str | None,
) -> Case:
    texts_by_row = {
        row: by_sample[sample.client, sample.uid].prediction for row, by_sample in answers.items()
    }
    texts = [text or "" for text in texts_by_row.values()]
    scores: dict[str, list[str]] = {}
    if judges.bertscore is not None:
        f_scores = bert_score(texts, [sample.reference] * len(texts), judges.bertscore).f
        scores["BERTScore F %"] = [f"{100 * f:.2f}" if math.isfinite(f) else "—" for f in f_scores]
    if judges.gptscore is not None:
        logs = judges.gptscore.score([sample.question] * len(texts), texts)
        scores["GPTScore"] = [f"{log:.2f}" if math.isfinite(log) else "—" for log in logs]
    lines = []
    for i, (row, text) in enumerate(texts_by_row.items()):
        right = is_right(text, sample.reference)
        verdict = "—" if right is None else "yes" if right else "no"
        answer = "—" if text is None else text or "(empty)"
        lines.append((row, answer, verdict, *(column[i] for column in scores.values())))
    spoken = f" (spoken: {sample.spoken})" if sample.spoken else ""
    place = f"{across}, " if across is not None else ""
    title = f"{place}{sample.kind}, {sample.uid} of {sample.client}"
    header = ("row", "answer", "exact match", *scores)
    return Case(title, sample.question + spoken, sample.reference, header, tuple(lines))


def _in_sentences(run: Run) -> bool:
    """Whether the run's task reads evaluation.bertscore; labels are compared as they are."""
    data = run.experiment.get("data")
    fields = data if isinstance(data, dict) else {}
    source = SOURCES.get(str(fields.get("source")))
    task = None if source is None else TASKS.get(source.task_in(fields))
    return task is None or "evaluation.bertscore" in task.reads


def _judges(run: Run, load: Load) -> tuple[_Judges, list[str]]:
    """The scorers of answers set by the experiment, and notes that name them."""
    evaluation = run.experiment.get("evaluation")
    settings = evaluation if isinstance(evaluation, dict) else {}
    bert, gpt = (str(settings.get(name, "off")) for name in ("bertscore", "gptscore"))
    model = load(run.folder) if WORLD in (bert, gpt) else None
    embedder, judge = embedder_of(bert, model), judge_of(gpt, model)
    notes = ["BERTScore is off in this experiment (evaluation.bertscore)."] if _in_sentences(run) else []
    if embedder is not None:
        notes = [f"BERTScore F of each answer by {embedder.name}."]
    if judge is not None:
        notes.append(
            f"GPTScore: mean log-probability of the answer's tokens given the question, by {judge.name}; not the paper's scale."
        )
    return _Judges(embedder, judge), notes
