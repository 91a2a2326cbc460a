"""A client's own records: one JSON object a line in `metadata.jsonl`, by the keys of a sample's parts.

Keys: `question` and `answer`, required, texts, numbers or lists of answers; `image`, `audio`, `depth`, `thermal`, any or none;
`split`, optional. Hugging Face's ImageFolder and AudioFolder spellings, `file_name` (image or audio by its suffix) and
`<modality>_file_name`, mean the same. Other keys are not read, which a note says. A media key that is null is absent.
A file name means the file of that name however its accents are composed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.media import KINDS, Media, modality_of_name
from fedloom.data.sample import Sample
from fedloom.data.sources.file_source import FileRules, MediaFiles
from fedloom.data.tables.cells import SPLITS, split_of, text_of
from fedloom.data.tables.columns import not_read
from fedloom.data.tables.files import MissingFileError, inside
from fedloom.data.tables.pool import Pool

METADATA = "metadata.jsonl"
TEXTS = ("question", "answer", "split")
"""Keys of a record beside its media."""


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


def _is_plain(record: Mapping[str, Any]) -> bool:
    """Whether a record is spelt as above, rather than as one of the other formats."""
    if "label" in record and "answer" not in record:
        return False
    return bool({"question", "answer"} & set(record)) and not {"messages", "conversations"} & set(record)


def plain_pool(folder: Path, rules: FileRules) -> Pool | None:
    """The records of a client by line; None where some are for validation, of which the rule for tables says what they are for.

    Raises ExperimentError.
    """
    listed = list(_records(folder))
    if any(_validates(record) for _, record in listed):
        return None
    records = [_record(record, folder, at, rules) for at, record in listed]
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


def _has_metadata(folder: Path) -> bool:
    return (folder / METADATA).is_file()


def _has_table(folder: Path) -> bool:
    """Whether a client's folder holds anything but hidden files, so that it may be a table."""
    return any(not p.name.startswith(".") for p in folder.iterdir())


def has_plain_records(place: Path) -> bool:
    """Whether a client's folder holds such records, by the first of them. Raises ExperimentError."""
    is_folder = place.is_dir() and (_has_metadata(place) or not _has_table(place))
    return is_folder and _is_plain(next(_records(place))[1])
