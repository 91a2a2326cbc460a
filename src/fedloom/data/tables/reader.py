"""Rows as samples: what a row's cells mean is checked once, before a run, and read again where the sample is needed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.conversation import last_answer, last_question, media_in, turns_of
from fedloom.data.media import KINDS, Media, MediaSettings
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample, Turn, key_of, modality_of
from fedloom.data.tables.cells import Part, client_of, column_value, split_of, text_of
from fedloom.data.tables.columns import Columns
from fedloom.data.tables.files import MissingFileError, content_of, inline
from fedloom.data.tables.opening import Table


@dataclass(frozen=True)
class Row:
    """A row's checked content. `sample` is None where the row is not used.

    It has no answer; or it is `bare`, with no picture or sound for the one question of all rows; or it names a file that is not
    there (`missing`).
    """

    sample: Sample | None
    split: Part | None
    client: str | None
    missing: str | None = None
    bare: bool = False

    columns: Mapping[str, str | int | float] = field(default_factory=dict)
    """The values of the columns that a partition deals by."""

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
    def _named(self) -> dict[str, str]:
        return self.columns.named()  # once: it is looked at for every row

    @cached_property
    def _media_columns(self) -> dict[str, str]:
        return {m: self._named[m] for m in KINDS if m in self.columns.media}

    @cached_property
    def _names(self) -> list[str]:
        return list(dict.fromkeys([*self._named.values(), *self.keep]))

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
        column = "" if part is None else f", column {self._named.get(part, part)!r}"
        return ExperimentError(f"data.path: {self.table.rows.place(number)}{column}: {says}.")

    def unusable(self, number: int, media: Media, fault: str) -> ExperimentError:
        """The error for a file of a row that cannot be used."""
        name = f" {media.source.name!r}" if isinstance(media.source, Path) else ""
        return self.error(number, media.modality, f"the {media.modality} file{name} cannot be used ({fault})")

    def _row(self, number: int, cells: Mapping[str, Any]) -> Row:
        def read(part: str, function: Any) -> Any:
            column = self._named.get(part)
            try:
                return None if column is None else function(cells[column])
            except ValueError as error:
                raise self.error(number, part, str(error)) from error

        split, client = read("split", split_of), read("client", client_of)
        answer = read("answer", text_of) or read("label", text_of)
        talk = read("messages", _not_empty)
        if answer is None and not talk:
            return Row(None, split or self.table.split, client)
        try:
            media = self._media(number, cells)
        except MissingFileError as error:
            place = self.table.rows.place(number)
            return Row(None, split or self.table.split, client, f"data.path: {place}: the file {error}.")
        turns: tuple[Turn, ...] = ()
        if talk:
            turns = read("messages", lambda value: turns_of(value, list(media)))
            question, answer = last_question(turns), last_answer(turns)
        else:
            question = self.question or read("question", text_of) or ""
        if not question and not media:
            says = "has neither a question nor a picture or sound; data.question gives all rows one"
            raise self.error(number, "question", says)
        if self.question and self._media_columns and not media and not talk:
            return Row(None, split or self.table.split, client, bare=True)
        pair = read("pair", text_of)
        if "pair" in self._named and pair is None:
            raise self.error(number, "pair", "is empty, and should be the second text")
        kept = {c: column_value(cells[c]) for c in (self.columns.label, self.columns.client, *self.keep) if c}
        sample = Sample(
            uid=f"{self.prefix}{number + 1}",
            modalities=MediaFiles(media, lambda one, fault: self.unusable(number, one, fault)),
            question=question,
            answer=answer,
            meta={"row": number + 1, "columns": kept, **({} if pair is None else {"pair": pair})},
            turns=turns,
        )
        dealt_by = {name: kept[name] for name in self.keep}
        return Row(sample, split or self.table.split, client, columns=dealt_by)

    def _media(self, number: int, cells: Mapping[str, Any]) -> dict[str, Media]:
        """The row's media by their keys in `Sample.modalities`: those of its columns, then those inside its messages."""
        media: dict[str, Media] = {}
        for part, modality, value in self._named_media(number, cells):
            try:
                one = (
                    value
                    if isinstance(value, Media)
                    else self.table.files.media(value, modality, self.settings)
                )
            except MissingFileError:
                raise
            except ValueError as error:
                raise self.error(number, part, str(error)) from error
            count = sum(modality_of(key) == modality for key in media)
            media[key_of(modality, count + 1)] = one
        return media

    def _named_media(self, number: int, cells: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
        """(part of the sample, modality, cell or media) of each of the row's media."""
        columns = self._media_columns
        for modality, name in columns.items():
            for value in _listed(cells[name]):
                yield modality, modality, value
        column = self.columns.messages
        if column is None:
            return
        try:
            parts = media_in(cells[column])
        except ValueError as error:
            raise self.error(number, "messages", str(error)) from error
        for place, (modality, value) in enumerate(parts):
            if value is None or modality in columns:
                continue
            if modality not in KINDS:
                raise self.error(number, "messages", f"holds {modality}, and known are {', '.join(KINDS)}")
            if inline(value):
                value = Media(modality, partial(self._inline, number, place), self.settings)
            yield "messages", modality, value

    def _inline(self, number: int, place: int) -> bytes:
        """The content of a medium written inside a message."""
        cells = self.table.rows.cells(number, [self.columns.messages or ""])
        return content_of(media_in(cells[self.columns.messages or ""])[place][1])


def _not_empty(value: Any) -> bool:
    return value is not None and value != "" and value != []


def _listed(value: Any) -> Sequence[Any]:
    """The cell's files: none, one, or a list of them."""
    listed = value if isinstance(value, list | tuple) else [value]
    return [v for v in listed if v is not None and v != ""]
