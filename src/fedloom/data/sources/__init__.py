"""Data sources: one class per source, registered by the name in `data.source`."""

from collections.abc import Mapping
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.validation import validated
from fedloom.data.sources.captions import CaptionSource
from fedloom.data.sources.folder import FolderSource
from fedloom.data.sources.image_classes import ImageClassSource
from fedloom.data.sources.labelled import LabelledSource
from fedloom.data.sources.source import Source
from fedloom.data.sources.table import TableSource
from fedloom.data.sources.tabletop import TabletopSource
from fedloom.data.sources.text import TextSource

SOURCES: dict[str, type[Source]] = {
    s.source_name(): s
    for s in (
        TabletopSource,
        FolderSource,
        TableSource,
        CaptionSource,
        TextSource,
        ImageClassSource,
        LabelledSource,
    )
}
"""Source classes by their name in `data.source`."""


def source_named(fields: Mapping[str, Any]) -> Any:
    """The name in `source`; without it, `table` for own data in `path`, else the small world."""
    return fields.get("source", "tabletop" if fields.get("path") is None else "table")


def parse_source(fields: Mapping[str, Any], origin: str = "data") -> Source:
    """The source that `fields` describe. Raises ExperimentError, also for a field that only another source reads."""
    try:
        kind = Source.registered(fields)
    except ExperimentError as error:
        raise ExperimentError(f"{origin}: {error}") from error
    name = kind.source_name()
    for key in fields:
        if (reader := _reader(key, kind)) is not None:
            if (reason := kind.not_read.get(key)) is not None:
                raise ExperimentError(
                    f"{origin}: data.{key} is not read by source {name}, because {reason}; leave it out"
                )
            raise ExperimentError(
                f"{origin}: data.{key} is not read by source {name}; leave it out, or set data.source: {reader}"
            )
    return validated(kind, {"source": name, **fields}, origin, "data.")


def read_by(name: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `data` without those that other sources read and the source `name` does not; a misspelt one stays."""
    kind = SOURCES.get(name) if isinstance(name, str) else None
    return dict(fields) if kind is None else {k: v for k, v in fields.items() if _reader(k, kind) is None}


def _reader(key: str, kind: type[Source]) -> str | None:
    """The first other source that reads `key`; None if `kind` reads it."""
    if key in kind.model_fields:
        return None
    return next((name for name, other in SOURCES.items() if key in other.model_fields), None)


__all__ = ["SOURCES", "Source", "parse_source", "read_by", "source_named"]
