"""The page of all settings, docs/settings.md, from the typed fields."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic.fields import FieldInfo

from fedloom.core.settings_tree import is_group, tag_of
from fedloom.data.sources import SOURCES
from fedloom.experiment.registry import load_entry_points
from fedloom.experiment.schema.json_schema import leaf, sentence
from fedloom.experiment.schema.kinds import Group, kinds, plain_types
from fedloom.experiment.schema.readers import read_by
from fedloom.experiment.schema.words import default_in_words, type_in_words
from fedloom.experiment.settings import Experiment
from fedloom.methods import METHODS, Method

HEAD = """\
<!-- Written by `fedloom schema --markdown` from the typed fields. Do not edit. -->

# Settings

Every setting of an experiment file: type and range, default, meaning. A dot leads into a group: `training.lr: 0.1` and
`training: {lr: 0.1}` mean the same. In a file "none" is written `null`, or `[]` for a list. A setting that no part of a run
reads is refused; the last column says who reads it. [Experiment files](experiments.md) says how rows, sizes and overrides
are laid over one another, and how an editor completes settings.

## The file itself

| setting | type | meaning |
|---|---|---|
| `rows` | mapping: name to settings | one run for each entry: a row of the table |
| `across` | mapping: name to settings | every row once for each entry: a column, such as a task |
| `grid` | mapping: axis to labels with settings; or a list of them | every row in every cell, one entry of each axis |
| `seeds` | list: whole number | every run once for each seed; without it `seed` |
| `sizes` | mapping: `tiny`, `small` or `paper` to settings | settings of one size, and its own `rows`, `across` and `seeds` |
| overrides | `name=value` behind the file's name | settings that win over the file; `Experiment.load` takes them, too |

