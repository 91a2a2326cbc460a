"""Settings as a tree of pydantic models: the group at a place, the variant that its kind names, and what no code reads.

A group of several kinds is a union whose members have one Literal field in common, such as `kind`, or a base class with a
classmethod `registered(fields)` that finds the registered class, and with that field's name as `TAG`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

Group = type[BaseModel]


@dataclass(frozen=True)
class ReadWith:
    """Annotation of a field that is read only while another setting has one of `values`, or none of `unless`.

    `name`: the other setting, such as method.weights, or .optimizer for one beside the field. Without values: while it is given.
    """

    name: str
    values: tuple[Any, ...] = ()
    unless: tuple[Any, ...] = ()

    def holds(self, whole: Any, group: Any) -> bool:
        """Whether the field is read in this group of these settings. True where there is no such setting."""
        start = group if self.name.startswith(".") else whole
        try:
            value = reduce(getattr, self.name.removeprefix(".").split("."), start)
        except AttributeError:
            return True
        if self.unless:
            return value not in self.unless
        return value in self.values if self.values else bool(value)

    def advice(self, prefix: str) -> str:
        """The condition in words; `prefix` is the place of the field's group."""
        name = prefix + self.name[1:] if self.name.startswith(".") else self.name
        values = " or ".join(_spelt(v) for v in self.values or self.unless)
        return f"{name} other than {values}" if self.unless else f"{name}: {values}" if values else name


def _spelt(value: Any) -> str:
    """A value as an experiment file spells it."""
    return "none" if value in (None, ()) else str(value).lower() if isinstance(value, bool) else str(value)


@lru_cache(maxsize=512)
def groups_in(kind: Any) -> tuple[Group, ...]:
    """The groups that a value of this type may be; Annotated and unions are opened, containers are not."""
    if isinstance(kind, type) and get_origin(kind) is None:
        return (kind,) if issubclass(kind, BaseModel) else ()
    if get_origin(kind) in (list, tuple, dict, set, frozenset, Literal):
        return ()
    members = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    return tuple(group for member in members for group in groups_in(member))


def tag_of(kind: Any) -> str | None:
    """The field that names the kind of a group of several kinds, or None."""
    groups = groups_in(kind)
    if len(groups) == 1:
        return getattr(groups[0], "TAG", None)
    common = set.intersection(*({*g.model_fields} for g in groups)) if groups else set()
    literal = (n for n in sorted(common) if all(_literals(g, n) for g in groups))
    return next(literal, None)


def _literals(group: Group, name: str) -> tuple[Any, ...]:
    field = group.model_fields[name].annotation
    return get_args(field) if get_origin(field) is Literal else ()


def is_group(kind: Any) -> bool:
    """Whether a value of this type is a group of settings."""
    return bool(groups_in(kind))


def group_of(kind: Any, value: Any) -> Group | None:
    """The group that a value of this type is, the variant that its tag names; None for no group and an unknown kind."""
    groups = groups_in(kind)
    if not groups or (len(groups) == 1 and not hasattr(groups[0], "registered")):
        return groups[0] if groups else None
    fields = value if isinstance(value, Mapping) else {}
    if len(groups) > 1:
        tag = tag_of(kind)
        return next((g for g in groups if tag and fields.get(tag) in _literals(g, tag)), None)
    try:
        found: Group = groups[0].registered(fields)  # type: ignore[attr-defined]
    except ValueError:  # ExperimentError included
        return None
    return found


def field_at(group: Any, name: Any) -> Any:
    """The type of a group's field, or None."""
    field = getattr(group, "model_fields", {}).get(name)
    return None if field is None else field.annotation


def group_at(group: Any, name: Any, value: Any) -> Group | None:
    """The group in a group's field `name`, where it holds `value`; None for a plain value."""
    return group_of(field_at(group, name), value)


def unread(
    settings: BaseModel,
    reads: Callable[[str], bool],
    whole: Any = None,
    default: Any = None,
    prefix: str = "",
) -> Iterator[tuple[str, str | None]]:
    """Every setting that was given another value than its default and that no code reads.

    Beside it, the setting that would have it read (see `ReadWith`), or None. `reads` tells by its dotted name whether anything
    reads a setting.
    """
    whole = settings if whole is None else whole
    for name in sorted(settings.model_fields_set):
        field, value = type(settings).model_fields[name], getattr(settings, name)
        usual = (
            getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
        )
        if value == usual:
            continue
        with_it = next(
            (m for m in field.metadata if isinstance(m, ReadWith) and not m.holds(whole, settings)), None
        )
        if with_it is not None:
            yield f"{prefix}{name}", with_it.advice(prefix)
        elif isinstance(value, BaseModel):
            same = usual if type(usual) is type(value) else None
            yield from unread(value, reads, whole, same, f"{prefix}{name}.")
        elif not reads(f"{prefix}{name}"):
            yield f"{prefix}{name}", None
