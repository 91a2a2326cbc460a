"""Rows of a memory-mapped data set of Hugging Face's `datasets`; the content of media files is read on demand."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fedloom.data.tables.rows import BATCH, Stored


class ArrowRows:
    """The rows of a `datasets.Dataset`."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.name = name
        self.features = {column: _kind(feature) for column, feature in dataset.features.items()}
        self.classes = {
            column: list(feature.names)
            for column, feature in dataset.features.items()
            if type(feature).__name__ == "ClassLabel"
        }
        self._rows = dataset.with_format("arrow")  # Arrow's own values: nothing is decoded
        self._selected: dict[tuple[str, ...], Any] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def place(self, row: int) -> str:
        """The row in words, counted from 1."""
        return f"row {row + 1} of {self.name}"

    def cells(self, row: int, names: Sequence[str]) -> Mapping[str, Any]:
        """See `Rows.cells`."""
        return self._read(slice(row, row + 1), names)[0]

    def batches(self, names: Sequence[str]) -> Iterator[list[Mapping[str, Any]]]:
        """See `Rows.batches`."""
        for start in range(0, len(self), BATCH):
            yield self._read(slice(start, min(start + BATCH, len(self))), names)

    def _read(self, rows: slice, names: Sequence[str]) -> list[Mapping[str, Any]]:
        table = self._table(names)[rows]
        columns = {name: [v for chunk in table.column(name).chunks for v in _values(chunk)] for name in names}
        return [
            {name: self._cell(columns[name][i], rows.start + i, name) for name in names}
            for i in range(rows.stop - rows.start)
        ]

    def _table(self, names: Sequence[str]) -> Any:
        """The rows with these columns alone, so that the others are not touched."""
        key = tuple(names)
        if key not in self._selected:
            self._selected[key] = self._rows.select_columns(list(names))
        return self._selected[key]

    def _cell(self, value: Any, row: int, name: str) -> Any:
        if isinstance(value, Stored):
            return self._media(value, row, name)
        if isinstance(value, list) and any(isinstance(v, Stored) for v in value):
            return [self._media(v, row, name, i) if isinstance(v, Stored) else v for i, v in enumerate(value)]
        if name in self.classes and isinstance(value, int):
            classes = self.classes[name]
            return None if value < 0 else classes[value] if value < len(classes) else value
        return value

    def _media(self, value: Stored, row: int, name: str, item: int | None = None) -> Stored:
        """The cell's file with a reader of its content, if the cell holds it."""
        return value if value.read is None else Stored(value.path, partial(self._content, row, name, item))

    def _content(self, row: int, name: str, item: int | None = None) -> bytes:
        value = self._table([name])[row].column(name)[0]
        if item is not None:
            value = value.values[item]
        found = value.as_py()
        content = found["bytes"] if isinstance(found, Mapping) else found
        if content is None:
            raise ValueError("the cell is empty")
        return bytes(content)


def _kind(feature: Any) -> str:
    """The name of a column's type; of its elements' type for a list."""
    inner = getattr(feature, "feature", None)
    if isinstance(feature, list) and len(feature) == 1:
        inner = feature[0]
    return type(feature if inner is None else inner).__name__


def _values(chunk: Any) -> list[Any]:
    """The Python values of a part of a column; media content stays where it is."""
    import pyarrow as pa

    kind = chunk.type
    if pa.types.is_struct(kind) and {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}:
        fields = dict(zip((kind.field(i).name for i in range(kind.num_fields)), chunk.flatten(), strict=True))
        held = fields["bytes"].is_valid().to_pylist()
        return [_stored(p, h) for p, h in zip(fields["path"].to_pylist(), held, strict=True)]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [_stored(None, held) for held in chunk.is_valid().to_pylist()]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = kind.value_type
        if pa.types.is_struct(inner) or pa.types.is_binary(inner) or pa.types.is_large_binary(inner):
            return [None if not v.is_valid else _values(v.values) for v in chunk]
    return list(chunk.to_pylist())


def _stored(path: str | None, held: bool) -> Stored | None:
    """A file in a cell, or None; `ArrowRows` puts the reader of a held one in place."""
    if not held and not path:
        return None
    return Stored(path, bytes if held else None)
