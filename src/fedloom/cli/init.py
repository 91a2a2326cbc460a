"""`fedloom init`: a first look at own data, and an experiment on them."""

from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer
from rich.text import Text

from fedloom.cli.options import Quick
from fedloom.cli.output import out
from fedloom.core.errors import ExperimentError

WIDTH = 80
_LISTED = 6
"""Clients, classes and kinds that are named."""


def init(
    path: Annotated[Path, typer.Argument(help="a folder, or a table (.parquet, .csv, .jsonl ...)")],
    file: Annotated[Path, typer.Option("--out", help="the experiment file to write")] = Path("my.yaml"),
    model: Annotated[
        list[str] | None,
        typer.Option(help="folder or Hugging Face id of a model, or of an encoder; may be repeated"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="write over an existing file")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="measure the memory that it needs, as fedloom plan does")
    ] = False,
    quick: Quick = False,
) -> None:
    """Look at own data, say what they hold, and write a commented experiment that runs on them."""
    from fedloom.cli.progress import file_checks
    from fedloom.data.inspection.inspect import inspect
    from fedloom.experiment.starter.choices import choose
    from fedloom.experiment.starter.file import check, device_memory
    from fedloom.experiment.starter.text import text

    if file.exists() and not force:
        raise ExperimentError(f"{file} exists; name another file with --out, or write over it with --force")
    with file_checks(out, quick=quick):
        seen = inspect(path)
        choices = choose(seen, model or ())
    written = text(seen, choices, file, device_memory())
    check(written, str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(written, encoding="utf-8")
    for title, says in _report(seen, choices):
        for number, line in enumerate(_lines(says, 2 if title in ("note", "unusable") else 1)):
            out.print(Text(f"{'' if number else title:<10}{line}"), soft_wrap=True)
    out.print(Text(f"wrote     {file}"), soft_wrap=True)
    if plan:
        out.print(Text(f"memory    {_memory(file, quick=quick)}"), soft_wrap=True)
    out.print(Text(f"next      fedloom data {file}; fedloom run {file}"), soft_wrap=True)


def _report(seen: Any, choices: Any) -> list[tuple[str, str]]:
    """The lines of the report, each a title and a sentence."""
    lines = [("found", f"{seen.layout.form}: {seen.samples} usable samples"), ("files", _counts(seen.files))]
    if seen.other_files:
        lines.append(("", f"not read: {_counts(seen.other_files)}"))
    if seen.found.parts:
        lines.append(("columns", ", ".join(f"{part}: {column}" for part, column in seen.found.parts.items())))
    if seen.found.others:
        lines.append(("", f"not read: {_counts(seen.found.others)}"))
    lines.append(("samples", _counts(seen.kinds)))
    sizes = sorted(len(c.train) + len(c.test) for c in choices.clients)
    named = "" if seen.clients else ", dealt by this experiment"
    each = f"{sizes[0]} to {sizes[-1]}" if sizes[0] < sizes[-1] else str(sizes[0])
    lines.append(("clients", f"{len(sizes)} of {each} samples{named}"))
    if seen.clients:
        lines.append(("", _counts(dict(sorted(seen.clients.items(), key=lambda item: -item[1])))))
    if seen.classes:
        lines.append(("classes", f"{len(seen.classes)}: {_counts(seen.classes)}"))
    if seen.layout.source != "classes" and not (seen.has_classes and seen.modalities):
        lines.append(
            ("texts", f"at most {seen.longest[0]} words of a question, {seen.longest[1]} of an answer")
        )
    for modality, measure in seen.media.items():
        lines.append((modality, _measure(measure)))
    lines += [("note", note.removeprefix(f"{seen.layout.path}: ")) for note in seen.notes[:2]]
    if seen.faults:
        lines.append(
            ("unusable", f"{len(seen.faults)} of {seen.samples + len(seen.faults)} samples are left out:")
        )
        lines += [("unusable", fault.removeprefix("data.path: ")) for fault in seen.faults[:2]]
    shown = ", ".join(f"{name}: {value}" for name, value in choices.model.items())
    return [*lines, ("chosen", f"method: {choices.method}; model: {shown}")]


def _memory(file: Path, *, quick: bool) -> str:
    """The sentence of `fedloom plan` on whether the experiment fits."""
    from fedloom.cli.plan_tables import fits
    from fedloom.experiment.plan import plan
    from fedloom.experiment.settings import load_rows

    (experiment,) = load_rows(file)
    return fits(plan(experiment, quick=quick))


def _counts(counts: Any) -> str:
    """The first names with their counts, and how many more there are."""
    listed = [f"{name} {count}" for name, count in list(counts.items())[:_LISTED]]
    more = len(counts) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more else "")


def _measure(measure: Any) -> str:
    parts = [f"{measure.count} files"]
    if measure.smallest:
        parts.append(f"{_size(measure.smallest)} to {_size(measure.largest)} pixels")
    if measure.longest is not None:
        parts.append(f"{measure.shortest:.1f} to {measure.longest:.1f} seconds")
    return ", ".join(parts)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _lines(text: str, most: int) -> list[str]:
    """The text on at most so many lines; the last one tells of a rest by dots."""
    return wrap(text, WIDTH - 10, max_lines=most, placeholder=" ...") or [""]
