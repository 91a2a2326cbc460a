"""Types, ranges and defaults of settings in words, from the JSON schema of a value."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "none",
}
LIMITS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}


def type_in_words(schema: Mapping[str, Any]) -> str:
    """The type with its range: whole number ≥ 1, `cpu` or `cuda`, list of texts."""
    return _either(_members(schema))


def _members(schema: Mapping[str, Any]) -> list[str]:
    """The types that a value may have, each in words, choices one by one."""
    if "enum" in schema or "const" in schema:
        return [f"`{v}`" for v in schema.get("enum", [schema.get("const")])]
    if "anyOf" in schema:
        members = list(dict.fromkeys(w for m in schema["anyOf"] for w in _members(m)))
        if "true or false" in members:  # its spellings `yes`, `no`, ... are members, too
            return ["true or false", *(m for m in members if m == "none")]
        return members
    return [_single(schema)]


def _single(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if schema.get("format") == "path":
        return "path"
    if kind == "array":
        return _array(schema)
    if kind == "object":
        return _mapping(schema)
    limits = [text.format(_number(schema[key])) for key, text in LIMITS.items() if key in schema]
    return " ".join([WORDS.get(str(kind), "any value"), ", ".join(limits)]).strip()


def _array(schema: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        parts = [type_in_words(item) for item in schema["prefixItems"]]
        same = len(set(parts)) == 1
        return f"list of {len(parts)}: {parts[0]} each" if same else f"list: {', '.join(parts)}"
    empty = ", not empty" if schema.get("minItems") else ""
    return f"list: {type_in_words(schema.get('items', {}))}{empty}"


def _mapping(schema: Mapping[str, Any]) -> str:
    names = schema.get("propertyNames", {})
    key = type_in_words(names) if names else "name"
    value = schema.get("additionalProperties")
    return f"mapping: {key} to {type_in_words(value if isinstance(value, dict) else {})}"


def _either(parts: list[str]) -> str:
    if len(parts) > 1 and any(":" in part for part in parts):
        return "; or ".join(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def default_in_words(field: FieldInfo) -> str:
    """The default as an experiment file spells it; "required" where there is none."""
    return "required" if field.is_required() else spelt(field.get_default(call_default_factory=True))


def spelt(value: Any) -> str:
    """A value in YAML's short form."""
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(spelt, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {spelt(v)}" for k, v in value.items()) + "}"
    return str(value) if isinstance(value, int | Path) or value else json.dumps(value)


def _number(value: float) -> str:
    """A number as people write it: 0.001, 0.666667, 1e-08."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
