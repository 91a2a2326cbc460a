"""Columns of a table: keys, titles and units of a run's figures, including figures derived from its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.predictions import rounds_above_majority
from fedloom.experiment.report.read import LAYER, MeasureRecord, Run
from fedloom.experiment.report.units import Spread, unit_of, words
from fedloom.federation.diagnostics import SIMILARITIES
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
"""Summary fields that are columns, with their titles."""

DERIVED = {"above_majority": rounds_above_majority}
"""Columns computed from a run's files."""

CLIENTS = "clients/"
"""Prefix of columns that are means over clients, each evaluated with its own model if it has one."""

HEADLINE = ("token_accuracy", "exact_match", "accuracy")


def headline() -> dict[str, str]:
    """The headline figures of every task with their titles; figures with a title come first."""
    figures = {name: title for task in TASKS.values() for name, title in task.headline.items()}
    return dict(sorted(figures.items(), key=lambda item: not item[1]))


def titled() -> dict[str, str]:
    """The headline figures with a title of their own."""
    return {name: title for name, title in headline().items() if title}


OTHERS = {"local/image/accuracy_own_classes": "local, own classes"}
AVERAGE = "average"
AVERAGED = "average/"
"""Prefix of columns shown only as the mean over the study's parts, such as data sets; ignored in a study without parts."""

MEASURES = ("restoration_error_before", "restoration_error", "norm_ratio", "condition", "angle")
"""Aggregation diagnostics measured in every layer; a round's figure is the mean over the layers."""

UPDATES = ("update/cosine", "update/cosine_min", "update/opposed", "update/turn")
"""Agreement between the clients' updates, and between the updates of successive rounds."""

DIAGNOSTICS = (*MEASURES, "change_norm", "update_norm")
"""Diagnostics of a round; `update_norm` stands in runs of earlier versions, which measured the factors."""

OWN_SECTION = ("update", "canonical", "vote", "fusion", "generator")
"""Prefixes of metrics with a section of their own in the report."""


@dataclass(frozen=True)
class Column:
    """A figure of runs with title and unit; `across` selects a part of the study, or AVERAGE the mean over all `parts`."""

    key: str
    title: str
    unit: Unit
    across: str | None = None
    parts: int = 1

    @property
    def name(self) -> str:
        """Unique name of the column in its table."""
        return self.key if self.across is None else f"{self.across}: {self.key}"


def keys_of(study: Study, keys: Sequence[str] | None) -> list[str]:
    """Column keys: `keys`, or else the columns named by the experiment, or else the headline figures."""
    names = study.names()
    if keys is not None or study.columns:
        return [resolved(key, names) for key in (study.columns if keys is None else keys)]
    defaults = default_columns(study)
    first = ["hm"] if "hm" in defaults else defaults[:1]
    return first if study.across else defaults  # one figure suffices with a column for every part


def known_columns(study: Study) -> list[Column]:
    """Every column that some run of a study has a figure for: metrics, means over clients, summary fields."""
    of_clients = dict.fromkeys(
        f"{CLIENTS}{n}" for run in study.runs for client in run.summary.clients for n in client.metrics
    )
    keys = [*study.names(), *of_clients, *FIELDS, *DERIVED]
    found = [key for key in keys if any(figure_of(run, key) is not None for run in study.runs)]
    return [_column(study, key) for key in found]


def resolved(key: str, names: Sequence[str]) -> str:
    """The full metric name of a key: `.../bertscore_f` gets the embedder in brackets, `meteor` may become `meteor_exact`."""
    if key in names:
        return key
    if key.startswith(AVERAGED):
        return AVERAGED + resolved(key[len(AVERAGED) :], names)
    matches = (n for n in names if n.startswith(f"{key}[") or n == f"{key}_exact")
    return next(matches, key)


