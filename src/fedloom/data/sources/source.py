"""The source interface: loads and partitions the clients' samples. A source is an experiment's `data` part."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import ReadWith
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.missing import lacking
from fedloom.data.sample import Sample

Features = Callable[[Sequence[Sample]], Tensor]
"""Maps samples to the frozen encoder's features (N, d)."""


class Source(BaseModel):
    """Base of every source. A subclass has a field `source: Literal["<name>"]` and implements `deal`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    TAG: ClassVar[str] = "source"
    """The field that names the source."""
    for_task: ClassVar[str]
    """Name of the samples' task in TASKS."""
    reads_files: ClassVar[bool] = False
    """Whether `path` always names the user's own files."""
    not_read: ClassVar[Mapping[str, str]] = {}
    """Fields of other sources that have no meaning here, and why, as a clause."""

    test_only: tuple[str, ...] = Field(
        (),
        description="clients that are tested but do not train, by name or pattern, such as [audio-*]",
    )

    @classmethod
    def source_name(cls) -> str:
        """The name in `data.source`."""
        return str(cls.model_fields["source"].default)

    @classmethod
    def registered(cls, fields: Mapping[str, Any]) -> "type[Source]":
        """The registered source that a mapping names. Raises ExperimentError."""
        from fedloom.data.sources import SOURCES, source_named  # the registry imports this file

        name = source_named(fields)
        if not isinstance(name, str) or name not in SOURCES:
            raise ExperimentError(f"unknown data.source {name!r}; known are {', '.join(SOURCES)}")
        return SOURCES[name]

    @classmethod
    def carries(cls, name: str) -> bool:
        """Whether a field of this name means the same at another source: clients and files do not."""
        return name not in ("clients", "path", "dataset")

    @property
    def task_name(self) -> str:
        """Name of the task of these samples; sources whose data decide it override this."""
        return self.for_task

    @classmethod
    def task_in(cls, fields: Mapping[str, Any]) -> str:
        """Name of the task of a run, by the recorded fields of its data."""
        return cls.for_task

    def settled(self, clients: Sequence[ClientData]) -> "Source":
        """The source with what its data have decided, for the run's record. Default: unchanged."""
        return self

    @property
    def published(self) -> tuple[str, ...]:
        """The hub's names of the data sets that the samples come from. Default: none is known."""
        return ()

    @property
    def has_own_files(self) -> bool:
        """Whether the samples come from the user's own files, which may be faulty."""
        return self.reads_files or getattr(self, "path", None) is not None

    @property
    def has_client_folders(self) -> bool:
        """Whether each client's samples lie below `path` in a folder, or a table, of the client's name."""
        return getattr(getattr(self, "partition", None), "kind", None) == "folder"

    @property
    def samples_in_files(self) -> bool:
        """Whether pictures or sounds of samples are read from files where they are used, which worker processes can do."""
        return self.has_own_files

    @abstractmethod
    def deal(self, seed: int, features: Features | None) -> list[ClientData]:
        """All clients, ordered by name. Raises ExperimentError for unusable data.

        `features` encodes pictures, for partitions by picture content; None if there is no encoder.
        """

    def agreed_holdings(self) -> dict[str, tuple[str, ...]]:
        """The modalities of clients that the settings name, wherever their data are. Default: none."""
        return {}

    def load_common(self, seed: int) -> dict[str, list[Sample]]:
        """Test samples that belong to no client, by name of the set. Default: none."""
        return {}

    def trains(self, client: str) -> bool:
        """Whether the client trains."""
        return not any(fnmatch(client, pattern) for pattern in self.test_only)

    def load(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """The clients of `deal`; test-only clients lose their training samples. Raises ExperimentError."""
        self._path_is_read()
        clients = _checked(self.source_name(), self.deal(seed, features))
        missing = getattr(self, "missing", None)
        if missing is not None:
            clients = lacking(clients, missing, seed)
        for pattern in self.test_only:
            if not any(fnmatch(c.name, pattern) for c in clients):
                raise ExperimentError(
                    f"data.test_only: no client is called {pattern}; there are {clients[0].name} ..."
                )
        if not any(self.trains(c.name) for c in clients):
            raise ExperimentError("data.test_only names every client; leave out those that are to train")
        return [c if self.trains(c.name) else replace(c, train=()) for c in clients]

    def check_read(self, clients: Sequence[ClientData]) -> None:
        """Raise ExperimentError for a setting that all clients' data turn out not to read. Default: none."""

    def _path_is_read(self) -> None:
        """Raise ExperimentError for own files that would give way to generated samples."""
        if getattr(self, "path", None) is None:
            return
        for mark in type(self).model_fields["path"].metadata:
            if isinstance(mark, ReadWith) and not mark.holds(None, self):
                raise ExperimentError(
                    f"data.path is read only with {mark.advice('data.')}; leave data.path out, or set that"
                )


def _checked(source: str, clients: Iterable[ClientData]) -> list[ClientData]:
    """The clients in name order. Raises ExperimentError for none, and for names that are no folders' names or stand twice."""
    listed = list(clients)
    for client in listed:
        name = client.name
        if not isinstance(name, str) or not name or name in (".", "..") or {"/", "\\", "\0"} & set(name):
            raise ExperimentError(
                f"data.source {source} has a client called {name!r}, which is no folder's name"
            )
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ExperimentError(
                f"data.source {source} has a client called {name!r}, which is not UTF-8; rename its folder"
            )
    names = sorted(client.name for client in listed)
    if twice := [name for name, following in pairwise(names) if name == following]:
        raise ExperimentError(f"data.source {source} has two clients called {twice[0]}")
    if not listed:
        raise ExperimentError(f"data.source {source} has no clients")
    return sorted(listed, key=lambda client: client.name)


def checked_counts(
    counts: Mapping[Holding, int], source: str, allowed: Sequence[Holding], example: str
) -> None:
    """Raise ValueError for negative counts, no client at all, and a holding that the source does not support."""
    if any(count < 0 for count in counts.values()) or sum(counts.values()) < 1:
        raise ValueError(f"needs at least one client and no negative count, such as {example}")
    if wrong := [holding for holding, count in counts.items() if count and holding not in allowed]:
        raise ValueError(
            f"the source {source} has no clients that hold {wrong[0]}; set data.clients to {example}"
        )
