"""Media files inside the rows of a data set of Hugging Face's `datasets`, such as parquet files."""

from pathlib import Path
from typing import Any


def encoded(rows: Any, column: str) -> Any:
    """The rows with this column alone, its files not decoded."""
    import datasets

    return rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def row_content(rows: Any, row: int, column: str) -> bytes:
    """The file in one row of an `encoded` column. Raises ValueError if there is none."""
    value = rows[row][column]
    if value is None:
        raise ValueError("the row holds no file")
    content = value["bytes"]
    return Path(value["path"]).read_bytes() if content is None else bytes(content)
