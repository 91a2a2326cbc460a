"""Content of the report page: tables and plots of a study, as plain values for the template."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedloom.experiment.report import figures
from fedloom.experiment.report.columns import (
    HEADLINE,
    figure_of,
    is_diagnostic,
    spread_of,
    title_of,
    titled,
)
from fedloom.experiment.report.figures import Grid as Grid  # also for those who import them from here
from fedloom.experiment.report.figures import Plot as Plot
from fedloom.experiment.report.grid_cells import has_grid
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.read import ClientSummary, Run
from fedloom.experiment.report.units import Spread, arrow, show, unit_of, words
from fedloom.tasks.metrics.metric import Unit
from fedloom.tasks.metrics.summary import COUNTS

CONDITIONS = ("zeroed", "shuffled", "removed")

WIDEST = 8
"""Largest number of figures in one table of clients; beyond, it shows the headline figures, and tables by modality the rest."""


@dataclass(frozen=True)
class Clients:
    """The clients of one row; `series` names the bars of the plots, in colour order.

    `more`: all figures by modality, where they are too many for one table.
    """

    row: str
    grid: Grid
    plots: Sequence[Plot]
    series: Sequence[str]
    more: Sequence[Grid] = ()


def by_round(runs: Sequence[Run], name: str) -> dict[int, Spread]:
    """Mean and spread of a metric over runs, by round."""
    series = [run.series(name) for run in runs]
    rounds = sorted({r for one in series for r in one})
    return {r: Spread.of([one[r] for one in series if r in one]) for r in rounds}


def curve(study: Study, name: str, key: str, across: str | None = None) -> Plot | None:
    """A metric of every row over rounds; None if no row has two rounds of it. `across`, the study's part, goes into the title."""
    lines = {row: by_round(runs, name) for row, runs in study.rows.items()}
    if not any(len(points) > 1 for points in lines.values()):
        return None
    title = title_of(name) if across is None else f"{across}, {title_of(name)}"
    return figures.curves(title, lines, unit_of(name), key)


def curves(study: Study) -> tuple[list[Plot], list[Plot]]:
    """The headline curves, and the other curves of the global model (of the clients' models if there is none), by part.

    A study with parts shows only the headline: the others would be hundreds, and each run's own report has them.
    """
    names = [n for n in study.names() if not n.startswith("control/") and not is_diagnostic(n)]
    names = [n for n in names if not (n.startswith("train/") and n.count("/") > 1)]
    first = [n for n in names if n == "train/loss" or (n.startswith("global/") and n.endswith(HEADLINE))]
    classes = [n for n in titled() if n in names]
    first = [*(["hm"] if study.across and "hm" in classes else classes), *first]
    first.sort(key=lambda n: n == "train/loss")
    prefixes = ("global/" if any(n.startswith("global/") for n in names) else "local/", "attack/")
    rest = [
        n for n in names if n not in first and n.startswith(prefixes) and n.rsplit("/", 1)[-1] not in COUNTS
    ]
    rest = [] if study.across else rest
    parts = list(study.parts().items())
    head, more = (
        [
            plot
            for i, name in enumerate(group)
            for j, (across, part) in enumerate(parts)
            if (plot := curve(part, name, f"{key}{i}p{j}", across))
        ]
        for key, group in (("curve", first), ("more", rest))
    )
    return (head, more) if head else (more, [])


def modalities(study: Study) -> list[Grid]:
    """A table per modality kind: all evaluation metrics of all rows in the last round."""
    kinds: dict[str, list[str]] = {}
    for name in study.names():
        parts = name.split("/")
        if len(parts) == 3 and parts[0] in ("global", "local", "worst_client", "base", "novel"):
            kinds.setdefault(parts[1], []).append(name)
    grids = []
    for kind, names in kinds.items():
        header = ["metric", *study.rows]
        lines = []
        for name in names:
            scope, _, metric = name.split("/")
            last = [_last(runs, name, unit_of(name)) for runs in study.rows.values()]
            lines.append([f"{words(metric)} ({words(scope)}){arrow(name)}", *last])
        grids.append(Grid(f"Test questions with {kind}, last round", header, lines))
    return grids


