"""Validation by pydantic, with the first mistake as one sentence."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import group_at

M = TypeVar("M", bound=BaseModel)
SHOWN = 60
"""Largest number of characters of a wrong value in a sentence."""


def validated(model: type[M], fields: Mapping[str, Any], origin: str, prefix: str = "") -> M:
    """An instance of `model`, or an ExperimentError with one sentence about the first mistake in `fields`.

    Beyond pydantic's own rules, `true` and `false` are no numbers, and numbers are finite.
    """
    try:
        settings = model.model_validate(fields)
    except ValidationError as error:
        raise ExperimentError(f"{origin}: {_sentence(error, model, fields, prefix)}") from error
    if fault := _misread(settings, fields):
        place, says = fault
        raise ExperimentError(f"{origin}: {prefix}{place}: {says}")
    return settings


def _misread(value: Any, given: Any, place: str = "") -> tuple[str, str] | None:
    """The place of the first number that was given as a truth value or is not finite, and the fault."""
    inner: list[tuple[Any, Any, str]] = []
    if isinstance(value, BaseModel) and isinstance(given, Mapping):
        inner = [(getattr(value, n, None), v, str(n)) for n, v in given.items()]
    elif isinstance(value, Mapping) and isinstance(given, Mapping):
        inner = [(value.get(n), v, str(n)) for n, v in given.items()]
    elif isinstance(value, tuple | list) and isinstance(given, tuple | list):
        inner = [(v, g, str(i)) for i, (v, g) in enumerate(zip(value, given, strict=False))]
    for part, raw, name in inner:
        if fault := _misread(part, raw, f"{place}.{name}" if place else name):
            return fault
    if isinstance(given, bool) and isinstance(value, int | float) and not isinstance(value, bool):
        return place, f"should be a number, not {str(given).lower()}"
    if isinstance(value, float) and not math.isfinite(value):
        return place, f"should be a finite number, not {given!r}"
    return None


def _sentence(error: ValidationError, model: type[BaseModel], fields: Mapping[str, Any], prefix: str) -> str:
    """The first mistake: its place, what is wrong, and what would be right."""
    errors = error.errors()
    first = errors[0]
    location = _written(first["loc"], fields, first["type"])
    place = (prefix + ".".join(map(str, location))).rstrip(".") or "the top level"
    if first["type"] == "extra_forbidden":
        return f"unknown key {place}; {_hint(_known_keys(model, location[:-1], fields), str(location[-1]))}"
    if first["type"] == "union_tag_not_found":
        tag = str(first["ctx"]["discriminator"]).strip("'")
        page = "docs/your-data.md" if place.startswith("data.") else "docs/security.md"
        return f"{place} must say its {tag}; {page} names them"
    if first["type"] == "union_tag_invalid":
        known = str(first["ctx"]["expected_tags"]).replace("'", "")
        tag = str(first["ctx"]["discriminator"]).strip("'")
        return f"{place}.{tag}: there is no {first['ctx']['tag']!r} here; known are {known}"
    if first["type"] == "missing":
        return f"{place} is missing{_purpose(model, location)}"
    # One value with several possible types has one error for each of them.
    same = [e for e in errors if _written(e["loc"], fields, e["type"]) == location]
    says = dict.fromkeys(_message(e) for e in same)
    value = first["input"]
    shown = repr(value) if isinstance(value, int | float | str) else ""
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return f"{place}: {', or '.join(says)}{f', not {shown}' if shown else ''}"


def _message(error: Any) -> str:
    """Pydantic's message without the names of our classes."""
    if error["type"] in ("model_type", "model_attributes_type", "dataclass_type", "dict_type"):
        return "should be a mapping, such as {name: value}"
    text = error["msg"].removeprefix("Value error, ")
    return f"{text[:1].lower()}{text[1:]}"


def _written(location: Sequence[Any], fields: Any, kind: str) -> list[Any]:
    """The part of an error's location that the user wrote: pydantic adds the names of types and of union members."""
    kept: list[Any] = []
    for number, part in enumerate(location):
        if (isinstance(fields, Mapping) and part in fields) or (
            isinstance(fields, list | tuple) and isinstance(part, int) and part < len(fields)
        ):
            fields = fields[part]
        elif not (kind == "missing" and number == len(location) - 1):
            continue
        kept.append(part)
    return kept


def _hint(known: Sequence[str], wrong: str) -> str:
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}" if known else "remove it"


def _purpose(model: type[BaseModel], location: Sequence[Any]) -> str:
    """The purpose of a field of `model`, as the end of a sentence; empty for deeper ones."""
    field = model.model_fields.get(str(location[0])) if len(location) == 1 else None
    return "" if field is None or field.description is None else f"; it is {field.description}"


def _known_keys(model: Any, location: Sequence[Any], value: Any) -> list[str]:
    """The keys that a model knows at a location of `value`; empty where no group of settings stands there."""
    for part in location:
        value = value.get(part) if isinstance(value, Mapping) else None
        model = group_at(model, part, value)
    return sorted(getattr(model, "model_fields", {}))
