"""Registration of methods, sources, tasks, metrics and robust rules from outside the package.

    fedloom.register(MyMethod)

A distribution may declare them as entry points of the group `fedloom.plugins` instead; they are loaded when the first
experiment is read. Registered names work in experiment files, on the command line and in reports like the package's own.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, get_args

from fedloom.core.errors import ExperimentError
from fedloom.data.sources import SOURCES, Source
from fedloom.methods import METHODS, Method
from fedloom.privacy.robust.stage import RULES, RobustRule
from fedloom.tasks.base import Task
from fedloom.tasks.metrics.metric import METRICS, Metric, Unit
from fedloom.tasks.metrics.summary import COUNTS
from fedloom.tasks.registry import TASKS

GROUP = "fedloom.plugins"
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,59}")
KINDS: tuple[tuple[type, dict[str, Any], tuple[str, ...]], ...] = (
    (Method, METHODS, ("name", "title", "paper", "shares")),
    (Source, SOURCES, ("source", "for_task")),
    (Task, TASKS, ("name", "title", "headline")),
    (RobustRule, RULES, ("kind",)),
)
"""Base class, registry and attributes of each kind of extension that is a class."""
OWN_METRICS = tuple(METRICS.values())


def register(*extensions: Any) -> None:
    """Register classes of methods, sources, tasks and robust rules, and metrics, under their own names.

    A notebook may register what it defined anew. Raises ExperimentError for any other object, for a class that is not
    complete, and for a name that belongs to something else.
    """
    for extension in extensions:
        registry, name = _registry_of(extension)
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise ExperimentError(
                f"{_title(extension)} cannot be registered: its name is {name!r}; use small letters, digits and - _ ."
            )
        existing = registry.get(name)
        if existing is not None and existing is not extension and not _reloaded(existing, extension):
            raise ExperimentError(
                f"the name {name} is taken by {_title(existing)}{_place(existing)}; "
                f"give {_title(extension)}{_place(extension)} another"
            )
        registry[name] = extension


@cache
def load_entry_points() -> None:
    """Register the installed plug-ins, once. Raises ExperimentError for a plug-in that fails to load."""
    for point in entry_points(group=GROUP):
        try:
            register(point.load())
        except Exception as error:  # any exception type; the user needs the plug-in's name
            raise ExperimentError(
                f"the plug-in {point.name} ({point.value}) cannot be used: {error}"
            ) from error


def _registry_of(extension: Any) -> tuple[dict[str, Any], Any]:
    """The registry of an extension, and its name there."""
    if isinstance(extension, Metric):
        if extension.name in COUNTS or extension.unit not in get_args(Unit):
            raise ExperimentError(
                f"the metric {extension.name} cannot be registered: {', '.join(sorted(COUNTS))} are counts, "
                f"and its unit must be one of {', '.join(get_args(Unit))}"
            )
        return METRICS, extension.name
    for base, registry, wanted in KINDS:
        if isinstance(extension, type) and issubclass(extension, base):
            lacking = [
                *getattr(extension, "__abstractmethods__", ()),
                *(n for n in wanted if not _has(extension, n)),
            ]
            if lacking:
                raise ExperimentError(
                    f"{_title(extension)} cannot be registered: it has no {sorted(lacking)[0]}"
                )
            if issubclass(extension, Task):
                _check_task(extension)
            return registry, _registered_name(extension)
    raise ExperimentError(
        f"{_title(extension)} cannot be registered; give a class of Method, Source, Task or RobustRule, or a Metric"
    )


def _check_task(task: type[Task[Any]]) -> None:
    """Raise ExperimentError for a task whose declarations have the wrong type, which a run would notice at its end."""
    headline = task.headline
    if not isinstance(headline, Mapping) or not all(isinstance(t, str) for p in headline.items() for t in p):
        raise ExperimentError(
            f"{_title(task)} cannot be registered: headline must map metrics to column titles, "
            "such as {'global/text/accuracy': ''}"
        )
    for name in ("reads", "ignores", "inputs"):
        value = getattr(task, name)
        if not isinstance(value, tuple | list) or not all(isinstance(part, str) for part in value):
            raise ExperimentError(
                f"{_title(task)} cannot be registered: {name} must be a tuple of names, not {value!r}"
            )


def _has(extension: type, name: str) -> bool:
    """Whether a class sets an attribute, or has a field of this name with a default."""
    field = getattr(extension, "model_fields", {}).get(name)
    return hasattr(extension, name) if field is None else not field.is_required()


def _registered_name(extension: Any) -> Any:
    """The name of a class: its `name`, or the one value of its field `source` or `kind`."""
    if issubclass(extension, Source):
        return extension.source_name()
    return extension.rule_name() if issubclass(extension, RobustRule) else extension.name


def _title(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", None) or getattr(thing, "name", thing))


def _place(thing: Any) -> str:
    """The module that defines an extension, in brackets."""
    module = getattr(_defined(thing), "__module__", None)
    return f" ({module})" if module else ""


def _defined(thing: Any) -> Any:
    """The object that tells where an extension was defined: a class itself, a metric's function."""
    return thing.score if isinstance(thing, Metric) else thing


def _reloaded(old: Any, new: Any) -> bool:
    """Whether `new` is `old`, defined again as in a notebook; the package's own metrics stay."""
    if isinstance(new, Metric) and old in OWN_METRICS:
        return False
    return all(
        getattr(_defined(old), n, None) == getattr(_defined(new), n, "")
        for n in ("__module__", "__qualname__")
    )
