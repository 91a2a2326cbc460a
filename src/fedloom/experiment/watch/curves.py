"""A run's figures as curves for the page: one chart per metric, one line per kind of sample, client or layer group."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedloom.experiment.report.columns import HEADLINE, is_diagnostic, titled
from fedloom.experiment.report.units import show, unit_of, words
from fedloom.tasks.metrics.metric import Unit
from fedloom.tasks.metrics.summary import COUNTS

Series = Mapping[str, Mapping[int, float]]
FIRST = (("global", "domain", "local"), ("local/mean_client", "mean_client"))
"""Scopes of the figures that are drawn first; a later group only where the earlier ones have none."""
FEW = 8
"""Largest number of clients with a training loss of their own in the chart."""
POINTS = 400
"""Largest number of points of a line; in a longer one every so many rounds are drawn, and the last."""
CONTROL, TRAIN = "control/", "train/"


@dataclass
class Chart:
    """A titled chart; `lines` maps a name to its values by round."""

    title: str
    unit: Unit
    lines: dict[str, Mapping[int, float]] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """The chart as JSON values: points as [round, value, value in words]."""
        lines = [{"name": n, "points": _points(values, self.unit)} for n, values in self.lines.items()]
        return {"title": self.title, "unit": self.unit, "lines": lines}


def charts(series: Series) -> tuple[list[Chart], list[Chart]]:
    """The charts that matter first, the training loss among them, and the others."""
    by_place: dict[tuple[str, str], Chart] = {}
    for name, values in series.items():
        scope, line, leaf = _parts(name)
        if leaf in COUNTS or name.startswith((CONTROL, TRAIN)):
            continue
        key = f"{scope}/{leaf}" if scope else leaf
        chart = by_place.setdefault((scope, leaf), Chart(words(key), unit_of(name)))
        chart.lines[line and words(line)] = values
    first = next((kept for scopes in FIRST if (kept := _headline(by_place, scopes))), {})
    first |= {p: c for p, c in by_place.items() if p[0] == "" and p[1] in titled()}
    rest = [chart for place, chart in by_place.items() if place not in first]
    return [*first.values(), *_losses(series)], rest


def headline(series: Series) -> dict[str, Mapping[int, float]]:
    """The headline figures by name, for a study's charts and table."""
    names = [n for n in series if n in titled()]
    for scopes in FIRST:
        names = names or [n for n in series if _parts(n)[0] in scopes and _parts(n)[2] in HEADLINE]
    return {name: series[name] for name in names}


def controls(series: Series) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of the controls: each figure as measured, and with its modality spoilt."""
    found: dict[str, dict[str, float]] = {}
    conditions: dict[str, None] = {}
    for name, values in series.items():
        parts = name.split("/")
        if name.startswith(CONTROL) and len(parts) >= 4 and parts[-1] not in COUNTS and values:
            place = "/".join([*parts[1:-2], parts[-1]])
            found.setdefault(place, {})[parts[-2]] = values[max(values)]
            conditions[parts[-2]] = None
    lines = []
    for place, by_condition in found.items():
        plain = series.get(f"global/{place}", {})
        measured = show(plain[max(plain)] if plain else None, unit_of(place))
        lines.append(
            [words(place), measured, *(show(by_condition.get(c), unit_of(place)) for c in conditions)]
        )
    return ["figure", "as it is", *map(words, conditions)], lines


def client_losses(series: Series) -> dict[str, Mapping[int, float]]:
    """Every client's training loss by round."""
    return {n[len(TRAIN) : -len("/loss")]: v for n, v in series.items() if n.count("/") > 1 and _is_loss(n)}


def _is_loss(name: str) -> bool:
    return name.startswith(TRAIN) and name.endswith("/loss")


def _losses(series: Series) -> list[Chart]:
    """The training loss: the mean, and each client's own where they are few."""
    own = client_losses(series)
    lines = {"mean": series[f"{TRAIN}loss"]} if f"{TRAIN}loss" in series else {}
    lines |= own if 1 < len(own) <= FEW else {}
    return [Chart("training loss", "number", lines)] if lines else []


def _headline(
    by_place: Mapping[tuple[str, str], Chart], scopes: Sequence[str]
) -> dict[tuple[str, str], Chart]:
    found = [(p, c) for p, c in by_place.items() if p[0] in scopes and p[1] in HEADLINE]
    return dict(sorted(found, key=lambda one: (scopes.index(one[0][0]), HEADLINE.index(one[0][1]))))


def _parts(name: str) -> tuple[str, str, str]:
    """Scope, line and metric of a figure's name: ("global", "image", "accuracy"); a diagnostic's line is its group of tensors."""
    plain, bracket, rest = name.partition("[")
    parts = plain.split("/")
    if bracket:
        parts[-1] += bracket + rest
    if is_diagnostic(name):
        head, _, group = name.partition("/")
        own = head in ("update", "generator", "vote", "fusion", "canonical")
        return ("", "", name) if own or not group else ("", group, head)
    if len(parts) < 3:
        return "", "", name
    return "/".join(parts[:-2]), parts[-2], parts[-1]


def _points(values: Mapping[int, float], unit: Unit) -> list[list[int | float | str]]:
    finite = [(r, v) for r, v in sorted(values.items()) if math.isfinite(v)]
    every = math.ceil(len(finite) / POINTS) or 1
    kept = finite[::every]
    if finite and kept[-1] != finite[-1]:
        kept.append(finite[-1])
    return [[r, v, show(v, unit)] for r, v in kept]
