"""Own data in tables: files, folders and data sets of the hub, in the formats that Hugging Face users have."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from fedloom.core.settings_tree import ReadWith
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.missing import Missing
from fedloom.data.partition.settings import Column, Folders, RowPartition
from fedloom.data.sources.own_data import OwnData, seen
from fedloom.data.sources.source import Features, checked_counts
from fedloom.data.sources.table_clients import clients_of, column_of
from fedloom.data.tables.columns import Columns
from fedloom.data.tables.labels import labelled
from fedloom.data.tables.pool import Limits, Pool, check_pools
from fedloom.data.tables.read import Reading, read_pool

Name = Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, Path) else v), Field(min_length=1)]
"""A file, a folder, or a name on the hub."""
HOLDINGS: tuple[Holding, ...] = ("image", "audio", "both", "text")


class TableSource(OwnData):
    """Own questions and answers, captions, transcripts, conversations or classes in one table, or in several."""

    for_task: ClassVar[str] = "question-answering"
    reads_files: ClassVar[bool] = True

    source: Literal["table"] = "table"
    path: Name | Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="a table file, a folder, or a data set's name on the hub; or a list of them"
    )
    clients: Annotated[int, Field(ge=1)] | dict[Holding, int] | None = Field(
        None,
        description="number of clients that the rows are dealt to, or {image: N, audio: N} by what a row holds; none = by the "
        "column of clients",
    )
    partition: RowPartition | None = Field(
        None,
        description="how rows are dealt to clients, as {kind: dirichlet, over: topic}: column | iid | dirichlet | quantity | "
        "domain | modality | few-shot; none = iid, or by what clients counts, or by the column of clients",
    )
    missing: Missing | None = Field(
        None, description="modalities that are missing, as {image: 0.3, audio: 0.7}"
    )
    train: int | None = Field(None, ge=1, description="most training samples per client; none = all")
    test: int | None = Field(None, ge=1, description="most test samples per client; none = all")
    config: str | None = Field(
        None, description="the configuration of a data set on the hub that has several"
    )
    streaming: bool = Field(
        False, description="copy rows of a data set on the hub one by one, instead of downloading it whole"
    )
    take: Annotated[int | None, ReadWith(".streaming")] = Field(
        None, ge=1, description="rows of each split that are streamed; none = all"
    )

    @field_validator("clients")
    @classmethod
    def _counts(cls, value: int | dict[Holding, int] | None) -> int | dict[Holding, int] | None:
        if isinstance(value, dict):
            checked_counts(value, "table", HOLDINGS, "{image: N, audio: N}")
        return value

    @model_validator(mode="after")
    def _one_deal(self) -> "TableSource":
        if isinstance(self.partition, Folders):
            raise ValueError(
                "partition of kind folder is for one folder per client; set source: folder, or partition: {kind: column}"
            )
        if isinstance(self.partition, Column) and self.partition.over and self.columns.client:
            raise ValueError(
                "partition.over and columns.client both name the column of clients; leave one out"
            )
        if self.clients is not None and self.columns.client is not None:
            raise ValueError(
                "clients says how many clients the rows are dealt to, and columns.client names their column; leave one out"
            )
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The tables' files, folders or names."""
        return self.path if isinstance(self.path, tuple) else (str(self.path),)

    @property
    def published(self) -> tuple[str, ...]:
        """The names of data sets whose settings only the hub's have; any other name may be a folder's."""
        return self.paths if self.streaming or self.config is not None else ()

    def columns_seen(self) -> tuple[Columns, ...]:
        """Those of all tables; none where a table cannot be read."""
        by_path = [seen(Path(path), self._reading(self.unread_if_set)) for path in self.paths]
        return tuple(columns for own in by_path for columns in own) if all(by_path) else ()

    @property
    def samples_in_files(self) -> bool:
        """See Source: not in tables whose columns are all of texts."""
        columns = () if self.streaming else self.columns_seen()
        return not columns or any(c.media or c.messages for c in columns)

    def pool(self) -> Pool:
        """All rows, before they are dealt. Raises ExperimentError."""
        pool = read_pool(self.paths, self._reading(self.unread_if_set))
        name = " and ".join(self.paths)
        return labelled({name: pool}, self.labels)[name] if self.learns_labels else pool

    def _reading(self, unread: tuple[str, ...] = ()) -> Reading:
        partition, columns = self.partition, self.columns
        natural = (partition is None and self.clients is None) or isinstance(partition, Column)
        if isinstance(partition, Column) and partition.over:
            columns = columns.model_copy(update={"client": partition.over})
        return Reading(
            columns=columns,
            question=self.question,
            settings=self.media,
            config=self.config,
            streaming=self.streaming,
            take=self.take,
            unwanted=unread if natural else ("client", *unread),
            keep=column_of(partition),
            skip_missing=self.skip_bad,
        )

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """One client for each name in the column of clients, or as many as `clients` says, by `partition`."""
        pool = self.pool()
        (skipped,) = check_pools([pool], self.rules)
        limits = Limits(self.test_share, self.train, self.test)
        return clients_of(pool, skipped, self.partition, self.clients, limits, seed)