Later layers win: the file, its size, the column, the row, the overrides. A row, a column and a size cannot change `size`.
"""
ALL = ("setting", "type and range", "default", "meaning", "read by")
OWN = ALL[:-1]


def page() -> str:
    """The whole page as Markdown, with the registered methods, sources and rules. Raises ExperimentError for a plug-in."""
    load_entry_points()
    lines = [HEAD, "## The run\n"]
    fields = Experiment.model_fields
    lines += _table(Experiment, "", [n for n, f in fields.items() if not is_group(f.annotation)])
    lines += ["## `method`\n", *_methods(), "## `data`\n", *_sources()]
    named = ("method", "data")
    for name in (
        n for n, f in sorted(fields.items(), key=_rank) if is_group(f.annotation) and n not in named
    ):
        lines += [f"## `{name}`\n", *_below(name, fields[name], "##")]
    return "\n".join(lines).rstrip() + "\n"


def _rank(item: tuple[str, FieldInfo]) -> bool:
    """The model goes before the groups of the round loop."""
    return item[0] != "model"


def _methods() -> Iterator[str]:
    yield "`method: NAME`, or `method: {name: NAME, ...}`. These settings belong to every method:\n"
    yield from _table(Method, "method", Method.model_fields)
    yield from _groups_in(Method, "method", Method.model_fields, "##")
    for name, method in METHODS.items():
        own = [
            n
            for n, f in method.model_fields.items()
            if n not in Method.model_fields or repr(f) != repr(Method.model_fields[n])
        ]
        yield f"### `{name}`\n"
        yield f"{method.title} ({method.paper}). {sentence(method)}\n"
        if own:
            yield from _table(method, "method", own, OWN)
            yield from _groups_in(method, "method", own, "###", OWN)
        else:
            yield "It has no settings of its own.\n"


def _sources() -> Iterator[str]:
    yield "`data.source` names the source. Without it, a `data.path` is read as a `table`; without both, it is `tabletop`.\n"
    yield from _rows(
        ("`data.source`", "task", "samples"),
        [
            (f"[`{n}`](#datasource-{n})" if n != "python" else "`python`", _task(s), sentence(s))
            for n, s in SOURCES.items()
        ],
    )
    yield "`python` stands for `fedloom.clients(...)`, and no file can name it: [From Python](python.md#data).\n"
    shared: dict[str, tuple[str, FieldInfo, list[str]]] = {}
    for name, source in kinds(Experiment.model_fields["data"].annotation).items():
        yield f"### data.source: {name}\n"
        yield f"{sentence(source)}\n"
        yield from _table(source, "data", [n for n in source.model_fields if n != "source"], OWN)
        for part, field in source.model_fields.items():
            if kinds(field.annotation):
                known = shared.setdefault(f"{part} {field.annotation!r}", (part, field, []))
                known[2].append(f"`{name}`")
    for part, field, of in shared.values():
        yield f"### `data.{part}` of {', '.join(of)}\n"
        yield from _below(f"data.{part}", field, "###", OWN)


def _task(source: type[Any]) -> str:
    labels = getattr(source, "for_labels", None)
    return f"{source.for_task}, or {labels} for labels" if labels else str(source.for_task)


def _below(place: str, field: FieldInfo, level: str, header: Sequence[str] = ALL) -> Iterator[str]:
    """The tables of the group, or of the groups of several kinds, at a place."""
    found, tag = kinds(field.annotation), tag_of(field.annotation)
    if tag is not None and header is ALL:
        yield f"{_capital(field.description or '')}.\n"
    for group in dict.fromkeys(found.values()):
        if tag is not None:
            names = " or ".join(f"`{n}`" for n, g in found.items() if g is group)
            yield f"{level}# {place}.{tag}: {names.replace('`', '')}\n"
        yield f"{sentence(group)}\n"
        several = sum(g is group for g in found.values()) > 1
        own = [n for n in group.model_fields if n != tag or several]
        yield from _table(group, place, own, header)
        yield from _groups_in(group, place, own, level, header)


def _groups_in(
    group: Group, place: str, names: Any, level: str, header: Sequence[str] = ALL
) -> Iterator[str]:
    """The sections of the groups among these fields."""
    for name in names:
        field = group.model_fields[name]
        if kinds(field.annotation):
            yield f"{level}# `{place}.{name}`\n"
            yield from _below(f"{place}.{name}", field, f"{level}#", header)


def _table(group: Group, place: str, names: Any, header: Sequence[str] = ALL) -> Iterator[str]:
    """The table of these fields of a group."""
    rows = []
    for name in names:
        field, whole = group.model_fields[name], f"{place}.{name}" if place else name
        if field.exclude:
            continue
        meaning = field.description or _first(field)
        readers = read_by(whole, field)
        if header is OWN:
            meaning += "".join(readers.partition("; only with ")[1:])
        cells = (f"`{whole}`", _type(field), _default(field), meaning, readers)
        rows.append(cells[: len(header)])
    if rows:
        yield from _rows(header, rows)


def _type(field: FieldInfo) -> str:
    """The type of a setting in words; of a group, that it is one."""
    if not is_group(field.annotation):
        return type_in_words(leaf(field))
    bare = [get_args(p)[0] if get_origin(p) is Annotated else p for p in plain_types(field.annotation)]
    others = [{Path: "path", float: "number"}.get(p, "none") for p in bare]
    return " or ".join(["group", *others])


def _default(field: FieldInfo) -> str:
    words = default_in_words(field)
    return words if words in ("none", "required", "its defaults") else f"`{words}`"


def _first(field: FieldInfo) -> str:
    """The meaning of a group without a description of its own: its docstring's."""
    groups = list(dict.fromkeys(kinds(field.annotation).values()))
    return sentence(groups[0]).rstrip(".") if len(groups) == 1 else "see below" if groups else "the kind"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    lines = [header, ["---"] * len(header), *rows]
    text = (f"| {' | '.join(_cell(c) for c in line)} |" for line in lines)
    yield "\n".join(text).replace("| --- ", "|---").replace("--- |", "---|") + "\n"


def _cell(text: str) -> str:
    """Text for a table's cell: a bar would end it, and an angle bracket outside of code might begin a tag."""
    parts = re.split("(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else p.replace("<", "&lt;") for p in parts).replace("|", "\\|")
