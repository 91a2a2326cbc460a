"""Writes docs/api.md, the reference of the Python interface, from signatures and docstrings.

python scripts/api_page.py            # writes the page
python scripts/api_page.py --check    # says whether it is fresh
"""

import argparse
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import griffe
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "api.md"
HEAD = """\
<!-- Written by scripts/api_page.py from signatures and docstrings. Do not edit. -->

# Python interface

[From Python](python.md) shows how to work with it; this page lists every name, with its signature.
"""
SECTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Experiments and runs": (
        "`import fedloom as fl`: these names are all of `fedloom.__all__`.",
        (
            "fl.Experiment",
            "fl.clients",
            "fl.run",
            "fl.Result",
            "fl.load",
            "fl.Progress",
            "fl.register",
            "fl.ExperimentError",
        ),
    ),
    "Models": (
        "`fl.load(...)` and `Result.model()` give a model, which answers questions.",
        ("fedloom.models.asking.Asked.ask",),
    ),
    "Methods": (
        "What a [method](your-method.md) imports. `fl.register(Mine)` makes it known.",
        (
            "fedloom.methods.base.method.Method",
            "fedloom.methods.base.method.State",
            "fedloom.methods.base.method.Ask",
            "fedloom.methods.base.method.Trainer",
            "fedloom.core.payload.Scope",
            "fedloom.core.payload.Payload",
            "fedloom.core.payload.Reply",
            "fedloom.core.settings_tree.ReadWith",
            "fedloom.methods.base.combine.mean_of",
            "fedloom.methods.base.combine.pairs",
            "fedloom.methods.base.combine.combine_pairs",
            "fedloom.methods.base.combine.combine_layers",
            "fedloom.aggregation.mean.weighted_mean",
            "fedloom.aggregation.server.momentum",
            "fedloom.aggregation.server.adam",
            "fedloom.core.streams.torch_stream",
            "fedloom.methods.base.clip.CLIPMethod",
        ),
    ),
    "Sources of data": (
        "What a source of data imports.",
        (
            "fedloom.data.sources.source.Source",
            "fedloom.data.client_data.ClientData",
            "fedloom.data.sample.Sample",
        ),
    ),
    "Tasks, metrics and robust rules": (
        "What a task, a metric or a robust rule imports. [Contributing](../CONTRIBUTING.md) names an example of each.",
        (
            "fedloom.tasks.base.Task",
            "fedloom.tasks.base.Setup",
            "fedloom.tasks.base.Question",
            "fedloom.tasks.base.Snapshot",
            "fedloom.tasks.base.Evaluator",
            "fedloom.tasks.metrics.metric.Metric",
            "fedloom.privacy.robust.stage.RobustRule",
            "fedloom.privacy.robust.stage.Combined",
        ),
    ),
}
SHORT = ("fedloom.methods", "fedloom.data.sources")
"""Packages that give the names which others import most."""
BELOW: dict[str, tuple[str, ...]] = {
    "Experiment": ("load", "replace", "parse", "as_dict"),
}
"""Methods of classes that have others for the package itself."""
SETTINGS = "Its settings are those of [the reference](settings.md)."


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, (text, names) in SECTIONS.items():
        parts.append(f"## {title}\n\n{text}\n")
        for name in names:
            parts += entry(name)
    return "\n".join(parts).rstrip() + "\n"


def entry(name: str) -> Iterator[str]:
    """The lines of one function or class."""
    if name.endswith(".Asked.ask"):  # the class is a part of every model
        yield "### model.ask\n"
        yield from function(loaded(name.rpartition(".")[0])[1]["ask"], "model.ask")
        return
    thing, found = loaded(name)
    yield f"### {name if name.startswith('fl.') else found.name}\n"
    if not name.startswith("fl."):
        yield f"`from {home(thing, found.name)} import {found.name}`\n"
    if found.is_function:
        yield from function(found, name)
        return
    start = found.members.get("__init__")
    is_model = issubclass(thing, BaseModel)
    if start is not None:
        yield signature(name, start.parameters)
    elif any("dataclass" in str(d.value) for d in found.decorators):
        yield constructor(found)
    yield from docstring(found)
    if is_model and found.name in ("Experiment", "Method"):
        yield SETTINGS + "\n"
    if start is not None:
        yield from docstring(start)
    yield from attributes(found, thing if is_model else None)
    for method in methods(found):
        yield f"#### {found.name}.{method.name}\n"
        yield from function(method, f"{found.name}.{method.name}")


def home(thing: Any, name: str) -> str:
    """The shortest module that gives a name."""
    short = (m for m in SHORT if getattr(import_module(m), name, None) is thing)
    return next(short, str(thing.__module__))


