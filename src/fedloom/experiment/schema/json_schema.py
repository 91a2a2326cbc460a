"""A JSON schema of experiment files, for editors: completion, meanings, and mistakes as they are typed.

It is looser than `fedloom run`: a value that contradicts another one, or that no run reads, passes here.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from fedloom.core.settings_tree import groups_in, is_group, tag_of
from fedloom.experiment.registry import load_entry_points
from fedloom.experiment.schema.kinds import Group, fields_of, kinds, plain_types
from fedloom.experiment.schema.words import default_in_words
from fedloom.experiment.settings import Experiment
from fedloom.experiment.yaml_rows import OF_THE_FILE, VERSIONS, Size

Schema = dict[str, Any]
SWITCH: Schema = {"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no", "on", "off"]}]}
"""True or false, as experiment files spell them."""


def json_schema() -> Schema:
    """The schema of an experiment file, with the registered methods, sources and rules. Raises ExperimentError for a plug-in."""
    load_entry_points()
    return _Builder().file()


def leaf(field: FieldInfo) -> Schema:
    """The schema of a value that is no group of settings."""
    kind: Any = Annotated[field.annotation, field]
    schema: Schema = _plain(TypeAdapter(kind).json_schema())
    return schema


class _Builder:
    """Collects the definitions of groups while the file's schema is built."""

    def __init__(self) -> None:
        self.defs: dict[str, Schema] = {}

    def file(self) -> Schema:
        """The whole schema."""
        layer = self._object(Experiment)
        shared = {k: v for k, v in layer["properties"].items() if k not in OF_THE_FILE}
        dotted = layer["patternProperties"]
        self.defs["layer"] = _object("Settings that are laid over those of the file.", shared, dotted)
        axes: dict[str, Any] = {
            "rows": _entries("One run for each entry: a row's name and its settings."),
            "across": _entries("Every row once for each entry: a column's name and its settings."),
            "seeds": {
                "type": ["array", "null"],
                "items": {"type": "integer"},
                "minItems": 1,
                "description": "Every run once for each seed.",
            },
        }
        cells = {
            "type": "object",
            "additionalProperties": _entries("Entries of one axis: a label and its settings."),
        }
        axes["grid"] = {
            "anyOf": [{"type": "null"}, cells, {"type": "array", "items": cells}],
            "description": "Every row in every cell: one entry of each axis; a list holds several grids.",
        }
        self.defs["size"] = _object(
            "Settings of one size, over those of the file; rows, across and seeds replace the file's.",
            shared | axes,
            dotted,
        )
        sizes = {name: {"anyOf": [{"type": "null"}, _ref("size")]} for name in get_args(Size)}
        column = layer["properties"]["across"]
        properties = {
            **layer["properties"],
            **axes,
            "across": {"anyOf": [column, axes["across"]], "description": axes["across"]["description"]},
            "sizes": _object("Settings by size; `size` chooses.", sizes),
            VERSIONS: {"type": "object", "description": "versions, in the record of a run"},
        }
        return {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": "fedloom experiment",
            **_object("An experiment of fedloom: one run, or the rows of one table.", properties, dotted),
            "$defs": self.defs,
        }

    def _object(self, group: Group) -> Schema:
        """The mapping of one group, dotted keys included."""
        fields = {name: [(group, f)] for name, f in group.model_fields.items() if not f.exclude}
        return _object(sentence(group), self._properties(fields), self._dotted(fields))

    def _properties(self, fields: Mapping[str, list[tuple[Group, FieldInfo]]]) -> dict[str, Schema]:
        return {name: _any([self._value(f) for _, f in found]) for name, found in fields.items()}

    def _value(self, field: FieldInfo) -> Schema:
        """The schema of one setting, with its meaning."""
        annotation: Any = field.annotation
        if not is_group(annotation):
            return _described(leaf(field), field)
        members = [_plain(TypeAdapter(plain).json_schema()) for plain in plain_types(annotation)]
        for group in groups_in(annotation):
            if hasattr(group, "spelt"):  # the names of its parts stand for them
                names = {"enum": list(group.model_fields)}
                members += [names, {"type": "array", "items": names}]
        return _described(_any([_ref(self._group(annotation)), *members]), field)

    def _group(self, annotation: Any) -> str:
        """The name of the definition of a group at a place; of several kinds, one for each name."""
        found, tag = kinds(annotation), tag_of(annotation)
        if tag is None:
            (group,) = found.values()
            if group.__name__ not in self.defs:
                self.defs[group.__name__] = {}  # before its parts, one of which may be the same
                self.defs[group.__name__] = self._object(group)
            return group.__name__
        groups = groups_in(annotation)
        title = "+".join(group.__name__ for group in groups)
        if title not in self.defs:
            self.defs[title] = {}
            fields = fields_of(found, tag)
            open_kind = _object(
                "Settings over those of a layer below, which names the kind.",
                self._properties(fields),
                self._dotted(fields),
            )
            listed = [{"enum": list(found), "description": f"a {tag} alone"}, open_kind]
            self.defs[title] = {"oneOf": listed + [self._named(n, g, tag) for n, g in found.items()]}
        return title

    def _named(self, name: str, group: Group, tag: str) -> Schema:
        """The mapping of one kind, which its tag names."""
        whole = self._object(group)
        tagged = {tag: {"const": name, "description": sentence(group)}}
        whole["properties"] = tagged | {k: v for k, v in whole["properties"].items() if k != tag}
        return {**whole, "title": name, "required": [tag]}

    def _dotted(
        self, fields: Mapping[str, list[tuple[Group, FieldInfo]]], prefix: str = ""
    ) -> dict[str, Schema]:
        """The schemas of dotted keys that lead into the groups and mappings among these fields, by pattern."""
        found: dict[str, Schema] = {}
        for name, listed in fields.items():
            inner = f"{prefix}{re.escape(name)}"
            for _, field in listed:
                groups, tag = kinds(field.annotation), tag_of(field.annotation)
                below = fields_of(groups, tag) if groups else {}
                if tag is not None and groups:
                    found[rf"^{inner}\.{tag}$"] = {"enum": list(groups)}
                for key, value in self._properties(below).items():
                    found[rf"^{inner}\.{re.escape(key)}$"] = value
                found |= self._dotted(below, rf"{inner}\.")
                for entry in _entry_values(leaf(field)) if not groups else ():
                    found[rf"^{inner}\.[^.]+$"] = entry
        return found


