"""The runs that read a setting: the tasks and methods that declare it, and the other setting that it depends on."""

from fnmatch import fnmatchcase

from pydantic.fields import FieldInfo

from fedloom.core.settings_tree import ReadWith
from fedloom.experiment.settings import DECLARED
from fedloom.methods import METHODS
from fedloom.tasks.registry import TASKS


def read_by(place: str, field: FieldInfo) -> str:
    """The readers of a setting in words: every run, some tasks, methods, and the condition."""
    prefix = place.rpartition(".")[0]
    marks = [m for m in field.metadata if isinstance(m, ReadWith)]
    condition = " and ".join(f"`{m.advice(f'{prefix}.' if prefix else '')}`" for m in marks)
    runs = _runs(place)
    return f"{runs}; only with {condition}" if condition else runs


def _runs(place: str) -> str:
    group = place.partition(".")[0]
    deaf = [name for name, method in METHODS.items() if _matches(place, method.ignores)]
    if group == "method":
        deaf_tasks = [name for name, task in TASKS.items() if _matches(place, task.ignores)]
        but = [f"the task {name}" for name in deaf_tasks] + [f"the method `{name}`" for name in deaf]
        return f"every run, but not with {', '.join(but)}" if but else "every run"
    if group not in DECLARED:
        return "every run"
    tasks = [name for name, task in TASKS.items() if _matches(place, task.reads)]
    methods = [f"`{name}`" for name, method in METHODS.items() if _matches(place, method.reads)]
    if len(tasks) == len(TASKS):
        return "every run"
    named = f"methods {', '.join(methods)}" if methods else ""
    return "; ".join(part for part in (", ".join(tasks), named) if part) or "no run"


def _matches(place: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern names a setting, the group that it is in, or a part of it."""
    parts = place.split(".")
    whole = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return any(fnmatchcase(w, p) or p.startswith(f"{place}.") for p in patterns for w in whole)
