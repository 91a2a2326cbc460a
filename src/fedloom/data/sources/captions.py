"""Captioned pictures for federated pre-training: from the small world, or from own files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from fedloom.core.settings_tree import ReadWith
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.partition.captions import Captions
from fedloom.data.partition.settings import Column, Folders, RowPartition
from fedloom.data.sources.file_source import FileSource
from fedloom.data.sources.source import Features, checked_counts


class CaptionSource(FileSource):
    """Captioned pictures, partitioned by a scenario."""

    for_task: ClassVar[str] = "question-answering"
    holds: ClassVar[tuple[str, ...]] = ("image",)
    not_read: ClassVar[Mapping[str, str]] = {
        "missing": "a caption without its picture teaches a projector nothing"
    }

    source: Literal["captions"] = "captions"
    path: Path | None = Field(
        None,
        description="data set of captioned pictures (ImageFolder, parquet, saved, or on the hub); none = the small world",
    )
    clients: Annotated[dict[Holding, int], ReadWith(".partition.kind", unless=("column", "folder"))] = Field(
        {"image": 3}, description="number of clients, as {image: N}"
    )
    train: int = Field(160, ge=1, description="training samples per client, on average")
    test: int = Field(40, ge=1, description="test samples per client")
    captions: Captions = Field(Captions(), description="partition of the pictures over clients")
    partition: RowPartition | None = Field(
        None,
        description="how the pictures are dealt, as {kind: quantity}: dirichlet, few-shot, domain and column "
        "over a column of the data set, or topic or style of the small world; folder: one client per source of captions; none = "
        "by captions.scenario",
    )

    @field_validator("clients")
    @classmethod
    def _counts(cls, value: dict[Holding, int]) -> dict[Holding, int]:
        checked_counts(value, "captions", ("image",), "{image: N}")
        return value

    @model_validator(mode="after")
    def _clients_are_named(self) -> "CaptionSource":
        if isinstance(self.partition, Column | Folders) and self.path is None:
            raise ValueError(
                f"partition of kind {self.partition.kind} is for files that name their clients; name them in data.path, or take "
                "{kind: iid}"
            )
        return self

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """Clients image-01 and so on, or by `partition`; the scenario topic needs `features` for own files."""
        count = self.clients["image"]
        if self.partition is not None:
            from fedloom.data.sources.caption_partition import partitioned_captions

            path = None if self.path is None else str(self.path)
            return partitioned_captions(
                path, self.partition, self.captions.question, count, self.train, self.test, seed, self.rules
            )
        if self.path is not None:
            from fedloom.data.sources.caption_files import clients_from_files

            return clients_from_files(
                str(self.path), self.captions, count, self.train, self.test, seed, features, self.rules
            )
        from fedloom.data.sources.tabletop_captions import captioned_clients

        return list(captioned_clients(self.captions, count, self.train, self.test, seed))
