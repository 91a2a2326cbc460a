"""Layers of settings: a later one wins, setting by setting.

A group of settings, such as `training`, is merged into the group below it. Everything else is a value and replaces the one
below: numbers, lists, and mappings that are one setting, such as `data.clients`; a dotted key such as `data.clients.image` sets
one entry of it. A text where a group of several kinds stands names the kind: `method: fedavg` means `method: {name: fedavg}`.
Another method, source or kind keeps the fields of the former that it has too and that mean the same (`carries`), and drops the
rest.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import field_at, group_of, is_group, tag_of

KIND = ""
"""Key of the text that names a group's kind, beside the fields that dotted keys set."""


class Entries(dict[str, Any]):
    """Settings that were named by dotted keys, which leave the others of their mapping alone."""


def layer(settings: Iterable[tuple[Any, Any]], origin: str) -> Entries:
    """Settings by dotted key as one tree. Raises ExperimentError for a setting that stands there with two values."""
    tree = Entries()
    _add(tree, settings, origin, "")
    return tree


def _add(tree: dict[str, Any], settings: Iterable[tuple[Any, Any]], origin: str, place: str) -> None:
    for key, value in settings:
        if not isinstance(key, str):
            raise ExperimentError(f"{origin}: {place or 'it'} sets {key!r}, which is no setting's name")
        first, dot, rest = key.partition(".")
        name = f"{place}.{first}" if place else first
        new: Any = value
        if dot:
            new = Entries()
            _add(new, [(rest, value)], origin, name)
        elif isinstance(value, Mapping):
            new = {}
            _add(new, value.items(), origin, name)
        tree[first] = _joined(tree[first], new, origin, name) if first in tree else new


def _joined(one: Any, two: Any, origin: str, place: str) -> Any:
    """Two values of one setting in one layer, where neither hides a part of the other. Raises ExperimentError."""
    if isinstance(one, str) and isinstance(two, Mapping):
        one = Entries({KIND: one})
    if isinstance(two, str) and isinstance(one, Mapping):
        two = Entries({KIND: two})
    if not (isinstance(one, Mapping) and isinstance(two, Mapping)):
        if one == two and type(one) is type(two):
            return one
        raise ExperimentError(f"{origin}: {place} is given twice, as {one!r} and as {two!r}; give it once")
    both = isinstance(one, Entries) and isinstance(two, Entries)
    joined = Entries(one) if both else dict(one)
    for name, value in two.items():
        inner = f"{place}.{name}" if name != KIND else place
        joined[name] = _joined(joined[name], value, origin, inner) if name in joined else value
    return joined


def merged(kind: Any, below: Any, above: Any, origin: str, place: str = "") -> Any:
    """The setting `above` over the setting `below`, both of type `kind`. Raises ExperimentError."""
    tag = tag_of(kind)
    below, above = _spelt(tag, below, origin, place), _spelt(tag, above, origin, place)
    if not isinstance(above, Mapping):
        return above
    if (spelt := getattr(group_of(kind, below), "spelt", None)) is not None:
        below = spelt(below)  # names alone, such as `track: [tensorboard]`
    if not (is_group(kind) or isinstance(above, Entries)):
        below = {}
    if isinstance(above, Entries) and not isinstance(below, Mapping) and below is not None:
        raise ExperimentError(
            f"{origin}: cannot set {place}.{next(iter(above))}: {place} is {below!r}, not a group of settings"
        )
    under = dict(below) if isinstance(below, Mapping) else {}
    if tag in above:
        under = _kept(kind, under, above)
    group = group_of(kind, {**under, **above})
    for name, value in above.items():
        inner = f"{place}.{name}" if place else name
        under[name] = merged(field_at(group, name), under.get(name), value, origin, inner)
    return under


def _spelt(tag: str | None, value: Any, origin: str, place: str) -> Any:
    """A group with its kind under its tag."""
    if tag is not None and isinstance(value, str):
        return {tag: value}
    if not isinstance(value, Mapping) or KIND not in value:
        return value
    name = value[KIND]
    others: dict[str, Any] = Entries() if isinstance(value, Entries) else {}
    others.update({k: v for k, v in value.items() if k != KIND})
    if tag is None or others.get(tag, name) != name:
        wrong = {tag: others[tag]} if tag in others else dict(others)
        raise ExperimentError(f"{origin}: {place} is given twice, as {name!r} and as {wrong!r}; give it once")
    others[tag] = name
    return others


def _kept(kind: Any, under: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The fields below that stay under the kind that `above` names; a misspelt one stays, to be refused."""
    old, new, tag = group_of(kind, under), group_of(kind, above), tag_of(kind)
    if old is None or new is None or old is new:
        return under
    carries = getattr(old, "carries", lambda name: True)
    return {
        name: value
        for name, value in under.items()
        if name == tag or name not in old.model_fields or (name in new.model_fields and carries(name))
    }


def places(tree: Mapping[str, Any], place: str = "") -> list[str]:
    """The dotted names of all settings in a tree."""
    names = []
    for name, value in tree.items():
        inner = ".".join(part for part in (place, name) if part)
        names += places(value, inner) if isinstance(value, Mapping) and value else [inner]
    return names
