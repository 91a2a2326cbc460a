"""Files of one table: parquet, Arrow, CSV, TSV and JSON, each as rows that stay on the disk."""

import csv
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.data.tables.arrow_rows import ArrowRows
from fedloom.data.tables.json_rows import JsonRows
from fedloom.data.tables.rows import Rows

SUFFIXES = (".parquet", ".arrow", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
"""Suffixes of the files that are tables."""
_SEPARATORS = (",", "\t", ";")


def open_file(path: Path) -> Rows:
    """The rows of one file. Raises ExperimentError for a file that is no such table."""
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json"):
        return JsonRows(path)
    import datasets

    with reading(str(path)):
        if suffix == ".csv" or suffix == ".tsv":
            return ArrowRows(_csv(path), str(path))
        if suffix == ".arrow":
            return ArrowRows(datasets.Dataset.from_file(str(path)), str(path))
        if suffix == ".parquet":
            from pyarrow import parquet

            _distinct(parquet.read_schema(path).names, path)
            return ArrowRows(datasets.Dataset.from_parquet(str(path)), str(path))
    raise ExperimentError(
        f"data.path: {path} should be a table, with a name that ends in {', '.join(SUFFIXES)}."
    )


def _csv(path: Path) -> Any:
    """All cells as texts: a text such as NA or 007 stays what it is."""
    import datasets

    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        counts = {s: head.count(s) for s in _SEPARATORS}
        separator = "\t" if path.suffix.lower() == ".tsv" else max(_SEPARATORS, key=lambda s: counts[s])
        file.seek(0)
        names = next(csv.reader(file, delimiter=separator), [])
    if not names:
        raise ExperimentError(f"data.path: {path} is empty; its first line should name the columns.")
    _distinct(names, path)
    features = datasets.Features({name: datasets.Value("string") for name in names})
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # pandas only warns of a line with more cells than columns, and drops them
        return datasets.Dataset.from_csv(
            str(path),
            features=features,
            sep=separator,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
        )


def _distinct(names: Sequence[str], path: Path) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ExperimentError(f"data.path: {path} has two columns called {twice[0]!r}; rename one.")


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Context that silences the bars of `datasets`, and raises any error as an ExperimentError about the table `name`."""
    import datasets

    bars = datasets.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    except ExperimentError:
        raise
    except Exception as error:  # pyarrow, pandas and datasets raise many types for unreadable data
        inner = error.__cause__ if type(error).__name__ == "DatasetGenerationError" else None
        cause = inner if isinstance(inner, Exception) else error
        if "corresponds to no data" in str(cause):  # the words of datasets for a file of no rows
            raise ExperimentError(f"data.path: {name} has no rows.") from error
        raise ExperimentError(
            f"data.path: {name} cannot be read as a table ({reason(cause).rstrip('.')})."
        ) from error
    finally:
        if shown:
            bars.enable_progress_bar()
