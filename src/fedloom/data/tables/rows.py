"""The rows of a table: what every reader of a file format offers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

BATCH = 1000
"""Rows that a pass over a table reads at once."""


@dataclass(frozen=True)
class Stored:
    """A media file in a cell: `read` gives its content, or None where the cell only names the file `path`."""

    path: str | None
    read: Callable[[], bytes] | None = None


class Rows(Protocol):
    """A table that is read row by row."""

    name: str
    """The file or the data set, for messages."""

    @property
    def features(self) -> Mapping[str, str]:
        """The type of each column, such as Image or ClassLabel; "" where the format knows none."""

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """The class names, in their order, of each column whose format states them."""

    def __len__(self) -> int:
        """Number of rows."""

    def cells(self, row: int, names: Sequence[str]) -> Mapping[str, Any]:
        """The row's values of these columns; a media file is a `Stored`, a class its name, an absent value None."""

    def batches(self, names: Sequence[str]) -> Iterator[list[Mapping[str, Any]]]:
        """The `cells` of all rows in order, BATCH rows at a time."""

    def place(self, row: int) -> str:
        """The row in words, such as "line 3 of x.jsonl"."""
