"""The tables that a path means: a file, a folder in one of the usual layouts, or a data set on the Hugging Face hub.

x.parquet, .arrow, .csv, .tsv, .jsonl, .json     one table
a folder that `save_to_disk` wrote               its splits
metadata.jsonl, .csv or .parquet                 ImageFolder and AudioFolder; also in folders below, such as train/ and test/
several files of one format                      parts of one table; train, validation and test in their names are splits
<picture or sound> with a .txt of its stem        captions beside their files; see `captions`
<class>/<picture or sound>                       classes by folder, also below train/ and test/
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.data.media import KINDS
from fedloom.data.tables.arrow_rows import ArrowRows
from fedloom.data.tables.captions import caption_rows, captioned
from fedloom.data.tables.cells import SPLITS, Part
from fedloom.data.tables.files import Files
from fedloom.data.tables.formats import SUFFIXES, open_file, reading
from fedloom.data.tables.rows import Rows

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_NOT_TABLES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")


@dataclass(frozen=True)
class Table:
    """Rows that share their columns, the split that their place names, and the folders of their files."""

    rows: Rows
    split: Part | None
    files: Files


def open_path(path: Path, owner: str = "the data's folder") -> list[Table]:
    """The tables of a file or folder, one or more. `owner`: the folder in words. Raises ExperimentError."""
    if path.is_file():
        return [Table(open_file(path), None, Files(path.parent, owner=owner))]
    if not path.is_dir():
        raise ExperimentError(f"data.path: there is no file or folder {path}.")
    if is_saved(path):
        return _saved(path, owner)
    files = listed_files(path)
    if tables := table_files(files):
        return _of_files(path, tables, owner)
    return _captions(path, files, owner) if captioned(files) else _classes(path, files, owner)


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def listed_files(root: Path) -> list[Path]:
    """All files below a folder in order, without hidden ones. Raises ExperimentError for a folder that cannot be listed."""
    try:
        return sorted(f for f in root.rglob("*") if _is_shown(f.relative_to(root)) and f.is_file())
    except OSError as error:
        raise ExperimentError(f"data.path: {root} cannot be listed: {error.strerror}.") from error


def table_files(files: Sequence[Path]) -> list[Path]:
    """The tables among the files of a folder: those of ImageFolder and AudioFolder, else all of a table's format."""
    metadata = [f for f in files if f.name.lower() in METADATA]
    return metadata or [f for f in files if f.suffix.lower() in SUFFIXES and f.name not in _NOT_TABLES]


def _is_shown(path: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in path.parts)


def _saved(path: Path, owner: str) -> list[Table]:
    """A data set, or its splits, that `save_to_disk` wrote."""
    import datasets

    with reading(str(path)):
        loaded = datasets.load_from_disk(str(path))
    files = Files(path, owner=owner)
    if isinstance(loaded, datasets.Dataset):
        return [Table(ArrowRows(loaded, str(path)), None, files)]
    return of_splits(loaded, str(path), files)


def of_splits(splits: Iterable[str], name: str, files: Files) -> list[Table]:
    """The tables of a `DatasetDict`; its keys are splits, where they have a split's name."""
    return [
        Table(ArrowRows(rows, f"{name}, split {split}"), named_split(split), files)
        for split, rows in splits.items()  # type: ignore[attr-defined]
    ]


def named_split(name: str) -> Part | None:
    """The split in the name of a file, folder or split, such as train-00000-of-00002; the last word that is one."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), None)


def _of_files(root: Path, files: list[Path], owner: str) -> list[Table]:
    formats = sorted({f.suffix.lower() for f in files})
    if len(formats) > 1:
        raise ExperimentError(
            f"data.path: {root} holds tables of several formats ({', '.join(formats)}), such as {files[0].relative_to(root)} "
            "and others; name one file or folder."
        )
    tables = []
    for file in files:
        if not file.resolve().is_relative_to(root.resolve()):
            raise ExperimentError(f"data.path: {file} links to a file outside {owner}; copy it there.")
        place = file.relative_to(root)
        split = named_split(place.stem) or next(
            (s for p in reversed(place.parts[:-1]) if (s := named_split(p))), None
        )
        tables.append(Table(open_file(file), split, Files(root, file.parent, owner)))
    return tables


def _captions(root: Path, files: list[Path], owner: str) -> list[Table]:
    """Pictures and sounds with a text beside them."""
    import datasets

    columns = caption_rows(root, files)
    features = datasets.Features({name: datasets.Value("string") for name in columns})
    rows = datasets.Dataset.from_dict(columns, features=features)
    return [Table(ArrowRows(rows, str(root)), None, Files(root, owner=owner))]


def check_one_kind(root: Path, files: Iterable[Path]) -> None:
    """Raise ExperimentError for classes of pictures and of sounds in one folder; `files` are of either kind."""
    pictures = Counter(f.suffix.lower() in KINDS["image"].suffixes for f in files)
    if len(pictures) > 1:
        raise ExperimentError(
            f"data.path: {root} holds {pictures[True]} pictures and {pictures[False]} sounds by class, and a classifier reads "
            "one kind; make two experiments, each of a folder that holds one kind, or name the files in a table with the columns "
            "image, audio and label, and set data.answers: words, so that a language model that reads both writes the label."
        )


def _classes(root: Path, files: list[Path], owner: str) -> list[Table]:
    """Pictures or sounds in a folder for each class."""
    import datasets

    parts: dict[Part | None, list[Path]] = {}
    suffixes = [s for kind in ("image", "audio") for s in KINDS[kind].suffixes]
    for file in files:
        if file.suffix.lower() in suffixes and len(file.relative_to(root).parts) > 1:
            parts.setdefault(named_split(file.relative_to(root).parts[0]), []).append(file)
    listed = [file for own in parts.values() for file in own]
    if len({file.parent.name for file in listed}) < 2:
        raise ExperimentError(
            f"data.path: {root} holds no table; there should be a file that ends in {', '.join(SUFFIXES)}, one called "
            f"{' or '.join(METADATA)}, a .txt beside every picture or sound, or a folder of pictures or sounds for each class."
        )
    check_one_kind(root, listed)
    return [
        Table(
            ArrowRows(
                datasets.Dataset.from_dict(
                    {
                        "file_name": [str(f.relative_to(root)) for f in own],
                        "label": [f.parent.name for f in own],
                    }
                ),
                str(root),
            ),
            split,
            Files(root, owner=owner),
        )
        for split, own in parts.items()
    ]
