"""Registration of methods, sources, tasks, metrics and robust rules from outside the package.

    fedloom.register(MyMethod)

A distribution may name them as entry points of the group `fedloom.plugins` instead; they are loaded when the first experiment
is read. Registered names work in experiment files, on the command line and in reports like the package's own.
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
    """Add classes of methods, sources, tasks and robust rules, and metrics, under their own names.

    Raises ExperimentError for anything else, and for a name that is taken by something else.
    """
    for extension in extensions:
        registry, name = _place(extension)
        taken = registry.get(name)
        if taken is not None and taken is not extension and not _reloaded(taken, extension):
            raise ExperimentError(
                f"the name {name} is taken by {_name(taken)}; give {_name(extension)} another"
            )
        registry[name] = extension


@cache
def load_entry_points() -> None:
    """Register the installed plug-ins, once. Raises ExperimentError for one that cannot be loaded."""
    for point in entry_points(group=GROUP):
        try:
            register(point.load())
        except Exception as error:  # a plug-in raises what it likes; the user needs its name
            raise ExperimentError(
                f"the plug-in {point.name} ({point.value}) cannot be used: {error}"
            ) from error


def _place(extension: Any) -> tuple[dict[str, Any], str]:
    """The registry that an extension belongs in, and its name there."""
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
    """Whether `new` is `old` after its module was run again, as in a notebook."""
    place = ("__module__", "__qualname__")
    return isinstance(new, type) and all(getattr(old, n, None) == getattr(new, n) for n in place)
