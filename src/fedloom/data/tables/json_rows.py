"""Rows of a JSON file, a list of objects or an object a line. Their places in the file are kept; they are parsed when read."""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.tables.rows import BATCH

MARK = b"\xef\xbb\xbf"
"""UTF-8's byte order mark."""


class JsonRows:
    """The objects of a JSON file. Values of one column may differ in type from row to row, which Arrow's own reader refuses."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._starts, self._sizes, self._numbers = array("q"), array("q"), array("q")
        columns: dict[str, None] = {}
        try:
            self._lines = _is_lines(path)
            for start, size, number, value in _objects(path) if self._lines else _elements(path):
                self._starts.append(start)
                self._sizes.append(size)
                self._numbers.append(number)
                columns |= dict.fromkeys(value)
        except OSError as error:
            raise ExperimentError(f"data.path: {path} cannot be read: {error.strerror}.") from error
        self.features = dict.fromkeys(columns, "")
        self.classes: Mapping[str, Sequence[str]] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def place(self, row: int) -> str:
        """The row in words: its line, or its number in the list, counted from 1."""
        return f"{'line' if self._lines else 'row'} {self._numbers[row]} of {self.name}"

    def cells(self, row: int, names: Sequence[str]) -> Mapping[str, Any]:
        """See `Rows.cells`."""
        with self.path.open("rb") as file:
            return self._read(file, row, names)

    def batches(self, names: Sequence[str]) -> Iterator[list[Mapping[str, Any]]]:
        """See `Rows.batches`."""
        with self.path.open("rb") as file:
            for start in range(0, len(self), BATCH):
                yield [self._read(file, row, names) for row in range(start, min(start + BATCH, len(self)))]

    def _read(self, file: Any, row: int, names: Sequence[str]) -> Mapping[str, Any]:
        file.seek(self._starts[row])
        value = _parsed(file.read(self._sizes[row]), self.place(row))
        return {name: value.get(name) for name in names}


def _is_lines(path: Path) -> bool:
    """Whether the file is an object a line, by its first letter."""
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(MARK).lstrip()
    return not head.startswith(b"[")


def _objects(path: Path) -> Iterator[tuple[int, int, int, Mapping[str, Any]]]:
    """(start, size, line number, value) of each line that is not blank."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(MARK) if number == 1 else line
            if text.strip():
                value = _parsed(text, f"line {number} of {path}")
                yield start + len(line) - len(text), len(text), number, value
            start += len(line)


def _elements(path: Path) -> Iterator[tuple[int, int, int, Mapping[str, Any]]]:
    """(start, size, number, value) of each element of a list."""
    # One letter a byte, so that places in the text are places in the file; brackets and quotes are ASCII in UTF-8.
    text = path.read_bytes().decode("latin-1")
    decoder, at, number = json.JSONDecoder(), text.index("[") + 1, 0
    while True:
        at = _after_space(text, at)
        if text[at : at + 1] == "]" and number == 0:
            break
        number += 1
        place = f"row {number} of {path}"
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            why = getattr(error, "msg", error)
            raise ExperimentError(f"data.path: {place} is no JSON object ({why}).") from error
        yield at, end - at, number, _parsed(text[at:end].encode("latin-1"), place)
        at = _after_space(text, end)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise ExperimentError(
                f"data.path: {place} is followed by neither a comma nor the end of the list."
            )
        at += 1
    if text[at + 1 :].strip():
        raise ExperimentError(f"data.path: {path} goes on after the end of its list.")


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\n", "\r", "\t"):
        at += 1
    return at


def _parsed(content: bytes, place: str) -> Mapping[str, Any]:
    """The object in these bytes. Raises ExperimentError, one sentence with the place."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ExperimentError(f"data.path: {place} cannot be read as UTF-8 text: {error}.") from error
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", error)  # the bare message: its own "line 1" would mislead
        raise ExperimentError(f"data.path: {place} is no JSON object ({why}).") from error
    if not isinstance(value, Mapping):
        raise ExperimentError(f"data.path: {place} should be a JSON object, and is a {type(value).__name__}.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it has the key {twice!r} twice")
    return found
