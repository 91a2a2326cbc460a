"""What a table's columns are: which figures of a run, under which titles, and the ones that are derived from its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.predictions import rounds_above_majority
from fedloom.experiment.report.read import LAYER, Run
from fedloom.experiment.report.units import Spread, unit_of, words
from fedloom.tasks.metrics.metric import Unit
from fedloom.tasks.registry import TASKS

FIELDS = {
    "bytes_up": "bytes up",
    "bytes_down": "bytes down",
    "seconds": "time",
    "rounds": "rounds",
    "trainable_parameters": "trainable parameters",
    "shared_parameters": "shared parameters",
}
"""Columns that stand in the summary itself rather than among its metrics."""

DERIVED = {"above_majority": rounds_above_majority}
"""Columns that are computed from a run's files."""

CLIENTS = "clients/"
"""How a column begins that is the mean over the clients' own figures, each by its own model where it has one."""

HEADLINE = ("token_accuracy", "exact_match", "accuracy")


def headline() -> dict[str, str]:
    """The headline figures of every task, with their titles; those of classification with titles of its own come first."""
    figures = {name: title for task in TASKS.values() for name, title in task.headline.items()}
    return dict(sorted(figures.items(), key=lambda item: not item[1]))


def titled() -> dict[str, str]:
    """The headline figures that have a title of their own."""
    return {name: title for name, title in headline().items() if title}


OTHERS = {"local/image/accuracy_own_classes": "local, own classes"}
AVERAGE = "average"
AVERAGED = "average/"
"""How a column begins that is the mean over the study's parts alone, such as data sets; in a study without parts the figure."""

MEASURES = ("restoration_error_before", "restoration_error", "norm_ratio", "condition", "angle")
"""What aggregation did, measured in every layer; a round's figure is the mean over the layers."""

UPDATES = ("update/cosine", "update/cosine_min", "update/opposed", "update/turn")
"""How clients' changes agree, and how a round's change goes with the last one's."""

DIAGNOSTICS = (*MEASURES, "update_norm")

OWN_SECTION = ("update", "canonical", "vote", "fusion", "generator")
"""First words of names that have a section of their own in the report."""


@dataclass(frozen=True)
class Column:
    """A figure of runs, its title and unit; `across` restricts it to a part of the study, AVERAGE is the mean of all `parts`."""

    key: str
    title: str
    unit: Unit
    across: str | None = None
    parts: int = 1

    @property
    def name(self) -> str:
        """What tells the column from all others of its table."""
        return self.key if self.across is None else f"{self.across}: {self.key}"


def keys_of(study: Study, asked: Sequence[str] | None) -> list[str]:
    """What to show: what is asked for, or else what the experiment names, or else the headline figures."""
    names = study.names()
    if asked is not None or study.columns:
        return [resolved(key, names) for key in (study.columns if asked is None else asked)]
    keys = default_columns(study)
    first = ["hm"] if "hm" in keys else keys[:1]
    return first if study.across else keys  # a column for every part of the study: one figure is enough


def resolved(key: str, names: Sequence[str]) -> str:
    """The metric that a column means: `.../bertscore_f` is that of whichever embedder was used, `meteor` may be the exact one."""
    if key in names:
        return key
    if key.startswith(AVERAGED):
        return AVERAGED + resolved(key[len(AVERAGED) :], names)
    near = (n for n in names if n.startswith(f"{key}[") or n == f"{key}_exact")
    return next(near, key)


def default_columns(study: Study) -> list[str]:
    """The headline figures of the tasks that the study has; else other global or local ones."""
    names = set(study.names())
    domains = [n for n in study.names() if n.startswith("domain/") and n.endswith("/accuracy")]
    first = titled()
    keys = [*first, *domains, *(name for name in headline() if name not in first)]
    keys = [key for key in keys if key in names]
    for scope in ("global/", "local/"):
        keys = keys or [n for n in study.names() if n.startswith(scope) and n.rsplit("/", 1)[-1] in HEADLINE]
        keys = keys or [n for n in study.names() if n.startswith(scope)][:4]
    return [*keys, "bytes_up", "bytes_down", "seconds"]