def _object(
    description: str, properties: Mapping[str, Schema], dotted: Mapping[str, Schema] | None = None
) -> Schema:
    schema = {
        "type": "object",
        "description": description,
        "properties": dict(properties),
        "additionalProperties": False,
    }
    return {**schema, "patternProperties": dict(dotted)} if dotted else schema


def _entries(description: str) -> Schema:
    """Rows or columns: layers by name."""
    layers = {"anyOf": [{"type": "null"}, _ref("layer")]}
    return {"type": ["object", "null"], "additionalProperties": layers, "description": description}


def _entry_values(schema: Schema) -> list[Schema]:
    """The schemas of the values of a mapping that is one setting."""
    members = [schema, *schema.get("anyOf", ())]
    return [m["additionalProperties"] for m in members if isinstance(m.get("additionalProperties"), dict)]


def _described(schema: Schema, field: FieldInfo) -> Schema:
    """The schema with the meaning and the default, which editors show beside the setting."""
    if field.description is None:
        return schema
    return {**schema, "description": f"{field.description} (default: {default_in_words(field)})"}


def _any(members: list[Schema]) -> Schema:
    return members[0] if len(members) == 1 else {"anyOf": members}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def sentence(group: Group) -> str:
    """The first paragraph of a group's docstring."""
    return " ".join((group.__doc__ or "").strip().partition("\n\n")[0].split())


def _plain(schema: Any) -> Any:
    """Pydantic's schema without titles and defaults, and with all spellings of a switch."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "boolean":
        rest = {k: v for k, v in schema.items() if k not in ("type", "title", "default")}
        return {**rest, **SWITCH}
    return {k: _plain(v) for k, v in schema.items() if k not in ("title", "default")}