def default_columns(study: Study) -> list[str]:
    """The study's headline figures, or else other global or local metrics; then bytes and seconds."""
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
    """One column per key; in a study with parts, one per part and key, and for a single key also the average of the parts."""
    averaged = [k[len(AVERAGED) :] for k in keys if k.startswith(AVERAGED)]
    if not study.across:
        keys = [k.removeprefix(AVERAGED) for k in keys]
        return tuple(_column(study, key) for key in keys)
    plain = [_column(study, key) for key in keys if not key.startswith(AVERAGED)]
    if averaged:
        count = len(study.across)
        each = [Column(c.key, f"{part}, {c.title}", c.unit, part) for part in study.across for c in plain]
        return (*each, *(Column(k, title_of(k), unit_of(k), AVERAGE, count) for k in averaged))
    if len(plain) == 1:
        key, unit = plain[0].key, plain[0].unit
        parts = len(study.across)
        return tuple(Column(key, part, unit, part, parts) for part in (*study.across, AVERAGE))
    return tuple(Column(c.key, f"{part}, {c.title}", c.unit, part) for part in study.across for c in plain)


def _column(study: Study, key: str) -> Column:
    """A column without a part; a method's own figure has the title and unit that the method declares."""
    if (measure := study.measure(key)) is None:
        return Column(key, title_of(key), unit_of(key))
    return Column(key, measure_title(key, measure), measure.unit)


def measure_title(name: str, measure: MeasureRecord | None) -> str:
    """A figure's title as its method declares it, after its place, such as a layer."""
    place = name.rpartition("/")[0].partition("/")[2]
    if measure is None:
        return title_of(name)
    return f"{place.replace('_', ' ')}: {measure.title}" if place else measure.title


def title_of(key: str) -> str:
    """A key in words."""
    plain = key.partition("[")[0]  # the embedder is named in a note below the table
    if plain.startswith(CLIENTS):
        return f"{words(plain[len(CLIENTS) :].removeprefix('text/'))}, clients' mean"
    parts = plain.split("/")
    if parts[0] == "domain" and len(parts) == 3:
        return parts[1] if parts[2] == "accuracy" else f"{parts[1]}, {words(parts[2])}"
    return FIELDS.get(plain) or headline().get(plain) or OTHERS.get(plain) or words(plain)


def is_diagnostic(name: str) -> bool:
    """Whether a metric measures aggregation (by layer, by group or on average) rather than training or evaluation."""
    return name.startswith(LAYER) or name.split("/")[0] in (*DIAGNOSTICS, *SIMILARITIES, *OWN_SECTION)


def figure_of(run: Run, key: str) -> float | None:
    """A summary field, a derived figure, the mean over clients, or the last round's value of a metric."""
    if key in DERIVED:
        return DERIVED[key](run)
    if key.startswith(CLIENTS):
        values = [c.metrics.get(key[len(CLIENTS) :]) for c in run.summary.clients]
        present = [value for value in values if value is not None]
        return fmean(present) if present else None
    return getattr(run.summary, key) if key in FIELDS else run.final(key)


def start_of(run: Run, key: str) -> float | None:
    """The figure before training, when all clients have the same model; None if it is not available."""
    if key in FIELDS or key in DERIVED:
        return None
    return run.start(f"mean_client/{key[len(CLIENTS) :]}" if key.startswith(CLIENTS) else key)


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Mean and spread of the values that are not None; None if there are none."""
    present = [value for value in values if value is not None]
    return Spread.of(present) if present else None


def cell(values: Mapping[tuple[str | None, int], float | None], column: Column) -> Spread | None:
    """Mean and spread over seeds of a column; `values` maps a part (None in a study without parts) and a seed to a figure."""
    return spread_of(list(by_seed(values, column).values()))


def by_seed(values: Mapping[tuple[str | None, int], float | None], column: Column) -> dict[int, float]:
    """A column's figure by seed; `values` as for `cell`. A seed without a figure of every part has no average."""
    if column.across != AVERAGE:
        return {
            seed: value
            for (across, seed), value in values.items()
            if column.across in (None, across) and value is not None
        }
    parts: dict[int, list[float]] = {}
    for (_, seed), value in values.items():
        if value is not None:
            parts.setdefault(seed, []).append(value)
    return {seed: sum(of) / column.parts for seed, of in parts.items() if len(of) == column.parts}


def figures_by_seed(runs: Sequence[Run], column: Column) -> dict[int, float]:
    """A row's figure in a column, by seed."""
    return by_seed({(run.across, run.summary.seed): figure_of(run, column.key) for run in runs}, column)