def loaded(name: str) -> tuple[Any, Any]:
    """The object of a dotted name, and its description by griffe."""
    module, _, last = name.rpartition(".")
    thing = getattr(import_module("fedloom" if module == "fl" else module), last)
    return thing, described(thing.__module__)[thing.__name__]


@cache
def described(module: str) -> Any:
    """A module as griffe reads its source."""
    file = Path(str(inspect.getsourcefile(import_module(module))))
    return griffe.visit(module, filepath=file, code=file.read_text(encoding="utf-8"))


def constructor(found: Any) -> str:
    """The signature of a dataclass, from its fields."""
    fields = [
        m for n, m in found.members.items() if m.is_attribute and n[0] != "_" and "property" not in m.labels
    ]
    listed = [
        f"{m.name}: {m.annotation}{f' = {plain(m.value)}' if m.value is not None else ''}" for m in fields
    ]
    return code(found.name, listed)


def plain(value: Any) -> str:
    """A default as text: what a factory makes."""
    text = str(value)
    made = re.search(r"default_factory=(\w+)", text)
    return {"dict": "{}", "list": "[]", "tuple": "()"}.get(made[1], f"{made[1]}()") if made else text


def methods(found: Any) -> list[Any]:
    """The public methods of a class, in the order of its source."""
    listed = BELOW.get(found.name)
    public = [
        m for n, m in found.members.items() if m.is_function and (not n.startswith("_") or n == "__call__")
    ]
    return [m for m in public if m.docstring and (listed is None or m.name in listed)]


def function(found: Any, name: str) -> Iterator[str]:
    """A function's signature, docstring and parameters."""
    yield signature(name, found.parameters, found.returns)
    yield from docstring(found)


def signature(name: str, parameters: Any, returns: Any = None) -> str:
    """A signature as code: on one line if it fits, else a parameter a line."""
    listed: list[str] = []
    starred = False
    for p in parameters:
        if p.name in ("self", "cls"):
            continue
        kind = p.kind.value if p.kind else ""
        if kind == "keyword-only" and not starred:
            listed.append("*")
            starred = True
        stars = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        starred = starred or stars == "*"
        annotation = f": {str(p.annotation).strip(chr(34))}" if p.annotation else ""
        default = f" = {p.default}" if p.default is not None and not stars else ""
        listed.append(f"{stars}{p.name}{annotation}{default}")
    return code(name, listed, f" -> {str(returns).strip(chr(34))}" if returns else "")


def code(name: str, listed: list[str], end: str = "") -> str:
    """A signature as a block of code."""
    line = f"{name}({', '.join(listed)}){end}"
    if len(line) > 90:
        line = f"{name}(\n" + "".join(f"    {p},\n" for p in listed) + f"){end}"
    return f"```python\n{line}\n```\n"


def docstring(found: Any) -> Iterator[str]:
    """A docstring as Markdown."""
    if found.docstring is not None:
        text = escaped(inspect.cleandoc(found.docstring.value))
        text = re.sub(r"^Args:\n", "\n", text, flags=re.M)
        yield re.sub(r"^    (\w+): ", r"- `\1`: ", text, flags=re.M) + "\n"


def attributes(found: Any, model: type[BaseModel] | None) -> Iterator[str]:
    """The table of a class's public attributes and properties, and of its settings."""
    rows = []
    for name, member in found.members.items():
        if name.startswith("_") or not member.is_attribute or name == "model_config" or found.name in BELOW:
            continue
        field = None if model is None else model.model_fields.get(name)
        words = (
            field.description if field and field.description else member.docstring and member.docstring.value
        )
        kind = re.sub(r"^Annotated\[(.*), ReadWith\(.*\)\]$", r"\1", str(member.annotation or "")).strip('"')
        if not words:  # described by the class as a whole
            continue
        meaning = escaped(" ".join(words.split()))
        rows.append(f"| `{name}` | {f'`{kind}`' if kind else ''} | {meaning} |")
    if rows:
        yield "\n".join(["| attribute | type | meaning |", "|---|---|---|", *map(barred, rows)]) + "\n"


def barred(row: str) -> str:
    """A table's row whose code keeps its bars."""
    return re.sub(r"`[^`]*`", lambda m: m[0].replace("|", "\\|"), row)


def escaped(text: str) -> str:
    """Text whose angle brackets outside of code are no tags, and whose stars are no emphasis."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else p.replace("<", "&lt;").replace("*", "\\*") for p in parts)


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if the page is not fresh"
    )
    if parser.parse_args().check:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        raise SystemExit(0 if fresh else f"{PAGE} is not fresh: run python scripts/api_page.py")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
