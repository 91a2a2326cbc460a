"""Base of the sources of own tables: their rows are answered in words, or classified by their labels."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.sources.file_source import FileSource
from fedloom.data.tables.cells import text_of
from fedloom.data.tables.columns import GUESSED, Columns
from fedloom.data.tables.labels import UNREAD, have_labels
from fedloom.data.tables.read import Reading, columns_in

Label = Annotated[str, BeforeValidator(text_of)]


class OwnData(FileSource):
    """Rows with answers in words, or with labels of classes."""

    for_labels: ClassVar[str] = "classification"
    """Name of the task of rows with labels; `for_task` is that of answers in words."""

    columns: Columns = Field(GUESSED, description="the column of each part of a sample; none = guessed")
    question: str | None = Field(
        None, min_length=1, description="one question for all rows, such as: describe the picture."
    )
    test_share: float = Field(0.2, gt=0, lt=1, description="share of test samples in data without a split")
    answers: Literal["auto", "words", "labels"] = Field(
        "auto",
        description="words: a multimodal LLM writes the answer, or the label; labels: a classifier picks a label; auto: "
        "labels where rows have a label, no answer and no conversation, and are asked nothing about their media",
    )
    labels: tuple[Label, ...] | None = Field(
        None,
        min_length=2,
        description="the classes in their order; none = the data's own order, else numbers by value and words by their letters",
    )

    @model_validator(mode="after")
    def _labels_are_learned(self) -> "OwnData":
        if self.labels is not None:
            if self.answers == "words":
                raise ValueError("labels are not read with answers: words; leave one of them out")
            if len(set(self.labels)) < len(self.labels):
                raise ValueError("labels names a class twice")
        if self.answers == "labels" or self.labels is not None:
            named = self.columns.named()
            for part in UNREAD:
                if part in named:
                    raise ValueError(
                        f"columns.{part} is not read with answers: labels; leave one of them out"
                    )
            if self.question is not None:
                raise ValueError(
                    "question is not asked with answers: labels: a classifier is asked nothing; leave one of them out"
                )
        elif self.answers == "words" and self.columns.pair is not None:
            raise ValueError(
                "columns.pair is the second text of a classifier; leave it out, or set answers: labels"
            )
        return self

    @property
    def learns_labels(self) -> bool:
        """Whether the rows are for a classifier; with `answers: auto` the columns tell."""
        if self.labels is not None or self.answers != "auto":
            return self.answers != "words"
        seen = self.columns_seen()
        return bool(seen) and all(have_labels(columns, self.question) for columns in seen)

    @property
    def task_name(self) -> str:
        """The task of the rows."""
        return self.for_labels if self.learns_labels else self.for_task

    @abstractmethod
    def columns_seen(self) -> tuple[Columns, ...]:
        """The columns of the tables, guessed ones included; none where they cannot be read as tables."""

    @classmethod
    def task_in(cls, fields: Mapping[str, Any]) -> str:
        """By the answers, which a run's record states."""
        return cls.for_labels if fields.get("answers") == "labels" else cls.for_task

    @property
    def unread_if_set(self) -> tuple[str, ...]:
        """Parts of a sample that are not guessed where the settings ask for a classifier, which does not read them."""
        return UNREAD if self.answers == "labels" or self.labels is not None else ()

    def settled(self, clients: Sequence[ClientData]) -> "OwnData":
        """With the answers that the columns have decided, and the classes in their order."""
        first = next((s for client in clients for part in (client.train, client.test) for s in part), None)
        if not self.learns_labels or first is None:
            return self.model_copy(update={"answers": "words"})
        update: dict[str, Any] = {"answers": "labels", "labels": tuple(first.meta["labels"])}
        if first.meta["pair"] is not None and (seen := self.columns_seen()):
            update["columns"] = self.columns.model_copy(update={"pair": seen[0].pair})
        return self.model_copy(update=update)


def seen(path: Path, how: Reading, owner: str | None = None) -> tuple[Columns, ...]:
    """The columns of all tables of a path, as `columns_in`; of a streamed data set, whose rows are not copied yet, the named."""
    if how.streaming:
        return (how.columns,)
    stamp: Any = None
    if path.exists():
        stamp = path.stat().st_mtime_ns, path.stat().st_size
    return _seen(path, how, owner, stamp)


@lru_cache(maxsize=256)
def _seen(path: Path, how: Reading, owner: str | None, stamp: Any) -> tuple[Columns, ...]:
    """`stamp` changes with the file, so that it is looked at anew."""
    try:
        return tuple(columns_in(path, how, owner))
    except ExperimentError:  # reading the rows says so
        return ()
