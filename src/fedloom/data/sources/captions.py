"""Captioned pictures for federated pre-training: from the small world, or from own files."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from fedloom.data.client_data import ClientData, Holding
from fedloom.data.partition.captions import Captions
from fedloom.data.sources.file_source import FileSource
from fedloom.data.sources.source import Features, checked_counts


class CaptionSource(FileSource):
    """Captioned pictures, partitioned by a scenario."""

    for_task: ClassVar[str] = "question-answering"

    source: Literal["captions"] = "captions"
    path: Path | None = Field(
        None,
        description="data set of captioned pictures (ImageFolder, parquet, saved, or on the hub); none = the small world",
    )
    clients: dict[Holding, int] = Field({"image": 3}, description="number of clients, as {image: N}")
    train: int = Field(160, ge=1, description="training samples per client, on average")
    test: int = Field(40, ge=1, description="test samples per client")
    captions: Captions = Field(Captions(), description="partition of the pictures over clients")

    @field_validator("clients")
    @classmethod
    def _counts(cls, value: dict[Holding, int]) -> dict[Holding, int]:
        checked_counts(value, "captions", ("image",), "{image: N}")
        return value

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """Clients image-01 and so on; the scenario topic needs `features` for own files."""
        count = self.clients["image"]
        if self.path is not None:
            from fedloom.data.sources.caption_files import clients_from_files

            return clients_from_files(
                str(self.path), self.captions, count, self.train, self.test, seed, features, self.rules
            )
        from fedloom.data.sources.tabletop_captions import captioned_clients

        return list(captioned_clients(self.captions, count, self.train, self.test, seed))
