"""The groups of settings that may stand at a place, registered methods, sources and rules included; the other types there."""

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from fedloom.core.settings_tree import groups_in, tag_of
from fedloom.data.sources import SOURCES
from fedloom.data.sources.python_clients import PythonSource
from fedloom.data.sources.source import Source
from fedloom.methods import METHODS, Method
from fedloom.privacy.robust.stage import RULES, RobustRule

Group = type[BaseModel]


def registry_of(group: Group) -> Mapping[str, Group] | None:
    """The registered groups of a base class that files can name; None for another group."""
    if group is Source:
        return {name: source for name, source in SOURCES.items() if source is not PythonSource}
    if group is Method:
        return METHODS
    return RULES if group is RobustRule else None


def kinds(annotation: Any) -> dict[str, Group]:
    """The groups by the name in their tag; one group without a name where there is no choice; empty for a plain value."""
    groups, tag = groups_in(annotation), tag_of(annotation)
    if len(groups) == 1 and (registered := registry_of(groups[0])) is not None:
        return dict(registered)
    if tag is None:
        return {"": groups[0]} if groups else {}
    return {name: group for group in groups for name in get_args(group.model_fields[tag].annotation)}


def plain_types(annotation: Any) -> tuple[Any, ...]:
    """The members of a type that are no groups of settings: None in `LoRA | None`."""
    if get_origin(annotation) is Annotated and groups_in(annotation):
        return plain_types(get_args(annotation)[0])
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return tuple(m for m in members if not groups_in(m))


def fields_of(groups: Mapping[str, Group], tag: str | None) -> dict[str, list[tuple[Group, Any]]]:
    """The fields of several groups by name, the tag left out, each with the groups that define it differently."""
    found: dict[str, list[tuple[Group, Any]]] = {}
    for group in dict.fromkeys(groups.values()):
        for name, field in group.model_fields.items():
            known = found.setdefault(name, [])
            if name != tag and not field.exclude and all(repr(field) != repr(f) for _, f in known):
                known.append((group, field))
    return {name: listed for name, listed in found.items() if listed}