def clients(study: Study) -> list[Clients]:
    """Per row: each client's modalities, sample counts and last-round metrics, mean and spread over seeds."""
    out = []
    for number, (row, runs) in enumerate(study.rows.items()):
        members: dict[str, list[ClientSummary]] = {}
        for run in runs:
            for client in run.summary.clients:
                members.setdefault(client.client, []).append(client)
        if not members:
            continue
        names = list(dict.fromkeys(n for group in members.values() for c in group for n in c.metrics))
        wide = len(names) > WIDEST
        shown = [n for n in names if not wide or n.rsplit("/", 1)[-1] in HEADLINE]
        about = {
            client: [
                ", ".join(dict.fromkeys(h for c in group for h in c.holds)) or "text",
                "–".join(sorted({str(c.train) for c in group}, key=int)),
                "–".join(sorted({str(c.test) for c in group}, key=int)),
            ]
            for client, group in members.items()
        }
        grid = _of_clients(f"Clients of {row}", members, shown, about)
        parts = dict.fromkeys(n.rpartition("/")[0] for n in names) if wide else {}
        more = [
            _of_clients(
                f"Clients of {row}: {part}", members, [n for n in names if n.rpartition("/")[0] == part]
            )
            for part in parts
        ]
        charts = []
        series = list(dict.fromkeys(n.split("/")[0] for n in names))
        for metric in HEADLINE:
            kinds = [n for n in names if n.rsplit("/", 1)[-1] == metric]
            groups: dict[str, dict[str, Spread | None]] = {
                client: {n.split("/")[0]: spread for n in kinds if (spread := _client_figure(group, n))}
                for client, group in members.items()
            }
            if any(groups.values()):
                title, key = f"{words(metric)} by client", f"client{number}{metric}"
                charts.append(figures.bars(title, groups, "percent", key, series, name=words(metric)))
        out.append(Clients(row, grid, charts, series, more))
    return out


def _of_clients(
    caption: str,
    members: Mapping[str, Sequence[ClientSummary]],
    names: Sequence[str],
    about: Mapping[str, Sequence[str]] | None = None,
) -> Grid:
    """A line per client with these figures, after what it holds; without `about`, of those clients that have any of them."""
    header = ["client", *(("holds", "train", "test") if about else ()), *(words(n) + arrow(n) for n in names)]
    lines = [
        [
            client,
            *(about[client] if about else ()),
            *(show(_client_figure(group, n), unit_of(n)) for n in names),
        ]
        for client, group in members.items()
        if about or any(n in c.metrics for c in group for n in names)
    ]
    return Grid(caption, header, lines)


def traffic(study: Study) -> tuple[list[Plot], Grid]:
    """Bytes of every row per direction, and per group of tensors (sums over all rounds)."""
    groups: dict[str, dict[str, Spread | None]] = {
        row: {
            "up": spread_of([run.summary.bytes_up for run in runs]),
            "down": spread_of([run.summary.bytes_down for run in runs]),
        }
        for row, runs in study.rows.items()
    }
    lines = []
    for row, runs in study.rows.items():
        names = [g for run in runs for e in run.ledger for g in (*e.groups_up, *e.groups_down)]
        for group in dict.fromkeys(names):
            up = Spread.of([sum(e.groups_up.get(group, 0) for e in run.ledger) for run in runs])
            down = Spread.of([sum(e.groups_down.get(group, 0) for e in run.ledger) for run in runs])
            lines.append([row, group, show(up, "bytes"), show(down, "bytes")])
        total = groups[row]
        lines.append([row, "everything", show(total["up"], "bytes"), show(total["down"], "bytes")])
    plot = figures.bars("bytes in the whole run", groups, "bytes", "bytes")
    header = ["row", "group", "up (client to server)", "down (server to client)"]
    return [plot], Grid("Bytes by group and direction, whole run", header, lines)


def controls(study: Study) -> Grid | None:
    """Controls: metrics with one input destroyed beside the intact ones; None if there are none."""
    measured: dict[tuple[str, str], None] = {}
    present: set[str] = set()
    for name in study.names():
        parts = name.split("/")
        if len(parts) == 4 and parts[0] == "control":
            measured[parts[1], parts[3]] = None
            present.add(parts[2])
    if not measured:
        return None
    conditions = [c for c in CONDITIONS if c in present] + sorted(present - set(CONDITIONS))
    lines = []
    for row, runs in study.rows.items():
        for kind, metric in measured:
            unit = unit_of(metric)
            intact = f"global/{kind}/{metric}"
            last = [_last(runs, f"control/{kind}/{c}/{metric}", unit) for c in conditions]
            if any(figure != "—" for figure in last):
                lines.append([row, kind, words(metric) + arrow(metric), _last(runs, intact, unit), *last])
    return Grid("Controls, last round", ["row", "input", "metric", "intact", *conditions], lines)


