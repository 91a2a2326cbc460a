"""Pictures and sounds with their captions beside them: x.png, x.ogg and x_voice.ogg belong to the text in x.txt.

A row is one stem. Its columns: `text`, the first line of x.txt; `image` and `audio`, the files x.*; one column for each ending of
further files, such as `audio_voice` for x_voice.ogg; `folder` and `subfolder`, the first and last folder on the way.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.data.media import KINDS

COLUMNS = ("image", "audio", "text", "folder", "subfolder")
"""The columns of every folder of captions, where they are not empty; those of further files follow."""
_MOST_ENDINGS = 200
_ENDING = re.compile(r"[_.\-]([A-Za-z][\w.\-]*)")
_MOST_OF_LINE = 100_000
"""Bytes of a first line."""


def captioned(files: Iterable[Path]) -> bool:
    """Whether most pictures and sounds have a caption beside them."""
    texts, media = _by_kind(files)
    with_text = sum(_base(path, texts) is not None for path in media)
    return with_text > 0 and 2 * with_text >= len(media)


def caption_rows(root: Path, files: Sequence[Path]) -> dict[str, list[str | None]]:
    """The values of each column, a row for each stem below `root`, in order. Raises ExperimentError for a text not in UTF-8."""
    texts, media = _by_kind(files)
    rows: dict[Path, dict[str, str]] = {}
    for path, modality in media.items():
        base = _base(path, texts) or path.with_suffix("")
        ending = path.name[len(base.name) : -len(path.suffix)].lstrip("_.-")
        column = f"{modality}_{ending}" if ending else modality
        rows.setdefault(base, {}).setdefault(column, str(path.relative_to(root)))
    for base, row in rows.items():
        if base in texts and (line := _first_line(texts[base])):
            row["text"] = line
        folders = base.relative_to(root).parts[:-1]
        row |= {"folder": folders[0]} if folders else {}
        row |= {"subfolder": folders[-1]} if len(folders) > 1 else {}
    found = {column for row in rows.values() for column in row}
    names = [c for c in COLUMNS if c in found] + sorted(found - set(COLUMNS))
    if len(names) > _MOST_ENDINGS:
        raise ExperimentError(
            f"data.path: {root} has files of {len(names)} endings, such as {names[-1]}; there should be a text of the same name "
            "beside every picture or sound."
        )
    ordered = [rows[base] for base in sorted(rows)]
    return {name: [row.get(name) for row in ordered] for name in names}


def _by_kind(files: Iterable[Path]) -> tuple[Mapping[Path, Path], Mapping[Path, str]]:
    """The texts by their paths without suffix, and the modality of each picture and sound."""
    texts, media = {}, {}
    for path in files:
        suffix = path.suffix.lower()
        if suffix == ".txt":
            texts[path.with_suffix("")] = path
        elif modality := next((m for m in ("image", "audio") if suffix in KINDS[m].suffixes), None):
            media[path] = modality
    return texts, media


def _base(path: Path, texts: Mapping[Path, Path]) -> Path | None:
    """The path of the file's text without suffix: of the same stem, or of the longest stem that an ending follows."""
    stem = path.stem
    for end in range(len(stem), 0, -1):
        if (end == len(stem) or _ENDING.fullmatch(stem, end)) and (
            base := path.with_name(stem[:end])
        ) in texts:
            return base
    return None


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.readline(_MOST_OF_LINE).decode("utf-8-sig").strip()
    except OSError as error:
        raise ExperimentError(f"data.path: {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ExperimentError(
            f"data.path: the first line of {path} should be text in UTF-8, and is not."
        ) from error
