"""Clients given in Python: lists of samples with PIL's pictures, arrays, files and texts.

    fedloom.clients({"a": [{"image": picture, "question": "what is it?", "answer": "a cat"}]})

Samples become rows of a table, and pass the checks of a table's rows and files. A run's record does not hold them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, InstanceOf

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.missing import Missing
from fedloom.data.sources.own_data import OwnData
from fedloom.data.sources.source import Features
from fedloom.data.sources.table_clients import clients_of
from fedloom.data.tables.cells import client_of
from fedloom.data.tables.columns import Columns
from fedloom.data.tables.files import Files
from fedloom.data.tables.labels import labelled
from fedloom.data.tables.merged import merged
from fedloom.data.tables.opening import Table
from fedloom.data.tables.pool import Limits, Pool, check_pools
from fedloom.data.tables.python_rows import PythonRows
from fedloom.data.tables.read import Reading, pool_of


@dataclass(frozen=True, eq=False)
class GivenClients:
    """Each client's samples, in name order."""

    rows: Mapping[str, PythonRows]

    @classmethod
    def of(cls, clients: Any) -> "GivenClients":
        """The clients of a mapping from names to lists of samples. Raises ExperimentError."""
        if not isinstance(clients, Mapping) or not clients:
            shown = "none" if isinstance(clients, Mapping) else f"a {type(clients).__name__}"
            raise ExperimentError(
                f"clients: should map each client's name to its samples, as {{'a': [sample, ...]}}, and is {shown}"
            )
        for name in clients:
            try:
                usable = isinstance(name, str) and client_of(name) == name
            except ValueError:
                usable = False
            if not usable:
                raise ExperimentError(
                    f"clients: there is a client called {name!r}, and its name should be a text that can name a folder"
                )
        return cls({name: PythonRows(name, clients[name]) for name in sorted(clients)})


def _given(value: Any) -> Any:
    if value is not None and not isinstance(value, GivenClients):
        raise ValueError("should come from fedloom.clients, as in Experiment(data=fedloom.clients({...}))")
    return value


class PythonSource(OwnData):
    """Own questions and answers, or classes, given in Python."""

    for_task: ClassVar[str] = "question-answering"
    reads_files: ClassVar[bool] = True

    source: Literal["python"] = "python"
    clients: Annotated[InstanceOf[GivenClients] | None, BeforeValidator(_given)] = Field(
        None, exclude=True, description="samples by client, from fedloom.clients; a record does not hold them"
    )
    missing: Missing | None = Field(
        None, description="modalities that are missing, as {image: 0.3, audio: 0.7}"
    )

    def columns_seen(self) -> tuple[Columns, ...]:
        """The parts of each client's samples; those of the record where the samples are not at hand."""
        if self.clients is None:
            return (self.columns,) if self.columns.named() else ()
        return tuple(self._columns(rows) for rows in self.clients.rows.values())

    def settled(self, clients: Sequence[ClientData]) -> "PythonSource":
        """Also with the parts of a sample."""
        settled = super().settled(clients)
        assert isinstance(settled, PythonSource)  # noqa: S101 - a copy
        unread = settled.unread_if_set
        parts = {p: p for seen in self.columns_seen() for p in seen.named() if p not in unread}
        return settled.model_copy(update={"columns": Columns(**parts)})

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """The clients as they were given; every picture and sound is checked."""
        try:
            pool = self.pool()
            (skipped,) = check_pools([pool], self.rules)
            return clients_of(pool, skipped, None, None, Limits(self.test_share), seed)
        except ExperimentError as error:
            raise ExperimentError(f"clients: {str(error).removeprefix('data.path: ')}") from error

    def pool(self) -> Pool:
        """All clients' rows. Raises ExperimentError."""
        if self.clients is None:
            raise ExperimentError(
                "the samples of data.source python lie in the program that gave them to fedloom.clients; run the experiment "
                "there, or name files in data.path"
            )
        pools = {}
        for name, rows in self.clients.rows.items():
            if not len(rows):
                raise ExperimentError(f"{rows.name} has no samples; give it some, or leave it out")
            if not {"answer", "label"} & set(rows.features):
                raise ExperimentError(f"no sample of {rows.name} has an answer or a label; give each one")
            how = Reading(columns=self._columns(rows), question=self.question, settings=self.media)
            pools[name] = pool_of({rows.name: [Table(rows, None, Files(None))]}, how)
        return merged(labelled(pools, self.labels) if self.learns_labels else pools)

    def _columns(self, rows: PythonRows) -> Columns:
        """The parts that these samples have; every part stands under its own name."""
        parts: Iterable[str] = (p for p in rows.features if p not in self.unread_if_set)
        return Columns(**{part: part for part in parts})
