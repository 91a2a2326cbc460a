"""The `data` part of an experiment, and the clients that it describes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.partition.settings import DomainShift, FewShot, Partition
from fedloom.data.sample import Sample
from fedloom.data.sources.captions import Captions
from fedloom.data.tabletop.styles import PRIVATE_STYLES

if TYPE_CHECKING:
    from fedloom.data.pictures.class_names import Classes
    from fedloom.data.pictures.pictures import Pictures
    from fedloom.data.sources.pool import Pool

Features = Callable[[Sequence[Sample]], Tensor]
Task = Literal["entailment", "follows", "same", "warm", "mnli", "rte", "sst2", "qqp", "qnli"]


class Data(BaseModel):
    """Where the clients' samples come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["tabletop", "folder", "text", "classes", "captions", "labelled"] = Field(
        "tabletop",
        description="tabletop: the project's own small world; folder: <path>/<client>/metadata.jsonl; "
        "text: labelled sentences for a classifier; classes: pictures by class for CLIP; "
        "captions: captioned pictures for pre-training a projector; labelled: pictures, descriptions or sounds of the same "
        "classes, one modality per client, for clients with models of their own",
    )
    path: Path | None = Field(
        None,
        description="source folder: the folder that holds one folder per client; source text: a folder with GLUE's "
        "parquet files, <path>/<task>/train*.parquet, none = download; source classes: <path>/<class>/<image>, a folder with a "
        "split file or parquet files, none = generate or download; source captions: a data set of captioned pictures "
        "(ImageFolder, parquet, saved, or on the hub), none = the small world's",
    )
    clients: dict[Holding, int] = Field(
        {"image": 3, "audio": 3},
        description="source tabletop: how many clients hold images, speech, both, or text; source text: {text: N}; "
        "source classes: {image: N}; source labelled: {image: N, text: N, audio: N}",
    )
    train: int = Field(
        160,
        ge=1,
        description="sources tabletop and text: training samples per client; data sets tabletop and tabletop48: pictures per "
        "class",
    )
    test: int = Field(
        40,
        ge=1,
        description="sources tabletop and text: test samples per client; data sets tabletop and tabletop48: pictures per class",
    )
    test_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="sources folder and classes: share held back where the data name no split",
    )
    test_only: tuple[str, ...] = Field(
        (),
        description="clients that are tested on and do not train, by name or pattern, such as [audio-*]: what the others' "
        "training is worth for them",
    )
    task: Task = Field(
        "entailment",
        description="source text: entailment, follows, same or warm, told of the small world; or GLUE's mnli, rte, "
        "sst2, qqp or qnli",
    )
    dirichlet: float | None = Field(
        0.5,
        gt=0,
        description="sources text and labelled: Dirichlet parameter of the clients' label mixes; none = all clients alike",
    )

    dataset: str = Field(
        "tabletop",
        description="source classes: tabletop, tabletop48, digits, caltech101, oxford-pets, flowers102, food101, dtd, sun397, "
        "ucf101, domainnet, office-caltech10, cifar10, cifar100, a Hugging Face id, or any name beside data.path; "
        "source labelled: handwriting, tabletop, or any name beside data.path",
    )
    styles: tuple[str, ...] = Field(
        PRIVATE_STYLES,
        min_length=1,
        description="data sets tabletop and tabletop48: the pictures' styles, which are its domains",
    )
    partition: Partition = Field(
        FewShot(),
        description="source classes: how pictures are dealt to clients; kind: few-shot, labeldir, pachinko or domains",
    )
    captions: Captions = Field(
        Captions(), description="source captions: how pictures are dealt to the clients"
    )

    @field_validator("clients")
    @classmethod
    def _some_clients(cls, value: dict[Holding, int]) -> dict[Holding, int]:
        if any(count < 0 for count in value.values()) or sum(value.values()) < 1:
            raise ValueError("needs at least one client and no negative count, such as {image: 3, audio: 3}")
        return value

    @model_validator(mode="after")
    def _path_for_folder(self) -> "Data":
        if self.source == "folder" and self.path is None:
            raise ValueError("the source folder needs data.path, the folder that holds one folder per client")
        return self

    @model_validator(mode="after")
    def _text_alone(self) -> "Data":
        others = [holding for holding, count in self.clients.items() if count and holding != "text"]
        if self.source == "text" and others:
            raise ValueError(
                f"the source text has no clients that hold {others[0]}; set data.clients to {{text: N}}"
            )
        wrong = [holding for holding, count in self.clients.items() if count and holding != "image"]
        if self.pictured and wrong:
            raise ValueError(
                f"the source classes has no clients that hold {wrong[0]}; set data.clients to {{image: N}}"
            )
        return self

    @model_validator(mode="after")
    def _pictures_alone(self) -> "Data":
        others = [holding for holding, count in self.clients.items() if count and holding != "image"]
        if self.source == "captions" and others:
            raise ValueError(
                f"the source captions has no clients that hold {others[0]}; set data.clients to {{image: N}}"
            )
        return self

    @property
    def own_models(self) -> bool:
        """Whether the source is for clients with models of their own; reads nothing."""
        return self.source == "labelled"

    def class_names(self) -> tuple[str, ...]:
        """The class names of the source labelled, in the order of their numbers. Raises ExperimentError."""
        from fedloom.data.sources.labelled import class_names

        return class_names(self.dataset, self.path)

    def pool(self, seed: int) -> "Pool":
        """All pictures of the source labelled. Raises ExperimentError."""
        from fedloom.data.sources.labelled import open_pool

        wanted = (self.train + self.test) * sum(self.clients.values())
        return open_pool(self.dataset, self.path, wanted, seed)

    def labels(self) -> tuple[str, ...]:
        """The task's label words, in the order of their numbers; empty for a source other than text."""
        from fedloom.data.sources.text import LABELS

        return LABELS[self.task] if self.source == "text" else ()

    @property
    def pictured(self) -> bool:
        """Whether the source is image classification; reads nothing."""
        return self.source == "classes"

    def classes(self) -> "Classes | None":
        """The class names of image classification; None for every other source.

        Reads names alone where the data set allows it, and no picture. Raises ExperimentError for data that cannot be used.
        """
        if not self.pictured:
            return None
        from fedloom.data.sources.image_classes import classes_of

        return classes_of(self._pictures(0).names, self.partition)

    def load_common(self, seed: int) -> Mapping[str, Sequence[Sample]]:
        """Test sets on which every client's model is measured, by name: base and novel, or domain/<name>; mostly none."""
        if not self.pictured:
            return {}
        from fedloom.data.sources.image_classes import common_sets

        return common_sets(self._pictures(seed), self.partition)

    def _pictures(self, seed: int) -> "Pictures":
        from fedloom.data.sources.image_classes import open_pictures

        by_domain = isinstance(self.partition, DomainShift)
        return open_pictures(
            self.dataset, self.path, self.styles, self.train, self.test, self.test_share, seed, by_domain
        )

    def trains(self, client: str) -> bool:
        """Whether a client of this name trains."""
        return not any(fnmatch(client, pattern) for pattern in self.test_only)

    def load(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """The clients, ordered by name; those that only test without training samples.

        `features` encodes pictures, for a scenario that sorts them by what they show.

        Raises ExperimentError for data that cannot be used.
        """
        clients = self._load(seed, features)
        for pattern in self.test_only:
            if not any(fnmatch(c.name, pattern) for c in clients):
                raise ExperimentError(
                    f"data.test_only: no client is called {pattern}; there are {clients[0].name} ..."
                )
        if not any(self.trains(c.name) for c in clients):
            raise ExperimentError("data.test_only names every client; leave out those that are to train")
        return [c if self.trains(c.name) else replace(c, train=()) for c in clients]

    def _load(self, seed: int, features: Features | None) -> list[ClientData]:
        if self.source == "captions":
            count = self.clients["image"]
            if self.path is not None:
                from fedloom.data.sources.caption_files import clients_from_files

                return clients_from_files(
                    str(self.path), self.captions, count, self.train, self.test, seed, features
                )
            from fedloom.data.sources.tabletop_captions import captioned_clients

            return list(captioned_clients(self.captions, count, self.train, self.test, seed))
        if self.source == "folder":
            from fedloom.data.sources.folder import load_folder

            assert self.path is not None  # noqa: S101 - the validator saw to it
            return load_folder(self.path, self.test_share, seed)
        if self.source == "text":
            from fedloom.data.sources.text import text_clients

            return text_clients(
                self.task, self.clients["text"], self.train, self.test, self.dirichlet, seed, self.path
            )
        if self.own_models:
            from fedloom.data.sources.labelled import labelled_clients

            return labelled_clients(
                self.pool(seed),
                {str(h): n for h, n in self.clients.items()},
                self.train,
                self.test,
                self.dirichlet,
                seed,
            )
        if self.pictured:
            from fedloom.data.sources.image_classes import class_clients

            return class_clients(self._pictures(seed), self.partition, self.clients["image"], seed)
        from fedloom.data.sources.tabletop import tabletop_clients

        return tabletop_clients(self.clients, self.train, self.test, seed)
