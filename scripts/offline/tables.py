"""Writing of a folder's metadata.csv, as ImageFolder, AudioFolder and fedloom read it."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def write(folder: Path, rows: Sequence[Mapping[str, object]], name: str = "metadata.csv") -> None:
    """All rows, with the columns of the first."""
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
