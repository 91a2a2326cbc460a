"""Media files and their content: the first bytes, and the containers that PyAV reads."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from fedloom.data.media import boxes, mp3
from fedloom.data.media.extra import needed
from fedloom.data.media.integrity import MATROSKA

Source = Path | bytes
"""A media file, or its content."""
Decoded = tuple[Tensor, tuple[str, ...]]
"""The raw tensor, and notes on how the file was read where that is not evident."""


def opened(source: Source) -> BinaryIO:
    """The file, or its content, for reading."""
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def head(source: Source, length: int = 256) -> bytes:
    """The first bytes."""
    with opened(source) as file:
        return file.read(length)


def named(source: Source, kind: str) -> str:
    """The file's name, or its kind for content without one."""
    return source.name if isinstance(source, Path) else kind


def demuxer(source: Source) -> str | None:
    """The reader of FFmpeg for a container, by its first bytes; None for any other file.

    FFmpeg never guesses: among its formats are lists of other files and addresses.
    """
    begin = head(source)
    if begin[4:8] == b"ftyp":
        return "mp4"
    if begin[:4] == MATROSKA:
        return "matroska"
    if begin[:4] == b"RIFF" and begin[8:12] == b"AVI ":
        return "avi"
    if begin[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    with opened(source) as file:  # tags may be long
        start = mp3.after_tags(begin)
        file.seek(start)
        return "aac" if boxes.is_adts(file.read(2)) else None


def is_container(source: Source) -> bool:
    """Whether PyAV reads this sound."""
    return demuxer(source) in ("mp4", "matroska", "avi", "aac")


@contextmanager
def container(source: Source, kind: str) -> Iterator[Any]:
    """The opened container. Raises ValueError for an unreadable one, and MissingLibraryError."""
    reader = demuxer(source)
    if reader is None:
        raise ValueError(f"it is no {kind} in MP4, MOV, WebM, MKV or AVI")
    av = needed("av", "av", named(source, f"a {kind} in {reader.upper()}"))
    with opened(source) as file:
        try:
            with av.open(file, format=reader, metadata_errors="replace") as found:
                yield found
        except av.FFmpegError as error:
            said = (error.strerror or type(error).__name__).lower()
            raise ValueError(f"it cannot be decoded ({said})") from error
