"""Media in a table's cells: content inside the cell, or the name of a file below the table's folder."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.core.files import find_file
from fedloom.data.media import Media, MediaSettings
from fedloom.data.tables.rows import Stored

SUBFOLDERS = ("images", "image", "img", "pictures", "audio", "audios", "sounds", "wavs", "clips", "media")
"""Folders beside a table in which its files are looked for, after the table's own."""


class MissingFileError(ValueError):
    """A cell names a file that is not there."""


@dataclass(frozen=True)
class Files:
    """The folders in which files named in a table are looked for: `beside` the table, below `root`, or nowhere.

    `owner`: the root in words, for messages.
    """

    root: Path | None
    beside: Path | None = None
    owner: str = "the data's folder"

    def media(self, value: Any, modality: str, settings: MediaSettings) -> Media:
        """The media in a cell. Raises ValueError with a clause; MissingFileError where there is no such file."""
        if isinstance(value, Stored):
            if value.read is not None:
                return Media(modality, value.read, settings)
            value = value.path
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            value = value["path"]
        if not isinstance(value, str) or not value:
            raise ValueError(f"should be a file or a file name, and is {str(value)[:60]!r}")
        if value.startswith(("http://", "https://")):
            raise ValueError(
                f"is the web address {value[:80]!r}; download the file and name it by its path below {self.owner}"
            )
        return Media(modality, self.find(value), settings)

    def find(self, name: str) -> Path:
        """The file of this name, links resolved. Raises as `media` does."""
        if self.root is None:
            raise ValueError(
                f"names the file {name[:80]!r}, and a set on the hub should hold its files itself"
            )
        beside, first = self.beside or self.root, None
        for place in dict.fromkeys(
            [beside, self.root, *(f / s for f in (beside, self.root) for s in SUBFOLDERS)]
        ):
            path = inside(self.root, place, name, self.owner)
            first = first or path
            if path.is_file():
                return path
        raise MissingFileError(f"{name[:200]!r} is missing: there is no file {first}")


def inside(root: Path, place: Path, name: str, owner: str) -> Path:
    """`place / name`, links resolved; it must lie below `root`. Raises ValueError with a clause."""
    try:
        path = find_file(place, name).resolve()
        is_inside = path.is_relative_to(root.resolve())
        path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        # two spellings, too long, a NUL byte, links in a circle
        raise ValueError(f"{name!r} is no usable file name ({error})") from error
    if not is_inside:
        raise ValueError(f"{name!r} leads out of {owner}; copy the file into it")
    return path


def inline(value: Any) -> bool:
    """Whether a media part of a message holds its content: bytes, a data URL, or an object with base64 data."""
    return isinstance(value, bytes | Mapping) or (isinstance(value, str) and value.startswith("data:"))


def content_of(value: Any) -> bytes:
    """The content of an `inline` value. Raises ValueError for text that is no base64."""
    if isinstance(value, bytes):
        return value
    text = value.get("data") if isinstance(value, Mapping) else str(value).partition(",")[2]
    if not isinstance(text, str):
        raise ValueError("its data should be base64")
    return base64.b64decode(text, validate=True)
