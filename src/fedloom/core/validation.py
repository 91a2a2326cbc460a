"""Validation by pydantic, with the first mistake as one sentence."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from fedloom.core.errors import ExperimentError

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], fields: Mapping[str, Any], origin: str, prefix: str = "") -> M:
    """An instance of `model`, or an ExperimentError with one sentence about the first mistake in `fields`."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
    place = (prefix + ".".join(str(part) for part in first["loc"])).rstrip(".") or "the top level"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, first["loc"][:-1], fields)
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"known here: {', '.join(known)}"
            if known
            else "remove it"
        )
        raise ExperimentError(f"{origin}: unknown key {place}; {hint}")
    if first["type"] == "union_tag_not_found":
        tag = str(first["ctx"]["discriminator"]).strip("'")
        page = "docs/your-data.md" if place.startswith("data.") else "docs/security.md"
        raise ExperimentError(f"{origin}: {place} must say its {tag}; {page} names them")
    if first["type"] == "missing":
        raise ExperimentError(f"{origin}: {place} is missing{_purpose(model, first['loc'])}")
    value = f", not {first['input']!r}" if isinstance(first["input"], (int, float, str, bool)) else ""
    raise ExperimentError(f"{origin}: {place}: {message[0].lower()}{message[1:]}{value}")


def _purpose(model: type[BaseModel], location: Sequence[Any]) -> str:
    """The purpose of a field of `model`, as the end of a sentence; empty for deeper ones."""
    field = model.model_fields.get(str(location[0])) if len(location) == 1 else None
    return "" if field is None or field.description is None else f"; it is {field.description}"


def _known_keys(model: Any, location: Sequence[Any], value: Any) -> list[str]:
    """The keys that a model knows at a location of `value`; empty where no model of ours stands there.

    A model with a classmethod `variant` is the base of registered ones, and finds the one that a mapping names.
    """
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field is not None else None
        model = next((m for m in get_args(model) if hasattr(m, "model_fields")), model)  # one or none
        value = value.get(part) if isinstance(value, Mapping) else None
        if hasattr(model, "variant") and isinstance(value, Mapping):
            model = model.variant(value)
    return sorted(getattr(model, "model_fields", {}))