def columns_of(study: Study, keys: Sequence[str]) -> tuple[Column, ...]:
    """One column per key; for a study that is spread over tasks or the like, one per part and key, and with a single key the
    average of the parts.
    """
    averaged = [k[len(AVERAGED) :] for k in keys if k.startswith(AVERAGED)]
    if not study.across:
        keys = [k.removeprefix(AVERAGED) for k in keys]
        return tuple(Column(key, title_of(key), unit_of(key)) for key in keys)
    plain = [Column(key, title_of(key), unit_of(key)) for key in keys if not key.startswith(AVERAGED)]
    if averaged:
        count = len(study.across)
        each = [Column(c.key, f"{part}, {c.title}", c.unit, part) for part in study.across for c in plain]
        return (*each, *(Column(k, title_of(k), unit_of(k), AVERAGE, count) for k in averaged))
    if len(plain) == 1:
        key, unit = plain[0].key, plain[0].unit
        parts = len(study.across)
        return tuple(Column(key, part, unit, part, parts) for part in (*study.across, AVERAGE))
    return tuple(Column(c.key, f"{part}, {c.title}", c.unit, part) for part in study.across for c in plain)


def title_of(key: str) -> str:
    """A key in words."""
    plain = key.partition("[")[0]  # the embedder stands in a note below the table
    if plain.startswith(CLIENTS):
        return f"{words(plain[len(CLIENTS) :].removeprefix('text/'))}, clients' mean"
    parts = plain.split("/")
    if parts[0] == "domain" and len(parts) == 3:
        return parts[1] if parts[2] == "accuracy" else f"{parts[1]}, {words(parts[2])}"
    return FIELDS.get(plain) or headline().get(plain) or OTHERS.get(plain) or words(plain)


def is_diagnostic(name: str) -> bool:
    """Whether a metric tells of what the server did, in a layer, a group or on average, and not of training or evaluation."""
    return name.startswith(LAYER) or name.split("/")[0] in (*DIAGNOSTICS, *OWN_SECTION)


def figure_of(run: Run, key: str) -> float | None:
    """A summary field, a derived figure, the mean over clients, or the last round's value of a metric."""
    if key in DERIVED:
        return DERIVED[key](run)
    if key.startswith(CLIENTS):
        own = [c.metrics.get(key[len(CLIENTS) :]) for c in run.summary.clients]
        there = [value for value in own if value is not None]
        return fmean(there) if there else None
    return getattr(run.summary, key) if key in FIELDS else run.final(key)


def start_of(run: Run, key: str) -> float | None:
    """The figure before training, when everybody has one model; None where there is none."""
    if key in FIELDS or key in DERIVED:
        return None
    return run.start(f"mean_client/{key[len(CLIENTS) :]}" if key.startswith(CLIENTS) else key)


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Mean and spread of the values that are there; None if there are none."""
    there = [value for value in values if value is not None]
    return Spread.of(there) if there else None


def cell(values: Mapping[tuple[str | None, int], float | None], column: Column) -> Spread | None:
    """Mean and spread over seeds of a column; `values` maps a part (None in a study without parts) and a seed to a figure."""
    if column.across != AVERAGE:
        return spread_of([v for (across, _), v in values.items() if column.across in (None, across)])
    of_seed: dict[int, list[float | None]] = {}
    for (_, seed), value in values.items():
        of_seed.setdefault(seed, []).append(value)
    whole = [[v for v in found if v is not None] for found in of_seed.values()]
    # a seed that lacks a part has no average: the mean of the others would be of other tasks
    return spread_of([sum(found) / column.parts for found in whole if len(found) == column.parts])
