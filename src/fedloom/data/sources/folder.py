"""Own data: one folder per client with media files and a table of questions and answers.

    root/<client>/metadata.jsonl     {"image": "x.png", "audio": "y.wav", "question": "...", "answer": "..."}

`plain_records` says what the keys mean. `load_folder` checks every file; reading a sample decodes its files anew. A client's
folder without such a file, or whose file's first record has no question and answer, is read as `tables` reads any
folder; so is a root that holds one table file per client.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.missing import Missing
from fedloom.data.partition.settings import Column, Folders, RowPartition
from fedloom.data.sources.file_source import STRICT, FileRules
from fedloom.data.sources.own_data import OwnData, seen
from fedloom.data.sources.plain_records import METADATA, has_plain_records, plain_pool
from fedloom.data.sources.source import Features
from fedloom.data.sources.table_clients import clients_of, column_of
from fedloom.data.tables.columns import GUESSED, Columns
from fedloom.data.tables.formats import SUFFIXES
from fedloom.data.tables.labels import UNREAD, labelled
from fedloom.data.tables.merged import merged
from fedloom.data.tables.opening import Table, open_path
from fedloom.data.tables.pool import Limits, Pool, as_client, check_pools
from fedloom.data.tables.read import Reading, pool_of

OWNER = "the client's folder"


class FolderSource(OwnData):
    """Own questions and answers, or classes: one folder per client."""

    for_task: ClassVar[str] = "question-answering"
    reads_files: ClassVar[bool] = True

    source: Literal["folder"] = "folder"
    path: Path = Field(
        description="the folder of one folder per client, <path>/<client>/metadata.jsonl, or of one table per client"
    )
    partition: RowPartition | None = Field(
        None,
        description="how the samples of all folders are dealt anew, as {kind: iid}: iid | dirichlet | quantity | domain | "
        "modality | few-shot; none or folder = one client per folder",
    )
    clients: Annotated[int, Field(ge=1)] | dict[Holding, int] | None = Field(
        None, description="number of clients of a partition, or {image: N, audio: N} for kind modality"
    )
    missing: Missing | None = Field(
        None, description="modalities that are missing, as {image: 0.3, audio: 0.7}"
    )

    @model_validator(mode="after")
    def _one_deal(self) -> "FolderSource":
        if isinstance(self.partition, Column):
            raise ValueError(
                "partition of kind column is for one table of all clients; set source: table, or partition: {kind: folder}"
            )
        if self.clients is not None and self.partition is None:
            raise ValueError(
                "clients is read with data.partition alone, since every folder is a client; leave it out, or set partition: "
                "{kind: iid}"
            )
        return self

    def columns_seen(self) -> tuple[Columns, ...]:
        """Those of the first client."""
        how = Reading(columns=self.columns, question=self.question, unwanted=("client", *self.unread_if_set))
        try:
            place = next(iter(_places(self.path).values()))
            return () if _is_plain_client(place, how) else seen(place, how, OWNER)
        except ExperimentError:  # `deal` says so
            return ()

    @property
    def has_client_folders(self) -> bool:
        """Without a partition every folder is a client."""
        return self.partition is None or isinstance(self.partition, Folders)

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """One client per folder, or all their samples dealt by `partition`; every media file is checked."""
        labels = (self.labels or ()) if self.learns_labels else None
        if self.partition is None or isinstance(self.partition, Folders):
            return load_folder(
                self.path, self.test_share, seed, self.rules, self.columns, self.question, labels
            )
        by = column_of(self.partition)
        pool = merged(_pools(self.path, self.rules, self.columns, self.question, by, labels))
        (skipped,) = check_pools([pool], self.rules)
        return clients_of(pool, skipped, self.partition, self.clients, Limits(self.test_share), seed)


def load_folder(
    root: Path,
    test_share: float = 0.2,
    seed: int = 0,
    rules: FileRules = STRICT,
    columns: Columns = GUESSED,
    question: str | None = None,
    labels: Sequence[str] | None = None,
) -> list[ClientData]:
    """The clients under `root`, sorted by name; hidden folders and files are ignored.

    Records without `split` are split by (seed, client, line): about `test_share` of them become test samples, and those that
    share a picture or sound, by name or by content, come into one part. A client with two or more unrelated records has at
    least one in each part, unless its `split`s say otherwise. `labels`: the classes that a classifier learns, empty for those of
    the data; None for answers in words.

    Raises:
        ExperimentError: a faulty `root`, client's folder or record; names client, line and file.

    """
    root = Path(root)
    if not 0 < test_share < 1:
        raise ExperimentError(f"The test share must lie between 0 and 1, and {test_share} does not.")
    pools = _pools(root, rules, columns, question, labels=labels)
    skipped = check_pools(list(pools.values()), rules)
    return [
        replace(as_client(name, pool, pool.declared, bad, Limits(test_share), seed), notes=pool.notes)
        for (name, pool), bad in zip(pools.items(), skipped, strict=True)
    ]


def _pools(
    root: Path,
    rules: FileRules,
    columns: Columns,
    question: str | None,
    keep: str | None = None,
    labels: Sequence[str] | None = None,
) -> dict[str, Pool]:
    """Each client's rows, sorted by name; `keep` is the column that they are dealt by (see `Reading`), `labels` as in
    `load_folder`.
    """
    if not root.is_dir():
        raise ExperimentError(f"There is no data folder {root}; it should hold one folder per client.")
    how = Reading(
        columns=columns,
        question=question,
        settings=rules.media,
        unwanted=("client",) if labels is None else ("client", *UNREAD),
        keep=keep,
        skip_missing=rules.skip_bad,
    )
    pools = {name: _pool(place, rules, how) for name, place in _places(root).items()}
    return pools if labels is None else labelled(pools, labels or None)


def _places(root: Path) -> dict[str, Path]:
    """The clients' folders by their names; where there are none, the clients' tables by the names of their files."""
    try:
        listed = sorted(p for p in root.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise ExperimentError(f"The data folder {root} cannot be listed: {error.strerror}.") from error
    places = {p.name: p for p in listed if p.is_dir()}
    if not places:
        tables = [p for p in listed if p.suffix.lower() in SUFFIXES]
        if twice := [p for i, p in enumerate(tables) if p.stem in {t.stem for t in tables[:i]}]:
            raise ExperimentError(f"The data folder {root} holds two tables of a client {twice[0].stem!r}.")
        places = {p.stem: p for p in tables}
    if not places:
        raise ExperimentError(
            f"The data folder {root} holds no clients; each should be a folder with a {METADATA} inside."
        )
    if bad := [p for n, p in places.items() if any("\ud800" <= letter <= "\udfff" for letter in n)]:
        raise ExperimentError(f"The client's folder {str(bad[0])!r} has a name that is not UTF-8; rename it.")
    return places


def _pool(place: Path, rules: FileRules, how: Reading) -> Pool:
    """One client's records."""
    if _is_plain_client(place, how) and (pool := plain_pool(place, rules)) is not None:
        return pool
    return pool_of({str(place): open_path(place, OWNER)}, how)


def _is_plain_client(place: Path, how: Reading) -> bool:
    """Whether a client's records are spelt as above, and no setting says how to read them. Raises ExperimentError."""
    told = how.columns.named() or how.question is not None or how.keep is not None
    return not told and has_plain_records(place)


def client_tables(root: Path) -> dict[Path, list[Table] | None]:
    """The tables in each client's place; None for a client whose records are spelt as above. Raises ExperimentError."""
    return {p: None if has_plain_records(p) else open_path(p, OWNER) for p in _places(root).values()}
