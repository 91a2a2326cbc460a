"""Files that a run is still writing: read on where they have grown, valid as far as they go."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from fedloom.core.seals import read_sealed

T = TypeVar("T")
Stamp = tuple[int, int, int] | None
"""A file's identity, size and time of change; None where there is no file."""


def stamp(path: Path) -> Stamp:
    """The file's stamp: it differs once the file was written, replaced or removed."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Lines(Generic[T]):
    """The records of a growing JSON lines file. Lines of another form are counted in `bad` and left out."""

    def __init__(self, path: Path, kind: type[T], keep: Callable[[T], bool] = lambda record: True) -> None:
        self.path, self.keep = path, keep
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)
        self._stamp: Stamp = None
        self.beginnings = 0
        """How often the file was begun anew."""
        self.forget()

    def forget(self) -> None:
        """Begin anew at the file's first line, as after a resume, which cuts the file."""
        self.records: list[T] = []
        self.bad, self._read = 0, 0
        self._stamp = None
        self.beginnings += 1

    def read_on(self) -> bool:
        """Read the complete lines that are new; True if the file has changed. A half-written last line waits for its end."""
        now = stamp(self.path)
        if now == self._stamp:
            return False
        if now is None or (self._stamp is not None and now[0] != self._stamp[0]) or now[1] < self._read:
            self.forget()
        self._stamp = now
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except OSError:
            return True
        *lines, rest = data.split(b"\n")
        self._read += len(data) - len(rest)
        for line in filter(bytes.strip, lines):
            self._take(line)
        return True

    def _take(self, line: bytes) -> None:
        try:
            record = self._adapter.validate_json(line)
        except ValidationError:
            self.bad += 1
            return
        if self.keep(record):
            self.records.append(record)


class Document(Generic[T]):
    """A small file that is written at once; `value` is None where it is missing or of another form."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        self.path, self.read = path, read
        self.value: T | None = None
        self._stamp: Stamp = None

    def read_on(self) -> bool:
        """Read the file if it has changed; True if it has."""
        now = stamp(self.path)
        if now == self._stamp:
            return False
        self._stamp, self.value = now, None
        if now is not None:
            try:
                self.value = self.read(self.path)
            except (OSError, ValueError):  # pydantic's and the project's errors are ValueErrors
                self.value = None
        return True


def of_kind(kind: type[T]) -> Callable[[Path], T]:
    """A reader of JSON files that are validated as `kind`."""
    adapter = TypeAdapter(kind)
    return lambda path: adapter.validate_json(path.read_bytes())


def sealed(path: Path) -> dict[str, Any]:
    """A sealed file's fields. Raises ValueError where it is damaged, or holds none."""
    return TypeAdapter(dict[str, Any]).validate_python(read_sealed(path))
