"""Labelled samples of one modality per client: pictures, descriptions or sounds of the same classes, for clients with models of
their own.

Every picture of the pool is assigned to one modality and one client: a text client holds descriptions of pictures that no image
client holds. Descriptions never contain the class name.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import ReadWith
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.partition.settings import LabelledFolders, PoolPartition
from fedloom.data.sources.file_source import STRICT, FileRules, FileSource
from fedloom.data.sources.labelled_clients import HOLDINGS, labelled_clients
from fedloom.data.sources.labelled_folders import common_pictures, folder_clients
from fedloom.data.sources.labelled_partition import partitioned_clients
from fedloom.data.sources.pool import Pool
from fedloom.data.sources.source import Features, checked_counts

_DEALT = ReadWith(".partition.kind", unless=("folder",))


class LabelledSource(FileSource):
    """Pictures, descriptions or sounds of the same classes, one modality per client."""

    for_task: ClassVar[str] = "own-models"
    holds: ClassVar[tuple[str, ...]] = ("image",)
    not_read: ClassVar[Mapping[str, str]] = {
        "missing": "every client holds one modality, and a sample without it would be empty"
    }

    source: Literal["labelled"] = "labelled"
    dataset: str = Field("tabletop", description="handwriting, tabletop, or any name beside data.path")
    path: Path | None = Field(None, description="pictures by class with their texts; none = generate")
    clients: Annotated[dict[Holding, int], _DEALT] = Field(
        {"image": 3, "audio": 3},
        description="number of clients per modality, as {image: N, text: N, audio: N}",
    )
    train: Annotated[int, _DEALT] = Field(
        160, ge=1, description="training samples per client of a modality, on average"
    )
    test: Annotated[int, _DEALT] = Field(
        40, ge=1, description="test samples per client of a modality, on average"
    )
    partition: PoolPartition | None = Field(
        None,
        description="how each modality's samples are dealt to its clients, as {kind: quantity}: dirichlet, few-shot, domain and "
        "column over label or a further entry of metadata.jsonl; folder: clients with a folder each; none = by dirichlet",
    )
    dirichlet: Annotated[float | None, ReadWith(".partition", (None,))] = Field(
        0.5, gt=0, description="Dirichlet parameter of the clients' label mixes; none = all clients alike"
    )

    @field_validator("clients")
    @classmethod
    def _counts(cls, value: dict[Holding, int]) -> dict[Holding, int]:
        checked_counts(value, "labelled", HOLDINGS, "{image: N, text: N, audio: N}")
        return value

    @model_validator(mode="after")
    def _folders_need_a_path(self) -> "LabelledSource":
        if isinstance(self.partition, LabelledFolders) and self.path is None:
            raise ValueError("partition: kind folder reads <path>/<client>/metadata.jsonl; name data.path")
        return self

    @property
    def samples_in_files(self) -> bool:
        """See Source: pictures that are not generated; sounds and texts are made of them in memory."""
        if isinstance(self.partition, LabelledFolders):
            return any(modality != "text" for modality in self.partition.holds.values())
        return self.path is not None and self.clients.get("image", 0) > 0

    def agreed_holdings(self) -> dict[str, tuple[str, ...]]:
        """See Source: those of `partition` of kind folder."""
        if not isinstance(self.partition, LabelledFolders):
            return {}
        return {name: (modality,) for name, modality in self.partition.holds.items()}

    def class_names(self) -> tuple[str, ...]:
        """The class names in label order. Raises ExperimentError."""
        if isinstance(self.partition, LabelledFolders):
            return self.partition.classes
        return class_names(self.dataset, self.path)

    def pool(self, seed: int) -> Pool | None:
        """The pictures by which the server's generator is judged: all before partitioning; of folders, the common ones, if any.

        Raises ExperimentError.
        """
        if isinstance(self.partition, LabelledFolders):
            assert self.path is not None  # noqa: S101 - validated
            return common_pictures(self.path, self.partition, self.rules)
        return self._pool(seed)

    def _pool(self, seed: int) -> Pool:
        count = (self.train + self.test) * sum(self.clients.values())
        return open_pool(self.dataset, self.path, count, seed, self.rules)

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """Clients image-01, text-01, audio-01 and so on; those of a column or of folders have its or their names."""
        if isinstance(self.partition, LabelledFolders):
            assert self.path is not None  # noqa: S101 - validated
            return folder_clients(self.path, self.partition, seed, self.rules)
        counts = {str(h): n for h, n in self.clients.items()}
        if self.partition is not None:
            return partitioned_clients(self._pool(seed), counts, self.train, self.test, self.partition, seed)
        return labelled_clients(self._pool(seed), counts, self.train, self.test, self.dirichlet, seed)


def class_names(dataset: str, path: Path | None) -> tuple[str, ...]:
    """A data set's class names in label order. Raises ExperimentError."""
    if path is not None:
        from fedloom.data.sources.labelled_files import read_names

        return read_names(path)
    if dataset == "handwriting":
        from fedloom.data.digits import DIGITS

        return DIGITS
    if dataset == "tabletop":
        from fedloom.data.tabletop.scene import SHAPES

        return tuple(SHAPES)
    raise ExperimentError(
        f"data.dataset: the source labelled knows handwriting and tabletop, not {dataset!r}; for pictures of your own name "
        "their folder in data.path"
    )


def open_pool(dataset: str, path: Path | None, count: int, seed: int, rules: FileRules = STRICT) -> Pool:
    """A data set's pool; `count` is the number of generated pictures. Raises ExperimentError."""
    names = class_names(dataset, path)
    if path is not None:
        from fedloom.data.sources.labelled_files import read_pool

        return read_pool(path, rules)
    if dataset == "handwriting":
        from fedloom.data.digits import handwriting

        pictures, labels = handwriting()
    else:
        from fedloom.data.digits import tabletop_objects
        from fedloom.data.tabletop.styles import PRIVATE_STYLES

        pictures, labels = tabletop_objects(count, seed, "private", PRIVATE_STYLES)
    return Pool(list(pictures), labels.tolist(), names)


def as_tensor(texts: Sequence[str]) -> Tensor:
    """Texts encoded as uint8 (N, L), UTF-8, padded with zeros."""
    encoded = [text.encode() for text in texts]
    codes = torch.zeros(len(encoded), max((len(c) for c in encoded), default=0), dtype=torch.uint8)
    for row, code in zip(codes, encoded, strict=True):
        row[: len(code)] = torch.frombuffer(bytearray(code), dtype=torch.uint8) if code else row[:0]
    return codes


def as_texts(coded: Tensor) -> list[str]:
    """Decode the output of `as_tensor`."""
    return [bytes(row.tolist()).rstrip(b"\0").decode(errors="replace") for row in coded]


def vocabulary() -> list[str]:
    """The words of all descriptions, in alphabetical order."""
    from fedloom.data.digits import WORDINGS

    phrases = (p for wording in WORDINGS for variants in wording.values() for p in variants)
    return sorted({word for phrase in phrases for word in re.findall(r"\w+", phrase)})
