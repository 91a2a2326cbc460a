"""`fedloom methods`: the list of methods, their settings, and their communication costs."""

import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel
from rich.text import Text

from fedloom.cli.output import echo, out, plain_table
from fedloom.core.errors import ExperimentError

if TYPE_CHECKING:
    from fedloom.methods import Method


IN_WORDS = {
    "*": "all that is trained",
    "*.lora_A": "A",
    "*.lambda_d": "",  # VeRA's factors stand in the place of A and B
    "*.lora_B": "B",
    "*.lambda_b": "",
    "*.lora_R": "R",
    "projector*": "projector",
    "*.local_*": "own A, B",
    "anchors/prompts": "prompts",
    "fusion/scalars": "scalars",
    "*.own_control": "control variate",
    "adapter/shared.*": "shared layer",
    "adapter/text.*": "text",
    "adapter/vision.*": "vision layers",
    "adapter": "adapters",
    "prompt": "prompt",
    "meta": "meta-net",
    "lowrank": "low-rank prompt",
    "own": "own prompt",
    "gate": "gate",
    "mine": "own prompt",
}
"""Patterns of tensors in words; a pattern that is not here, such as a plug-in's, is shown as it is."""
ON_PUBLIC_ITEMS = "answers"
"""Shared by methods of clients with models of their own: outputs on public items, and no tensor."""


def methods(
    name: Annotated[str | None, typer.Argument(help="show this method's settings")] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            help="count what every method trains and sends, for clip-vit-b16, roberta-large, uniflow, vicuna-7b ..."
        ),
    ] = None,
    clients: Annotated[int, typer.Option(help="clients in a round, for --cost", min=1)] = 3,
    every: Annotated[
        bool, typer.Option("--all", help="a line per method, with its paper if there is room")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="try by small runs what every method promises; half a minute"),
    ] = False,
) -> None:
    """List the methods by what they share; with a name, its settings; with --cost, what it costs."""
    from fedloom.experiment.registry import load_entry_points
    from fedloom.methods import METHODS
    from fedloom.privacy.compatibility import private, why_not

    load_entry_points()

    if name is not None and name not in METHODS:
        near = get_close_matches(name, METHODS, n=3)
        known = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(METHODS))}"
        raise ExperimentError(f"unknown method {name}; {known}")
    if check:
        if name is None or cost is not None or as_json:
            raise ExperimentError("--check goes with a name alone, such as fedloom methods fedavg --check")
        _check(name)
        return
    if cost is not None:
        _costs(name, cost, clients, as_json=as_json)
        return
    if as_json:
        known_methods = {m.name: _described(m) for m in METHODS.values()}
        one = known_methods.get(name or "")
        echo(json.dumps(one or list(known_methods.values()), ensure_ascii=False, indent=2))
        return
    if name is not None:
        method = METHODS[name]
        out.print(Text(f"{method.title}  ({method.paper})", style="bold"))
        out.print(Text((method.__doc__ or "").strip()))
        out.print(Text(f"shared: {shared_in_words(method)}; kept by each client: {kept_in_words(method)}"))
        out.print(f"privacy: {'secure, dp' if private(method) else f'none, because it {why_not(method)}'}")
        out.print(plain_table(("setting", "default", "meaning"), list(_settings(method, "method."))))
        return
    if every:
        _list_all(list(METHODS.values()))
    else:
        _list_groups(list(METHODS.values()))


def _list_groups(known: "Sequence[type[Method]]") -> None:
    """Print the methods that share the same in one line, so that all of them fit one screen."""
    from fedloom.privacy.compatibility import private

    groups: dict[tuple[str, str], list[str]] = {}
    for m in known:
        place = shared_in_words(m), kept_in_words(m)
        groups.setdefault(place, []).append(m.name if private(m) else f"({m.name})")
    rows = [(*place, ", ".join(names)) for place, names in groups.items()]
    out.print(plain_table(("shared", "kept by each client", "methods"), rows))
    out.print(Text("In brackets: not with privacy. answers: on public items. More: --all, or NAME"))


