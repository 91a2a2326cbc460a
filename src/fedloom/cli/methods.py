"""`fedloom methods`: the list of methods, their settings, and their communication costs."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from pydantic import BaseModel

from fedloom.cli.output import out, plain_table
from fedloom.core.errors import ExperimentError
from fedloom.core.terminal import console


def methods(
    name: Annotated[str | None, typer.Argument(help="show this method's settings")] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            help="count what every method trains and sends, for clip-vit-b16, roberta-large, uniflow, vicuna-7b ..."
        ),
    ] = None,
    clients: Annotated[int, typer.Option(help="clients in a round, for --cost", min=1)] = 3,
) -> None:
    """List the methods and what each shares; with a name, its settings; with --cost, what it costs."""
    from fedloom.experiment.registry import load_entry_points
    from fedloom.methods import METHODS
    from fedloom.privacy.compatibility import private, why_not

    load_entry_points()

    if name is not None and name not in METHODS:
        raise ExperimentError(f"unknown method {name}; known are {', '.join(sorted(METHODS))}")
    if cost is not None:
        _costs(name, cost, clients)
        return
    if name is not None:
        method = METHODS[name]
        out.print(f"[bold]{method.title}[/bold]  ({method.paper})", (method.__doc__ or "").strip(), sep="\n")
        out.print(f"privacy: {'secure, dp' if private(method) else f'none, because it {why_not(method)}'}")
        settings = list(_settings(method, "method."))
        out.print(plain_table(("setting", "default", "meaning"), settings))
        return
    rows = [
        (
            m.name,
            m.title,
            m.paper,
            ", ".join(m.shares.shared) or "nothing",
            ", ".join(m.shares.personal) or "nothing",
            "secure, dp" if private(m) else "none",
        )
        for m in METHODS.values()
    ]
    out.print(plain_table(("method.name", "title", "paper", "shared", "personal", "privacy"), rows))


def _costs(name: str | None, cost: str, clients: int) -> None:
    """Print the trained and transmitted numbers of every method, or of `name` alone, for the preset `cost`."""
    from fedloom.cli import cost_clip
    from fedloom.cli.cost import table

    if cost in cost_clip.PRESETS:
        clip_costs = [c for c in cost_clip.table(cost, clients) if name in (None, c.method)]
        _check_counted(clip_costs, name, cost)
        lines = [(c.title, *(f"{n:,}" for n in (c.trained, c.up, c.down, c.kept))) for c in clip_costs]
        out.print(plain_table(("method", "trained", "up", "down", "kept local"), lines))
        out.print(f"{cost}, {clients} clients: numbers per client and round.")
        return
    costs = [c for c in table(cost, clients) if name in (None, c.method)]
    _check_counted(costs, name, cost)
    columns = ("method", "trained", "up", "down", "mean", "down, dense", "mean, dense")
    lines = [
        (c.title, *(f"{n:,.0f}" for n in (c.trained, c.up, c.down, c.mean, c.down_dense, c.mean_dense)))
        for c in costs
    ]
    grid = plain_table(columns, lines)
    # A narrow terminal may wrap lines, but must not split a number.
    needed = out.measure(grid, options=out.options.update(width=1000)).maximum
    console(width=max(out.width, needed)).print(grid)
    head = f"; the head's {costs[0].head:,} are trained and not in up and down" if costs[0].head else ""
    out.print(f"{cost}, {clients} clients: numbers per client and round{head}.")


def _check_counted(costs: Sequence[object], name: str | None, cost: str) -> None:
    """Raise ExperimentError for a method that trains nothing on the models of a preset."""
    if not costs:
        raise ExperimentError(
            f"method {name} has no cost on {cost}, whose model it does not train; leave {name} out to see which have one"
        )


def _settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Name, default and description of every field, recursively for nested settings."""
    for name, field in model.model_fields.items():
        value = field.get_default()
        if isinstance(value, BaseModel):
            yield from _settings(type(value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _default(value), field.description or ""


def _default(value: object) -> str:
    return "the mode's own" if value is None else str(value)
