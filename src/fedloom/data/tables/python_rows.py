"""Samples given in Python as rows of a table."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.media.check import Held
from fedloom.data.media.given import picture_source, sound_source
from fedloom.data.tables.columns import MEDIA
from fedloom.data.tables.rows import BATCH, Stored

TEXTS = ("question", "answer", "label", "pair", "split")
KEYS = (*MEDIA, "rate", *TEXTS)
"""Keys of a sample; `rate` belongs to a sound that is an array."""


class PythonRows:
    """One client's samples; pictures and sounds are kept as the content of files.

    Raises ExperimentError with the client and the sample's number for a wrong key, type or shape.
    """

    def __init__(self, client: str, samples: Sequence[Mapping[str, Any]]) -> None:
        self.name = f"client {client!r}"
        self.classes: Mapping[str, Sequence[str]] = {}
        if isinstance(samples, str | bytes | Mapping) or not isinstance(samples, Sequence):
            raise ExperimentError(
                f"clients: {self.name} should have a list of samples, and has a {type(samples).__name__}"
            )
        self._rows = [self._row(number, sample) for number, sample in enumerate(samples)]
        self.features = {
            key: key.capitalize() if key in ("image", "audio") else ""
            for key in KEYS
            if any(key in row for row in self._rows)
        }

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, row: int) -> str:
        """The sample in words, counted from 1."""
        return f"sample {row + 1} of {self.name}"

    def cells(self, row: int, names: Sequence[str]) -> Mapping[str, Any]:
        """See `Rows.cells`."""
        return {name: self._rows[row].get(name) for name in names}

    def batches(self, names: Sequence[str]) -> Iterator[list[Mapping[str, Any]]]:
        """See `Rows.batches`."""
        for start in range(0, len(self), BATCH):
            yield [self.cells(row, names) for row in range(start, min(start + BATCH, len(self)))]

    def _row(self, number: int, sample: Any) -> dict[str, Any]:
        if not isinstance(sample, Mapping):
            raise ExperimentError(
                f"clients: {self.place(number)} should be a mapping such as {{'image': picture, 'answer': 'a cat'}}, and is a "
                f"{type(sample).__name__}"
            )
        if unknown := [key for key in sample if key not in KEYS]:
            raise ExperimentError(
                f"clients: {self.place(number)} has {unknown[0]!r}, and a sample may have {', '.join(KEYS)}"
            )
        given = {key: value for key, value in sample.items() if value is not None}
        rate = given.pop("rate", None)
        if rate is not None and "audio" not in given:
            raise ExperimentError(f"clients: {self.place(number)} has a rate without audio; leave it out")
        row = {}
        for key, value in given.items():
            try:
                row[key] = _cell(key, value, rate)
            except (OSError, ValueError) as error:
                raise ExperimentError(f"clients: {self.place(number)}: {key} {error}") from error
        return row


def _cell(key: str, value: Any, rate: Any) -> Any:
    """A text as it is; a picture, a sound or the like with its content. Raises ValueError with a clause."""
    if key not in MEDIA:
        return value
    if key == "image":
        listed = value if isinstance(value, list | tuple) else [value]
        return [_stored(picture_source(one)) for one in listed]
    if key == "audio":
        return _stored(sound_source(value, rate))
    if not isinstance(value, str | Path | bytes):
        raise ValueError(f"should be a file, and is a {type(value).__name__}")
    return _stored(Path(value) if isinstance(value, str) else value)


def _stored(source: Path | bytes) -> Stored:
    """The content, read now: a later change of the file changes no run."""
    if isinstance(source, bytes):
        return Stored(None, Held(source))
    if not source.is_file():
        raise ValueError(f"names the file {str(source)!r}, which is not there")
    return Stored(None, Held(source.read_bytes()))
