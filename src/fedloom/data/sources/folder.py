"""Own data: one folder per client with media files and a table of questions and answers.

    root/<client>/metadata.jsonl     {"image": "x.png", "audio": "y.wav", "question": "...", "answer": "..."}

Keys: `question` and `answer`, required, texts, numbers or lists of answers; `image`, `audio`, `depth`, `thermal`, any or none;
`split`, optional. Hugging Face's ImageFolder and AudioFolder spellings, `file_name` (image or audio by its suffix) and
`<modality>_file_name`, mean the same. Other keys are not read, which a note says. A media key that is null is absent.
`load_folder` checks every file; reading a sample decodes its files anew. A file name means the file of that name however its
accents are composed.

A client's folder without such a file, or whose file's first record has no question and answer, is read as `tables` reads any
folder; so is a root that holds one table file per client.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.media import KINDS, Media, modality_of_name
from fedloom.data.missing import Missing
from fedloom.data.partition.settings import Column, Folders, RowPartition
from fedloom.data.sample import Sample
from fedloom.data.sources.file_source import STRICT, FileRules, MediaFiles
from fedloom.data.sources.own_data import OwnData, seen
from fedloom.data.sources.source import Features
from fedloom.data.sources.table_clients import clients_of, column_of
from fedloom.data.tables.cells import SPLITS, split_of, text_of
from fedloom.data.tables.columns import GUESSED, Columns, not_read
from fedloom.data.tables.files import MissingFileError, inside
from fedloom.data.tables.formats import SUFFIXES
from fedloom.data.tables.labels import UNREAD, labelled
from fedloom.data.tables.merged import merged
from fedloom.data.tables.opening import Table, open_path
from fedloom.data.tables.pool import Limits, Pool, as_client, check_pools
from fedloom.data.tables.read import Reading, pool_of

METADATA = "metadata.jsonl"
TEXTS = ("question", "answer", "split")
"""Keys of a record beside its media."""
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


@dataclass(frozen=True)
class Place:
    """A record's location, for error messages."""

    client: str
    metadata: Path
    line: int

    def error(self, says: str) -> ExperimentError:
        """The error `says`, prefixed with client, line and file."""
        return ExperimentError(f"Client {self.client!r}, line {self.line} of {self.metadata}: {says}")

    def unusable(self, media: Media, fault: str) -> ExperimentError:
        """The error for a file of this record that cannot be used."""
        name = media.source.name if isinstance(media.source, Path) else media.modality
        return self.error(f"the {media.modality} file {name!r} cannot be used ({fault}).")


@dataclass(frozen=True)
class Record:
    """A record of a client's metadata; `missing` is the sentence on a file that is not there, `sample` then None.

    `unread`: keys that mean nothing here.
    """

    place: Place
    split: str | None
    sample: Sample | None
    missing: str | None = None
    unread: tuple[str, ...] = ()


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
    if _is_plain_client(place, how):
        listed = list(_records(place))
        if not any(_validates(record) for _, record in listed):  # a table's rule says what becomes of those
            return _pool_of([_record(record, place, at, rules) for at, record in listed])
    return pool_of({str(place): open_path(place, OWNER)}, how)


def _is_plain_client(place: Path, how: Reading) -> bool:
    """Whether a client's records are spelt as above, and no setting says how to read them. Raises ExperimentError."""
    told = how.columns.named() or how.question is not None or how.keep is not None
    return not told and _has_plain_records(place)


def _has_metadata(folder: Path) -> bool:
    return (folder / METADATA).is_file()


def _has_table(folder: Path) -> bool:
    """Whether a client's folder holds anything but hidden files, so that it may be a table."""
    return any(not p.name.startswith(".") for p in folder.iterdir())


def _is_plain(record: Mapping[str, Any]) -> bool:
    """Whether a record is spelt as above, rather than as one of the other formats."""
    if "label" in record and "answer" not in record:
        return False
    return bool({"question", "answer"} & set(record)) and not {"messages", "conversations"} & set(record)


def _pool_of(records: list[Record]) -> Pool:
    """The records by line."""
    samples = {r.place.line: r.sample for r in records if r.sample is not None}
    places = {r.place.line: r.place for r in records}
    unread = dict.fromkeys(key for record in records for key in record.unread)
    return Pool(
        declared={r.place.line: r.split for r in records},
        media={line: tuple(_files(sample).values()) for line, sample in samples.items()},
        read=lambda lines: tuple(samples[line] for line in lines),
        unusable=lambda line, media, fault: str(places[line].unusable(media, fault)),
        missing={r.place.line: r.missing for r in records if r.missing is not None},
        notes=not_read(METADATA, list(unread)),
    )


