"""GLUE (Wang et al., 2019): five of its tasks, from the Hugging Face hub or from parquet files on this machine.

    <path>/<task>/train*.parquet, validation*.parquet (mnli: validation_matched*.parquet)

The public test splits have no labels: test samples come from the validation split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason

REPOSITORY = "nyu-mll/glue"
Part = Literal["train", "test"]


@dataclass(frozen=True)
class GlueTask:
    """A task's text columns, its labels in the data set's numbering, and the split of its test examples."""

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    validation: str = "validation"


TASKS: dict[str, GlueTask] = {
    "mnli": GlueTask(
        ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), "validation_matched"
    ),
    "rte": GlueTask(("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "sst2": GlueTask(("sentence",), ("negative", "positive")),
    "qqp": GlueTask(("question1", "question2"), ("not_duplicate", "duplicate")),
    "qnli": GlueTask(("question", "sentence"), ("entailment", "not_entailment")),
}
"""Labels are numbered as in the data set `nyu-mll/glue`; published models differ in MNLI's order."""


@dataclass(frozen=True)
class Split:
    """A split, column by column: one sequence of texts per text column, and label numbers."""

    texts: tuple[Sequence[str], ...]
    labels: Sequence[int]


def read_glue(name: str, part: Part, path: Path | None) -> Split:
    """The training or validation split of a task; `path` None reads from the hub.

    Raises ExperimentError for an unexpected folder, file, column or label.
    """
    task = TASKS[name]
    split = "train" if part == "train" else task.validation
    columns, words = _from_hub(name, split) if path is None else _from_parquet(path / name, split, task)
    if words is not None and tuple(words) != task.labels:
        raise ExperimentError(
            f"data.task {name}: the data set numbers its labels {', '.join(words)}; {', '.join(task.labels)} is right"
        )
    labels: list[int] = []
    for row, label in enumerate(columns["label"]):
        number = task.labels.index(label) if label in task.labels else label
        if not isinstance(number, int) or not 0 <= number < len(task.labels):
            raise ExperimentError(
                f"data.task {name}: row {row} of {split} has the label {label!r}; right are 0 to "
                f"{len(task.labels) - 1}, or {', '.join(task.labels)}"
            )
        labels.append(number)
    return Split(tuple(columns[c] for c in task.columns), labels)


def _from_hub(name: str, split: str) -> tuple[Any, list[str] | None]:
    """Columns, and the label words declared by the data set, if any."""
    from datasets import load_dataset

    try:
        data = load_dataset(REPOSITORY, name, split=split)
    except (OSError, ValueError) as error:  # no network, no such data set
        raise ExperimentError(
            f"data.task {name}: {REPOSITORY} cannot be read ({reason(error)}); name a folder of parquet files in data.path"
        ) from error
    columns = {c: data[c][:] for c in (*TASKS[name].columns, "label")}
    return columns, getattr(data.features["label"], "names", None)


def _from_parquet(folder: Path, split: str, task: GlueTask) -> tuple[Any, None]:
    """Columns of all files of a split, files in name order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(folder.glob(f"{split}*.parquet"))
    if not files:
        raise ExperimentError(f"data.path: there is no file {folder / split}*.parquet")
    names = [*task.columns, "label"]
    columns: dict[str, list[Any]] = {c: [] for c in names}
    for file in files:
        try:
            table = pq.read_table(file)
        except (pa.ArrowException, OSError) as error:
            raise ExperimentError(f"data.path: {file} is no parquet file") from error
        if missing := [c for c in names if c not in table.column_names]:
            raise ExperimentError(
                f"data.path: {file} lacks the column {missing[0]}; its columns are {', '.join(table.column_names)}"
            )
        for name in names:
            columns[name] += table[name].to_pylist()
    return columns, None
