"""Own data: one folder per client with media files and a `metadata.jsonl` of questions and answers.

    root/<client>/metadata.jsonl     {"image": "x.png", "audio": "y.wav", "question": "...", "answer": "..."}

Keys: `question` and `answer`, required; `image`, `audio`, `depth`, `thermal`, any or none; `split`, "train"
or "test", optional. Hugging Face's ImageFolder and AudioFolder spellings, `file_name` (image or audio by its
suffix) and `<modality>_file_name`, mean the same. A media key that is null is absent. `load_folder` checks
every file; reading a sample decodes its files anew. A file name means the file of that name however its accents are composed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from fedloom.core.errors import ExperimentError
from fedloom.core.files import find_file
from fedloom.data.client_data import ClientData
from fedloom.data.media import KINDS, Media, modality_of_name
from fedloom.data.partition.shared_media import contents, draw_test
from fedloom.data.sample import Sample
from fedloom.data.sources.file_source import STRICT, FileRules, FileSource, MediaFiles, check_samples
from fedloom.data.sources.source import Features

METADATA = "metadata.jsonl"


class FolderSource(FileSource):
    """Own questions and answers: one folder per client."""

    for_task: ClassVar[str] = "question-answering"
    reads_files: ClassVar[bool] = True

    source: Literal["folder"] = "folder"
    path: Path = Field(description="the folder of one folder per client, <path>/<client>/metadata.jsonl")
    test_share: float = Field(0.2, gt=0, lt=1, description="share of test samples in data without a split")

    def deal(self, seed: int, features: Features | None = None) -> list[ClientData]:
        """One client per folder; every media file is checked."""
        return load_folder(self.path, self.test_share, seed, self.rules)


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


class MissingFileError(ExperimentError):
    """A record names a file that is not there."""


@dataclass(frozen=True)
class Record:
    """A record of a client's metadata; `missing` is the sentence on a file that is not there, `sample` then None."""

    place: Place
    split: str | None
    sample: Sample | None
    missing: str | None = None


def load_folder(
    root: Path, test_share: float = 0.2, seed: int = 0, rules: FileRules = STRICT
) -> list[ClientData]:
    """The clients under `root`, sorted by name; hidden folders and files are ignored.

    Records without `split` are split by (seed, client, line): about `test_share` of them become test samples, and those that
    share a picture or sound, by name or by content, come into one part. A client with two or more unrelated records has at
    least one in each part, unless its `split`s say otherwise.

    Raises:
        ExperimentError: a faulty `root`, client's folder or record; names client, line and file.

    """
    root = Path(root)
    if not 0 < test_share < 1:
        raise ExperimentError(f"The test share must lie between 0 and 1, and {test_share} does not.")
    if not root.is_dir():
        raise ExperimentError(f"There is no data folder {root}; it should hold one folder per client.")
    try:
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise ExperimentError(f"The data folder {root} cannot be listed: {error.strerror}.") from error
    if not folders:
        raise ExperimentError(
            f"The data folder {root} holds no clients; each should be a folder with a {METADATA} inside."
        )
    if bad := [f for f in folders if any("\ud800" <= letter <= "\udfff" for letter in f.name)]:
        raise ExperimentError(f"The client's folder {str(bad[0])!r} has a name that is not UTF-8; rename it.")
    records = {
        folder: [_record(r, folder, place, rules) for place, r in _records(folder)] for folder in folders
    }
    skipped = _skipped([r for listed in records.values() for r in listed], rules)
    return [
        _load_client(folder.name, listed, test_share, seed, skipped) for folder, listed in records.items()
    ]


def _skipped(records: list[Record], rules: FileRules) -> dict[Place, str]:
    """The records to leave out, and why. Raises ExperimentError as `check_samples` does."""
    media_of = {
        r.place: tuple(r.sample.modalities.media.values())
        if isinstance(r.sample.modalities, MediaFiles)
        else ()
        for r in records
        if r.sample is not None
    }
    missing = {r.place: r.missing for r in records if r.missing is not None}
    return check_samples(
        media_of, lambda place, media, fault: str(place.unusable(media, fault)), rules, missing
    )


def _load_client(
    name: str, records: list[Record], test_share: float, seed: int, skipped: Mapping[Place, str]
) -> ClientData:
    kept = {r.place.line: r for r in records if r.place not in skipped}
    declared = {line: record.split for line, record in kept.items()}
    samples = {line: record.sample for line, record in kept.items() if record.sample is not None}
    test = {line for line, part in declared.items() if part == "test"}
    media = {line: _files(sample) for line, sample in samples.items()}
    content = contents({file for own in media.values() for file in own})
    shown = {line: [content[file] for file in own] for line, own in media.items()}
    test |= draw_test(declared, shown, test_share, seed, name)
    return ClientData(
        name=name,
        train=tuple(sample for line, sample in samples.items() if line not in test),
        test=tuple(sample for line, sample in samples.items() if line in test),
        skipped=tuple(skipped[r.place] for r in records if r.place in skipped),
    )


def _files(sample: Sample) -> list[Path]:
    """The files of a sample."""
    return list(sample.modalities.files.values()) if isinstance(sample.modalities, MediaFiles) else []


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


def _split(record: Mapping[str, Any], place: Place) -> str | None:
    part = record.get("split")
    if part not in (None, "train", "test"):
        raise place.error(f'"split" should be "train" or "test", and is {part!r}.')
    return part


def _record(record: Mapping[str, Any], folder: Path, place: Place, rules: FileRules) -> Record:
    split = _split(record, place)
    try:
        return Record(place, split, _sample(record, folder, place, rules))
    except MissingFileError as error:
        if not rules.skip_bad:
            raise
        return Record(place, split, None, str(error))


def _sample(record: Mapping[str, Any], folder: Path, place: Place, rules: FileRules) -> Sample:
    files: dict[str, Media] = {}
    for key, value in record.items():
        if key in ("question", "answer", "split"):
            continue
        modality = _modality(key, value, place)
        if value is None:
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
    value = record[key]
    if not isinstance(value, str) or not value.strip():
        raise place.error(f'"{key}" should be a text that is not empty, and is {value!r}.')
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # tokenizers would fail in mid-run
        raise place.error(f'"{key}" holds half of a surrogate pair, which is no Unicode text.')
    return value


def _modality(key: str, value: object, place: Place) -> str:
    """The modality of a metadata key."""
    if key == "file_name":
        return modality_of_name(value) if isinstance(value, str) else "image"
    modality = key.removesuffix("_file_name")
    if modality not in KINDS:
        known = ", ".join([*KINDS, "file_name", "question", "answer", "split"])
        raise place.error(f"the key {key!r} is unknown; known are {known}.")
    return modality


def _inside(folder: Path, key: str, value: object, place: Place) -> Path:
    """The file named `value`, links resolved; it must lie inside the client's folder."""
    if not isinstance(value, str) or not value:
        raise place.error(f'"{key}" should be a file name, and is {value!r}.')
    try:
        path = find_file(folder, value).resolve()
        is_inside, is_file = path.is_relative_to(folder.resolve()), path.is_file()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # two spellings, too long, a NUL byte, links in a circle
        raise place.error(f"the {key} {value!r} is no usable file name ({error}).") from error
    if not is_inside:
        raise place.error(f"the {key} {value!r} leads out of the client's folder; copy the file into it.")
    if not is_file:
        raise MissingFileError(str(place.error(f"the {key} {value!r} is missing: there is no file {path}.")))
    return path
