"""Seals: length and SHA-256 of a file, so that damage to it is noticed before it decides anything.

A sealed file holds its own seal. A log is an append-only file of JSON lines, whose seal a checkpoint keeps. `checksums.json` in
a finished run's folder seals the results.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fedloom.core.errors import DiskError
from fedloom.core.files import sync, write_atomic

CHECKSUMS = "checksums.json"
BLOCK = 1 << 20


@dataclass(frozen=True)
class Seal:
    """The length in bytes of a file, or of its beginning, and the SHA-256 of these bytes as 64 hex digits."""

    length: int
    digest: str


EMPTY = Seal(0, hashlib.sha256().hexdigest())


def damaged(file: Path) -> DiskError:
    """The error for a file that is missing or damaged."""
    return DiskError(
        f"{file} is damaged: its content is not what was written; put it back from a copy, or start the run anew in "
        "another folder"
    )


def seal_of(path: Path) -> Seal:
    """The seal of a whole file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = _feed(digest, file, None)
    return Seal(length, digest.hexdigest())


def check(path: Path, seal: Seal) -> None:
    """Raise DiskError unless the whole file is as it was sealed."""
    try:
        if seal_of(path) == seal:
            return
    except OSError as error:
        raise damaged(path) from error
    raise damaged(path)


def write_sealed(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object with its seal, atomically."""
    text = json.dumps(fields, sort_keys=True)
    envelope = {"digest": hashlib.sha256(text.encode()).hexdigest(), "state": text}
    write_atomic(path, json.dumps(envelope).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """The object that `write_sealed` wrote. Raises DiskError if the file is missing or damaged."""
    try:
        envelope = json.loads(path.read_bytes())
        text = envelope["state"]
        if hashlib.sha256(text.encode()).hexdigest() != envelope["digest"]:
            raise damaged(path)
        fields: dict[str, Any] = json.loads(text)
    except DiskError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path) from error
    return fields


class Log:
    """An append-only file of JSON lines. Its digest runs along, so that a seal costs no second reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest, self._length = hashlib.sha256(), 0
        if path.exists():
            with path.open("rb") as file:
                self._length = _feed(self._digest, file, None)

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines. Raises ValueError for a number that is not finite."""
        data = "".join(json.dumps(x, sort_keys=True, allow_nan=False) + "\n" for x in lines).encode()
        with self.path.open("ab") as file:
            file.write(data)
        self._digest.update(data)
        self._length += len(data)

    def seal(self) -> Seal:
        """The seal of all lines, once they are on the disk."""
        if self._length:
            sync(self.path)
        return Seal(self._length, self._digest.hexdigest())

    def cut(self, seal: Seal) -> None:
        """Drop what was appended after `seal`. Raises DiskError if what was sealed is missing or damaged."""
        digest, length = hashlib.sha256(), 0
        if self.path.exists():
            with self.path.open("rb") as file:
                length = _feed(digest, file, seal.length)
        if Seal(length, digest.hexdigest()) != seal:
            raise damaged(self.path)
        if self.path.exists():
            os.truncate(self.path, seal.length)
        self._digest, self._length = digest, length

    def lines(self) -> list[Any]:
        """The complete lines; a torn last line, left by a kill, is dropped. Raises DiskError for a line that is no JSON."""
        if not self.path.exists():
            return []
        try:
            return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1]]
        except (ValueError, RecursionError) as error:
            raise damaged(self.path) from error


def write_checksums(folder: Path, files: Iterable[Path]) -> None:
    """Seal a folder's files in its `checksums.json`."""
    seals = {file.relative_to(folder).as_posix(): seal_of(file) for file in sorted(files)}
    write_sealed(folder / CHECKSUMS, {name: [s.length, s.digest] for name, s in seals.items()})


def check_files(folder: Path, *names: str) -> None:
    """Raise DiskError if a file is not as `checksums.json` says. A name that ends in a slash means all files below it.

    Files without a checksum, and folders without `checksums.json`, such as those of earlier versions, pass.
    """
    if not (folder / CHECKSUMS).exists():
        return
    for name, (length, digest) in read_sealed(folder / CHECKSUMS).items():
        if any(name == n or (n.endswith("/") and name.startswith(n)) for n in names):
            file = folder / name
            if not file.is_file() or seal_of(file) != Seal(length, digest):
                raise DiskError(
                    f"{file} is damaged: its content is not what the run wrote; put it back from a copy, or, if it is a "
                    f"result, let `fedloom run --resume {folder}` write it anew"
                )


def forget(folder: Path, file: Path) -> None:
    """Take a file out of a folder's `checksums.json`, where it is in it."""
    if not (folder / CHECKSUMS).exists():
        return
    seals = read_sealed(folder / CHECKSUMS)
    if seals.pop(file.relative_to(folder).as_posix(), None) is not None:
        write_sealed(folder / CHECKSUMS, seals)


def _feed(digest: Any, file: IO[bytes], limit: int | None) -> int:
    """Hash a file from its position, up to `limit` bytes; returns the number of bytes."""
    length = 0
    while block := file.read(BLOCK if limit is None else min(BLOCK, limit - length)):
        digest.update(block)
        length += len(block)
    return length