def _list_all(known: "Sequence[type[Method]]") -> None:
    """Print a line per method, with its paper where there is room."""
    from fedloom.privacy.compatibility import private

    rows = [
        (
            m.name,
            shared_in_words(m),
            kept_in_words(m),
            "yes" if private(m) else "no",
            *([m.paper.partition(";")[0]] if out.width >= WIDE else []),
        )
        for m in known
    ]
    header = ("method", "shared", "kept by each client", "private", *(["paper"] if out.width >= WIDE else []))
    out.print(plain_table(header, rows))
    out.print(
        Text(
            "answers: on public items; private: works with privacy.secure and dp; more: fedloom methods NAME"
        )
    )


def _check(name: str) -> None:
    """Print each promise as soon as a run has tried it. Raises ExperimentError at the end if one is not kept."""
    from fedloom.experiment.contract import findings

    broken = []
    for finding in findings(name):
        word = "FAULT" if finding.fault else "--" if finding.unchecked else "ok"
        reason = finding.fault or finding.unchecked
        out.print(Text(f"{word:<6} {finding.promise}{f': {reason}' if reason else ''}"), soft_wrap=True)
        broken += [finding.promise] if finding.fault else []
    if broken:
        raise ExperimentError(f"method {name} does not keep {len(broken)} of its promises")


WIDE = 110
"""Columns of a terminal from which the list of all methods names the papers."""


def shared_in_words(method: "type[Method]") -> str:
    """The tensors that a method's clients send, in words."""
    shared = in_words(method.shares.shared)
    return ON_PUBLIC_ITEMS if method.public_items and shared == "—" else shared


def kept_in_words(method: "type[Method]") -> str:
    """The tensors that stay with each client, in words."""
    return in_words(method.shares.personal)


def in_words(patterns: Sequence[str]) -> str:
    """Patterns of tensors in words; a dash for none."""
    words = dict.fromkeys(word for pattern in patterns if (word := IN_WORDS.get(pattern, pattern)))
    return ", ".join(words) or "—"


def _described(method: "type[Method]") -> dict[str, Any]:
    """A method as JSON values; `settings` by name with default and meaning."""
    from fedloom.privacy.compatibility import private

    return {
        "name": method.name,
        "title": method.title,
        "paper": method.paper,
        "shared": list(method.shares.shared),
        "personal": list(method.shares.personal),
        "combination": method.combination,
        "public_items": method.public_items,
        "private": private(method),
        "settings": {
            name: {"default": default, "meaning": meaning}
            for name, default, meaning in _settings(method, "method.")
        },
    }


def _costs(name: str | None, cost: str, clients: int, *, as_json: bool) -> None:
    """Print the trained and transmitted numbers of every method, or of `name` alone, for the preset `cost`."""
    from fedloom.cli import cost_clip
    from fedloom.cli.cost import table

    if cost in cost_clip.PRESETS:
        clip_costs = [c for c in cost_clip.table(cost, clients) if name in (None, c.method)]
        _check_counted(clip_costs, name, cost)
        columns: tuple[str, ...] = ("trained", "up", "down", "kept local")
        lines: list[tuple[str, list[float]]] = [
            (c.title, [c.trained, c.up, c.down, c.kept]) for c in clip_costs
        ]
        head = ""
    else:
        costs = [c for c in table(cost, clients) if name in (None, c.method)]
        _check_counted(costs, name, cost)
        columns = ("trained", "up", "down", "mean", "down, dense", "mean, dense")
        lines = [(c.title, [c.trained, c.up, c.down, c.mean, c.down_dense, c.mean_dense]) for c in costs]
        head = f"; the head's {costs[0].head:,} are trained and not in up and down" if costs[0].head else ""
    if as_json:
        values = [{"method": title, **dict(zip(columns, of, strict=True))} for title, of in lines]
        echo(json.dumps(values, ensure_ascii=False, indent=2))
        return
    rows = [(title, *(f"{n:,.0f}" for n in of)) for title, of in lines]
    out.print(plain_table(("method", *columns), rows))
    out.print(Text(f"{cost}, {clients} clients: numbers per client and round{head}."))


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
    return "none" if value is None else str(value)
