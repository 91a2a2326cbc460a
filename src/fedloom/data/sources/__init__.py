"""Data sources: one class per source, registered by the name in `data.source`."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.validation import validated
from fedloom.data.sources.captions import CaptionSource
from fedloom.data.sources.folder import FolderSource
from fedloom.data.sources.image_classes import ImageClassSource
from fedloom.data.sources.labelled import LabelledSource
from fedloom.data.sources.python_clients import GivenClients, PythonSource
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
        PythonSource,
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


def clients(samples: Mapping[str, Sequence[Mapping[str, object]]], **settings: Any) -> Source:
    """The data of an experiment, from Python: samples by client.

    A sample is a mapping. Its media are `image` (PIL's picture, uint8 array (H, W), (H, W, 3) or (3, H, W), or a list of them),
    `audio` (int16 array, or floats in [-1, 1], (T,), (T, C) or (C, T), with the samples per second in `rate`), and `video`,
    `depth`, `thermal` and `imu`, which are files; pictures and sounds may be files, too. Its texts are `question` and `answer`,
    or `label` for a classifier (with `pair` for a second text), and `split`: train or test. `settings` are those of `data`, such
    as question, test_share, labels and media. Raises ExperimentError.
    """
    if "columns" in settings:
        raise ExperimentError("clients: the parts of a sample stand under their own names; leave columns out")
    given = GivenClients.of(samples)
    return parse_source({**settings, "source": PythonSource.source_name(), "clients": given}, "clients")


def read_by(name: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `data` without those that other sources read and the source `name` does not; a misspelt one stays."""
    kind = SOURCES.get(name) if isinstance(name, str) else None
    return dict(fields) if kind is None else {k: v for k, v in fields.items() if _reader(k, kind) is None}


def _reader(key: str, kind: type[Source]) -> str | None:
    """The first other source that reads `key`; None if `kind` reads it."""
    if key in kind.model_fields:
        return None
    return next((name for name, other in SOURCES.items() if key in other.model_fields), None)


__all__ = ["SOURCES", "Source", "clients", "parse_source", "read_by", "source_named"]
