"""Registration of methods, sources, tasks, metrics and robust rules from outside the package.

    fedloom.register(MyMethod)

A distribution may declare them as entry points of the group `fedloom.plugins` instead; they are loaded when the first
experiment is read. Registered names work in experiment files, on the command line and in reports like the package's own.
"""

from functools import cache
from importlib.metadata import entry_points
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.sources import SOURCES, Source
from fedloom.methods import METHODS, Method
from fedloom.privacy.robust.stage import RULES, RobustRule
from fedloom.tasks.base import Task
from fedloom.tasks.metrics.metric import METRICS, Metric
from fedloom.tasks.registry import TASKS

GROUP = "fedloom.plugins"


def register(*extensions: Any) -> None:
    """Register classes of methods, sources, tasks and robust rules, and metrics, under their own names.

    Raises ExperimentError for any other object, and for a name that belongs to another extension.
    """
    for extension in extensions:
        registry, name = _registry_of(extension)
        existing = registry.get(name)
        if existing is not None and existing is not extension and not _reloaded(existing, extension):
            raise ExperimentError(
                f"the name {name} is taken by {_name(existing)}; give {_name(extension)} another"
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


def _registry_of(extension: Any) -> tuple[dict[str, Any], str]:
    """The registry of an extension, and its name there."""
    if isinstance(extension, Metric):
        return METRICS, extension.name
    if isinstance(extension, type):
        if issubclass(extension, Method):
            return METHODS, extension.name
        if issubclass(extension, Source):
            return SOURCES, extension.source_name()
        if issubclass(extension, Task):
            return TASKS, extension.name
        if issubclass(extension, RobustRule):
            return RULES, extension.rule_name()
    raise ExperimentError(
        f"{_name(extension)} cannot be registered; give a class of Method, Source, Task or RobustRule, or a Metric"
    )


def _name(thing: Any) -> str:
    return str(getattr(thing, "__qualname__", thing))


def _reloaded(old: Any, new: Any) -> bool:
    """Whether `new` is `old` from a reloaded module, as in a notebook."""
    identity = ("__module__", "__qualname__")
    return isinstance(new, type) and all(getattr(old, n, None) == getattr(new, n) for n in identity)