def _files(sample: Sample) -> Mapping[str, Media]:
    """The media of a sample."""
    return sample.modalities.media if isinstance(sample.modalities, MediaFiles) else {}


def _records(folder: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The records of one client's metadata with their locations; blank lines are skipped."""
    path = folder / METADATA
    client = f"Client {folder.name!r}"
    if not path.is_file():
        raise ExperimentError(f"{client} has no {METADATA}: {path} should hold one JSON object a line.")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ExperimentError(f"{client}: {path} links to a file outside the client's folder.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: JSON text may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{client}: {path} cannot be read as UTF-8 text: {error}.") from error
    if not any(line.strip() for line in lines):
        raise ExperimentError(f"{client}: {path} is empty; it should hold one JSON object a line.")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = Place(folder.name, path, number)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = getattr(error, "msg", error)  # the bare message: its own "line 1" would mislead
                raise place.error(f"this is no JSON object ({why}).") from error
            if not isinstance(record, dict):
                raise place.error(f"this should be a JSON object, and is a {type(record).__name__}.")
            yield place, record


def _validates(record: Mapping[str, Any]) -> bool:
    """Whether the record belongs to a validation split."""
    return SPLITS.get(str(record.get("split")).strip().lower()) == "validation"


def _split(record: Mapping[str, Any], place: Place) -> str | None:
    try:
        return split_of(record.get("split"))
    except ValueError as error:
        raise place.error(f'"split" {error}.') from error


def _record(record: Mapping[str, Any], folder: Path, place: Place, rules: FileRules) -> Record:
    split = _split(record, place)
    unread = tuple(k for k, v in record.items() if k not in TEXTS and _modality(k, v) is None)
    try:
        return Record(place, split, _sample(record, folder, place, rules), unread=unread)
    except MissingFileError as error:
        if not rules.skip_bad:
            raise ExperimentError(str(error)) from error
        return Record(place, split, None, str(error), unread)


def _sample(record: Mapping[str, Any], folder: Path, place: Place, rules: FileRules) -> Sample:
    files: dict[str, Media] = {}
    for key, value in record.items():
        modality = _modality(key, value)
        if modality is None or value is None:
            continue
        path = _inside(folder, key, value, place)
        if modality in files:
            raise place.error(f"the record names two {modality} files, and can hold one.")
        files[modality] = Media(modality, path, rules.media)
    return Sample(
        uid=f"{place.client}/{place.line}",
        modalities=MediaFiles({m: files[m] for m in KINDS if m in files}, place.unusable),
        question=_text(record, "question", place),
        answer=_text(record, "answer", place),
        meta={"line": place.line},
    )


def _text(record: Mapping[str, Any], key: str, place: Place) -> str:
    if key not in record:
        raise place.error(f'"{key}" is missing.')
    try:
        text = text_of(record[key])
    except ValueError as error:
        raise place.error(f'"{key}" {error}.') from error
    if text is None:
        raise place.error(f'"{key}" should be a text that is not empty, and is {record[key]!r}.')
    return text


def _modality(key: str, value: object) -> str | None:
    """The modality of a metadata key; None for any other key."""
    if key == "file_name":
        return modality_of_name(value) if isinstance(value, str) else "image"
    modality = key.removesuffix("_file_name")
    return modality if modality in KINDS else None


def _inside(folder: Path, key: str, value: object, place: Place) -> Path:
    """The file named `value`, links resolved; it must lie inside the client's folder."""
    if not isinstance(value, str) or not value:
        raise place.error(f'"{key}" should be a file name, and is {value!r}.')
    try:
        path = inside(folder, folder, value, "the client's folder")
    except ValueError as error:
        raise place.error(f"the {key} {error}.") from error
    if not path.is_file():
        raise MissingFileError(str(place.error(f"the {key} {value!r} is missing: there is no file {path}.")))
    return path


def client_tables(root: Path) -> dict[Path, list[Table] | None]:
    """The tables in each client's place; None for a client whose records are spelt as above. Raises ExperimentError."""
    return {p: None if _has_plain_records(p) else open_path(p, OWNER) for p in _places(root).values()}


def _has_plain_records(place: Path) -> bool:
    is_folder = place.is_dir() and (_has_metadata(place) or not _has_table(place))
    return is_folder and _is_plain(next(_records(place))[1])
