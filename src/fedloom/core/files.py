"""Atomic file writes, and files whose names are spelt in another Unicode form."""

import os
import unicodedata
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file that appears whole or not at all; `durable` waits until it survives a power cut."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    if durable:
        sync(part)
    part.replace(path)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def find_file(folder: Path, name: str) -> Path:
    """`folder / name`, or the only file or folder whose name is the same text in another Unicode normal form.

    A table may spell an accented letter as one character and the disk as two. Raises ValueError if several such files exist and
    none of them is spelt as `name`.
    """
    path = folder / name
    if name.isascii() or path.exists() or not folder.is_dir():
        return path
    place = folder
    for part in Path(name).parts:
        place = place / part if part == ".." or (place / part).exists() else _alike(place, part)
    return place


def _alike(folder: Path, name: str) -> Path:
    wanted = unicodedata.normalize("NFC", name)
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    alike = [p for p in listed if unicodedata.normalize("NFC", p.name) == wanted]
    if len(alike) > 1:
        raise ValueError(
            f"{len(alike)} files in {folder} have this name in other Unicode spellings; rename all but one"
        )
    return alike[0] if alike else folder / name
