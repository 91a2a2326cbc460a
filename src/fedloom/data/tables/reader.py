"""Rows as samples: what a row's cells mean is checked once, before a run, and read again where the sample is needed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.media import KINDS, Media, MediaSettings
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample
from fedloom.data.tables.cells import Part, client_of, column_value, split_of, text_of
from fedloom.data.tables.columns import Columns
from fedloom.data.tables.files import MissingFileError
from fedloom.data.tables.opening import Table


@dataclass(frozen=True)
class Row:
    """A row's checked content. `sample` is None where the row has no answer, or names a file that is not there (`missing`)."""

    sample: Sample | None
    split: Part | None
    client: str | None
    missing: str | None = None

    @property
    def media(self) -> tuple[Media, ...]:
        """The row's pictures and sounds."""
        files = None if self.sample is None else self.sample.modalities
        return tuple(files.media.values()) if isinstance(files, MediaFiles) else ()


@dataclass(frozen=True)
class Reader:
    """Reads the rows of one table as samples.

    `question`: the question of every row, or of rows without one. `keep`: further columns whose values stand in
    `Sample.meta["columns"]`, beside those of label and client. `prefix`: the beginning of the samples' ids.
    """

    table: Table
    columns: Columns
    settings: MediaSettings
    question: str | None = None
    prefix: str = ""
    keep: tuple[str, ...] = ()

    @cached_property
    def _names(self) -> list[str]:
        return list(dict.fromkeys([*self.columns.named().values(), *self.keep]))

    def __len__(self) -> int:
        return len(self.table.rows)

    def rows(self) -> Iterator[Row]:
        """Every row, checked; media are not read. Raises ExperimentError with place and column."""
        number = 0
        for cells in self.table.rows.batches(self._names):
            for own in cells:
                yield self._row(number, own)
                number += 1

    def sample(self, number: int) -> Sample:
        """The sample of a row that `rows` gave one for."""
        sample = self._row(number, self.table.rows.cells(number, self._names)).sample
        if sample is None:
            raise self.error(number, None, "has no sample any more; the file has changed")
        return sample

    def error(self, number: int, part: str | None, says: str) -> ExperimentError:
        """The error `says` about a cell, with its row, its file and its column."""
        column = "" if part is None else f", column {self.columns.named().get(part, part)!r}"
        return ExperimentError(f"data.path: {self.table.rows.place(number)}{column}: {says}.")

    def unusable(self, number: int, media: Media, fault: str) -> ExperimentError:
        """The error for a file of a row that cannot be used."""
        name = f" {media.source.name!r}" if isinstance(media.source, Path) else ""
        return self.error(number, media.modality, f"the {media.modality} file{name} cannot be used ({fault})")

    def _row(self, number: int, cells: Mapping[str, Any]) -> Row:
        def read(part: str, function: Any) -> Any:
            column = self.columns.named().get(part)
            try:
                return None if column is None else function(cells[column])
            except ValueError as error:
                raise self.error(number, part, str(error)) from error

        split, client = read("split", split_of), read("client", client_of)
        answer = read("answer", text_of) or read("label", text_of)
        if answer is None:
            return Row(None, split or self.table.split, client)
        try:
            media = self._media(number, cells)
        except MissingFileError as error:
            place = self.table.rows.place(number)
            return Row(None, split or self.table.split, client, f"data.path: {place}: the file {error}.")
        question = self.question or read("question", text_of) or ""
        if not question and not media:
            raise self.error(
                number, "question", "has neither a question nor a picture or sound; data.question gives all rows one"
            )
        kept = {c: column_value(cells[c]) for c in (self.columns.label, self.columns.client, *self.keep) if c}
        sample = Sample(
            uid=f"{self.prefix}{number + 1}",
            modalities=MediaFiles(media, lambda one, fault: self.unusable(number, one, fault)),
            question=question,
            answer=answer,
            meta={"row": number + 1, "columns": kept},
        )
        return Row(sample, split or self.table.split, client)

    def _media(self, number: int, cells: Mapping[str, Any]) -> dict[str, Media]:
        media: dict[str, Media] = {}
        for modality in (m for m in KINDS if m in self.columns.media):
            for value in _listed(cells[self.columns.media[modality]]):
                if modality in media:
                    raise self.error(number, modality, f"holds several {modality} files, and a sample takes one")
                try:
                    media[modality] = self.table.files.media(value, modality, self.settings)
                except MissingFileError:
                    raise
                except ValueError as error:
                    raise self.error(number, modality, str(error)) from error
        return media


def _listed(value: Any) -> Sequence[Any]:
    """The cell's files: none, one, or a list of them."""
    listed = value if isinstance(value, list | tuple) else [value]
    return [v for v in listed if v is not None and v != ""]
