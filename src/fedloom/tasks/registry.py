"""The task registry: task classes by name."""

from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.sources import Source
from fedloom.tasks.base import Task
from fedloom.tasks.classification import Classification
from fedloom.tasks.image_classification import ImageClassification
from fedloom.tasks.own_models import OwnModels
from fedloom.tasks.question_answering import QuestionAnswering
from fedloom.tasks.text_classification import TextClassification

TASKS: dict[str, type[Task[Any]]] = {
    t.name: t for t in (QuestionAnswering, Classification, TextClassification, ImageClassification, OwnModels)
}
"""Every task by its name."""


def task_of(source: Source) -> Task[Any]:
    """The task of a source. Raises ExperimentError for an unregistered task."""
    name = source.task_name
    if name not in TASKS:
        raise ExperimentError(
            f"data.source {source.source_name()} is for the task {name}, which is not registered; "
            f"known are {', '.join(TASKS)}"
        )
    kind = TASKS[name]
    members = {*dir(type(source)), *type(source).model_fields}
    if missing := [name for name in kind.source_members if name not in members]:
        raise ExperimentError(
            f"data.source {source.source_name()} has no {missing[0]}, which a source for {kind.name} needs"
        )
    return kind(source)


__all__ = ["TASKS", "Task", "task_of"]
