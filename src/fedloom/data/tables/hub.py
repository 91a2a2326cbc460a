"""Data sets of the Hugging Face hub as tables; no code of a data set is run."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import reason
from fedloom.data.tables.files import Files
from fedloom.data.tables.formats import SUFFIXES, reading
from fedloom.data.tables.opening import Table, of_splits


def may_be_on_hub(path: str) -> bool:
    """Whether a text may be a name on the hub rather than a path: at most one slash, and no suffix of a table."""
    return bool(re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path)) and not path.lower().endswith(SUFFIXES)


def open_hub(name: str, config: str | None, take: int | None, *, streaming: bool) -> list[Table]:
    """The splits of a data set on the hub, downloaded, or streamed row by row into the Arrow cache.

    `take`: with `streaming`, the rows of each split that are read. Raises ExperimentError.
    """
    import datasets

    try:
        with reading(name):
            splits = datasets.load_dataset(name, config, streaming=streaming)
            if streaming:
                splits = {split: _copied(rows, take) for split, rows in splits.items()}
    except ExperimentError as error:
        cause = error.__cause__
        raise ExperimentError(
            f"data.path: there is no file or folder {name} here, and the Hugging Face hub does not give it "
            f"({reason(cause if isinstance(cause, Exception) else error).rstrip('.')})."
        ) from error
    # A set of loose pictures names files in the library's own cache.
    return of_splits(splits, name, Files(Path(datasets.config.HF_CACHE_HOME), owner="the hub's cache"))


def _copied(rows: Any, take: int | None) -> Any:
    """A memory-mapped copy of a streamed split in the Arrow cache."""
    import datasets

    for column, feature in (rows.features or {}).items():
        if type(feature).__name__ in ("Image", "Audio"):
            rows = rows.cast_column(column, type(feature)(decode=False))
    rows = rows if take is None else rows.take(take)
    return datasets.Dataset.from_generator(partial(_with_content, rows), features=rows.features)


def _with_content(rows: Any) -> Iterator[dict[str, Any]]:
    """The streamed rows, with the content of files that they only name."""
    from datasets.utils.file_utils import xopen

    for row in rows:
        for column, value in row.items():
            named = value.get("path") if isinstance(value, dict) and value.get("bytes") is None else None
            if isinstance(named, str) and "hf://" in named:  # a path of this machine stays a name
                with xopen(named, "rb") as file:
                    row[column] = {"bytes": file.read(), "path": Path(named).name}
        yield row