def refusals(study: Study) -> Grid | None:
    """Clients with refused, omitted, capped or missing updates: reason, number and rounds; None if there are none."""
    rounds_of: dict[tuple[str, int, str, str], list[int]] = {}
    for row, runs in study.rows.items():
        for run in runs:
            for entry in run.ledger:
                silent = dict.fromkeys(entry.silent, "did not answer")
                reasons = (entry.refused, entry.left_out, entry.capped, silent)
                for client, reason in (pair for by_client in reasons for pair in by_client.items()):
                    rounds_of.setdefault((row, run.summary.seed, client, reason), []).append(entry.round)
    if not rounds_of:
        return None
    lines = [
        [client, reason, row, str(seed), str(len(rounds)), spans(rounds)]
        for (row, seed, client, reason), rounds in rounds_of.items()
    ]
    caption = "Updates that were asked for and not used, or not in full"
    return Grid(caption, ["client", "reason", "row", "seed", "times", "rounds"], lines)


def notes(study: Study) -> list[str]:
    """The notes on each row's model, and the ledger's notes, each once, with its rounds."""
    of_models = {
        f"{row}: {note}": None
        for row, runs in study.rows.items()
        for run in runs
        for note in run.summary.notes
    }
    rounds_of: dict[tuple[str, int, str], list[int]] = {}
    for row, runs in study.rows.items():
        for run in runs:
            for entry in run.ledger:
                for note in entry.notes:
                    rounds_of.setdefault((row, run.summary.seed, note), []).append(entry.round)
    ledger = [
        f"{row}, seed {seed}, rounds {spans(at)}: {note}" for (row, seed, note), at in rounds_of.items()
    ]
    return [*of_models, *ledger]


def spans(rounds: Iterable[int]) -> str:
    """Round numbers as ranges: [1, 2, 3, 7] -> "1–3, 7"."""
    parts: list[list[int]] = []
    for r in sorted(set(rounds)):
        if parts and r == parts[-1][1] + 1:
            parts[-1][1] = r
        else:
            parts.append([r, r])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts)


def commands(study: Study) -> list[str]:
    """A command per run that repeats it from its resolved experiment (seed included)."""
    out = []
    for run in study.runs:
        again = run.folder.with_name(run.folder.name + "-again")
        command = ["fedloom", "run", str(run.folder / "experiment.yaml"), "--out", str(again)]
        out.append(shlex.join(command))
    return out


def facts(study: Study) -> Mapping[str, str]:
    """The summary figures below the title."""
    runs = study.runs
    seeds = sorted({run.summary.seed for run in runs})
    parts = {"columns": ", ".join(study.across)} if study.across else {}
    parts = {"cells": str(len(study.across))} if has_grid(study) else parts
    return {
        "rows": ", ".join(study.rows),
        **parts,
        "seeds": ", ".join(map(str, seeds)),
        "rounds": "–".join(map(str, sorted({run.summary.rounds for run in runs}))),
        "clients": "–".join(map(str, sorted({len(run.summary.clients) for run in runs}))),
        "time in all": show(sum(run.summary.seconds for run in runs), "seconds"),
    }


def sizes(study: Study) -> Grid | None:
    """Trainable and shared parameters of every row; None if no run counted them."""
    keys = ("trainable_parameters", "shared_parameters")
    if all(figure_of(run, key) is None for run in study.runs for key in keys):
        return None
    lines = [
        [row, *(show(spread_of([figure_of(run, key) for run in runs]), unit_of(key)) for key in keys)]
        for row, runs in study.rows.items()
    ]
    return Grid("Parameters", ["row", "trainable", "shared (they travel)"], lines)


def _client_figure(group: Sequence[ClientSummary], name: str) -> Spread | None:
    return spread_of([client.metrics.get(name) for client in group])


def _last(runs: Sequence[Run], name: str, unit: Unit) -> str:
    return show(spread_of([run.final(name) for run in runs]), unit)
