"""The samples of several tables, numbered throughout, and parts of them that are read sample by sample."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import overload

from fedloom.data.media import Media
from fedloom.data.partition.shared_media import content, contents
from fedloom.data.sample import Sample
from fedloom.data.tables.reader import Reader


class LazySamples(Sequence[Sample]):
    """Samples that are read from their table on every access; only their numbers are kept."""

    def __init__(self, read: Callable[[int], Sample], numbers: Iterable[int]) -> None:
        self._read, self._numbers = read, array("q", numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> "LazySamples": ...
    def __getitem__(self, place: int | slice) -> "Sample | LazySamples":
        if isinstance(place, slice):
            return LazySamples(self._read, self._numbers[place])
        return self._read(self._numbers[place])


class Samples:
    """The rows of several readers, numbered throughout."""

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.readers = readers
        self._ends = list(accumulate(len(reader) for reader in readers))

    def sample(self, number: int) -> Sample:
        """The sample with this number."""
        reader, row = self._place(number)
        return reader.sample(row)

    def part(self, numbers: Iterable[int]) -> LazySamples:
        """The samples with these numbers."""
        return LazySamples(self.sample, numbers)

    def unusable(self, number: int, media: Media, fault: str) -> str:
        """The sentence on a file of a row that cannot be used."""
        reader, row = self._place(number)
        return str(reader.unusable(row, media, fault))

    def _place(self, number: int) -> tuple[Reader, int]:
        at = bisect_right(self._ends, number)
        return self.readers[at], number - (self._ends[at - 1] if at else 0)


def media_keys(media: dict[int, tuple[Media, ...]]) -> dict[int, list[Hashable]]:
    """A key for the content of each sample's media: equal for copies, in files and in cells."""
    files = contents({m.source for own in media.values() for m in own if isinstance(m.source, Path)})

    def keys(own: tuple[Media, ...]) -> list[Hashable]:
        return [files[m.source] if isinstance(m.source, Path) else content(m.source()) for m in own]

    found = {number: keys(()) for number in media}
    held = {number: own for number, own in media.items() if own}
    with ThreadPoolExecutor(8) as pool:  # hashing releases the interpreter's lock
        return found | dict(zip(held, pool.map(keys, held.values()), strict=True))
