"""The parts of a table's rows that are kept before they are dealt: splits, clients and the places of media, but no texts."""

from collections.abc import Iterable, Mapping

from fedloom.data.media import Media
from fedloom.data.tables.reader import Row


class KeptRows:
    """All that is kept of rows, by their numbers; a table may be larger than memory."""

    def __init__(self) -> None:
        self.splits: dict[int, str | None] = {}
        self.media: dict[int, tuple[Media, ...]] = {}
        self.missing: dict[int, str] = {}
        self.client: dict[int, str] = {}
        self.columns: dict[int, Mapping[str, str | int | float]] = {}
        self.unanswered: list[str | None] = []
        self.bare: list[str | None] = []

    def add(self, number: int, row: Row) -> None:
        """Take a row."""
        if row.sample is None and row.missing is None:
            (self.bare if row.bare else self.unanswered).append(row.split)
            return
        self.splits[number] = row.split
        if row.missing is not None:
            self.missing[number] = row.missing
        else:
            self.media[number] = row.media
            if row.columns:
                self.columns[number] = row.columns
        if row.client is not None:
            self.client[number] = row.client

    def use_splits(self, path: str) -> list[str]:
        """Make the splits train, test or None, and forget rows of others. Returns what a user should know."""
        parts, note = used_splits([*self.splits.values(), *self.unanswered, *self.bare])
        left_out = [n for n, split in self.splits.items() if split not in parts]
        for number in left_out:
            for kept in (self.splits, self.media, self.missing, self.client, self.columns):
                kept.pop(number, None)
        self.splits = {n: parts[split] for n, split in self.splits.items()}
        notes = [] if note is None else [f"{path}: {note}"]
        empty, bare = (sum(split in parts for split in own) for own in (self.unanswered, self.bare))
        total = len(self.splits) + empty + bare
        if empty:
            notes.append(f"{path}: {empty} of {total} rows have no answer and are left out")
        if bare:
            notes.append(
                f"{path}: {bare} of {total} rows hold no picture or sound to ask data.question about and are left out"
            )
        return notes

    def update(self, other: "KeptRows") -> None:
        """Take all rows of another."""
        self.splits |= other.splits
        self.media |= other.media
        self.missing |= other.missing
        self.client |= other.client
        self.columns |= other.columns


def used_splits(splits: Iterable[str | None]) -> tuple[dict[str | None, str | None], str | None]:
    """The part of each split, "train", "test" or None for a draw; and a note on validation rows.

    Validation rows are the test rows where there are no others, else they are left out: no entry. Where all rows are training
    rows, test rows are drawn from them.
    """
    present = set(splits)
    parts: dict[str | None, str | None] = {None: None, "train": "train", "test": "test"}
    if "train" in present and not {"validation", "test"} & present:
        return {
            **parts,
            "train": None,
        }, "there are no test rows, so data.test_share of the training rows are drawn"
    if "validation" not in present:
        return parts, None
    if "test" in present:
        return parts, "validation rows are left out, since there are test rows"
    return {**parts, "validation": "test"}, "validation rows are the test rows"
