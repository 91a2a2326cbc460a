"""Paired differences between the rows of a study: over test samples by bootstrap, over seeds by sign flips.

A row is ahead of another, or behind it, only where the interval of their difference excludes zero; else it is within. A verdict
says so where the seeds disagree: where the difference has another sign in one seed than in another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from fedloom.core.errors import ExperimentError
from fedloom.experiment.registry import load_entry_points
from fedloom.experiment.report.columns import Column, columns_of, figures_by_seed, keys_of
from fedloom.experiment.report.load_study import Study, gather
from fedloom.experiment.report.read import Run
from fedloom.experiment.report.sample_values import SampleValues
from fedloom.experiment.report.units import show, show_interval, show_signed
from fedloom.tasks.metrics.bootstrap import DIGITS, MOST_SEEDS, Interval, paired_difference, seed_sign_flip
from fedloom.tasks.metrics.metric import Metric, Unit, metric_of

Verdict = Literal["ahead", "behind", "within"]

FEWEST_SEEDS = 3
"""Smallest number of seeds for the test over seeds."""
FEWEST_SAMPLES = 6
"""Smallest number of test samples for an interval: of fewer, equal gaps alone are significant nowhere (p of 5 is 0.06)."""
SEEDS_NOTE = (
    "seeds p: exact sign-flip test over the seeds, from 3 seeds on (3 seeds: at least 0.25, 6 seeds: 0.03)"
)
SAMPLES_NOTE = (
    "interval: 95 % percentile bootstrap over test samples, paired; it covers the choice of samples, not the luck of a "
    "training run; p: sign-flip test over the samples; no correction for the number of rows"
)


@dataclass(frozen=True)
class Difference:
    """A row's figure less another row's, over the seeds that both have.

    `interval` with its p is None where the runs kept no samples that give both figures, or too few; `p_seeds` for fewer than
    three seeds.
    `by_seed`: each seed's difference.
    """

    mean: float
    seeds: int
    interval: Interval | None
    p_seeds: float | None
    lower_is_better: bool = False
    by_seed: dict[int, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict | None:
        """Whether the row is ahead, behind or within; None without an interval."""
        if self.interval is None:
            return None
        if self.interval.low <= 0 <= self.interval.high:
            return "within"
        return "behind" if (self.interval.low > 0) == self.lower_is_better else "ahead"

    @property
    def seeds_disagree(self) -> bool:
        """Whether the row is ahead or behind, and the difference has the other sign in some seed."""
        gaps = self.by_seed.values()
        return self.verdict in ("ahead", "behind") and min(gaps, default=0) < 0 < max(gaps, default=0)

    @property
    def in_words(self) -> str | None:
        """The verdict, with a remark where the seeds disagree."""
        return f"{self.verdict} (seeds disagree)" if self.seeds_disagree else self.verdict


@dataclass(frozen=True)
class Differences:
    """All rows against one in one column, as text and as they are."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    column: Column
    found: dict[str, Difference]


def compared(
    row: Sequence[Run], against: Sequence[Run], column: Column, samples: SampleValues
) -> Difference | None:
    """The difference of two rows in a column; None without a common seed or with a figure that is not finite."""
    first, second = figures_by_seed(row, column), figures_by_seed(against, column)
    by_seed = {seed: first[seed] - second[seed] for seed in first if seed in second}
    gaps = list(by_seed.values())
    if not gaps or not all(map(math.isfinite, gaps)):
        return None
    a, b = (
        samples.of_runs([r for r in runs if r.summary.seed in by_seed], column) for runs in (row, against)
    )
    interval = None
    if a is not None and b is not None and a.keys() == b.keys() and len(a) >= FEWEST_SAMPLES:
        interval = paired_difference([a[unit] for unit in a], [b[unit] for unit in a])
    return difference_of(by_seed, interval, metric_of(column.key))


def difference_of(by_seed: dict[int, float], interval: Interval | None, metric: Metric | None) -> Difference:
    """The difference of two rows in a figure, by each seed's difference and the interval over the samples."""
    by_seed = {seed: round(gap, DIGITS) for seed, gap in by_seed.items()}  # rounding is no other sign
    gaps = list(by_seed.values())
    tested = FEWEST_SEEDS <= len(gaps) <= MOST_SEEDS
    return Difference(
        fmean(gaps),
        len(gaps),
        interval,
        seed_sign_flip(gaps) if tested else None,
        metric is not None and metric.lower_is_better,
        by_seed,
    )


def best_row(study: Study, column: Column, samples: SampleValues) -> str | None:
    """The row that is ahead of every other one in a column, or None."""
    means = {
        row: fmean(of.values()) for row, runs in study.rows.items() if (of := figures_by_seed(runs, column))
    }
    metric = metric_of(column.key)
    if metric is None or len(means) < 2 or not all(map(math.isfinite, means.values())):
        return None
    best = (min if metric.lower_is_better else max)(means, key=lambda row: means[row])
    for row in means:
        found = None if row == best else compared(study.rows[best], study.rows[row], column, samples)
        if row != best and (found is None or found.verdict != "ahead"):
            return None
    return best


def differences(
    folders: Path | Sequence[Path], against: str | None = None, columns: Sequence[str] | None = None
) -> tuple[list[Differences], list[str]]:
    """All rows against the row `against`, or the first one, a table per metric, and the notes below them.

    Raises ExperimentError for a row that there is not, and for a study of one row.
    """
    load_entry_points()
    study = gather(folders)
    return of_study(study, against, columns_of(study, keys_of(study, columns)))


def of_study(
    study: Study, against: str | None, columns: Sequence[Column], samples: SampleValues | None = None
) -> tuple[list[Differences], list[str]]:
    """`differences` of a study that was read."""
    base = reference_row(study, against)
    samples = SampleValues() if samples is None else samples
    tables = []
    for column in columns:
        if metric_of(column.key) is None:  # bytes, seconds, diagnostics: no better and no worse
            continue
        found = {
            row: difference
            for row, runs in study.rows.items()
            if row != base and (difference := compared(runs, study.rows[base], column, samples)) is not None
        }
        lines = tuple((row, *described(difference, column)) for row, difference in found.items())
        if lines:
            part = f"{column.across}, " if column.across and column.across not in column.title else ""
            unit = " (points of %)" if column.unit == "percent" else ""
            title = f"{part}{column.title}: against {base}{unit}"
            tables.append(Differences(title, HEADER, lines, column, found))
    notes = []
    if any(line[2] != "—" for table in tables for line in table.lines):
        notes.append(SAMPLES_NOTE)
    if any(line[2] == "—" for table in tables for line in table.lines):
        notes.append("—: the runs kept no samples that give this figure, so that nothing is called ahead")
    return tables, [*notes, SEEDS_NOTE] if tables else []


HEADER = ("", "difference", "interval", "p", "seeds p", "")


def described(found: Difference, column: Column) -> tuple[str, str, str, str, str]:
    """Difference, interval, p over samples, p over seeds (or why there is none), verdict."""
    inside = found.interval
    few = "1 seed" if found.seeds == 1 else f"{found.seeds} seeds"
    return (
        show_signed(found.mean, column.unit),
        interval_text(found, column.unit) or "—",
        "—" if inside is None or inside.p is None else show_p(inside.p),
        few if found.p_seeds is None else show_p(found.p_seeds),
        found.in_words or "—",
    )


def interval_text(found: Difference, unit: Unit) -> str | None:
    """The interval, with more digits in percent where an end would be shown as a zero that the interval excludes."""
    inside = found.interval
    if inside is None:
        return None
    if unit == "percent" and found.verdict != "within":
        ends = [100 * inside.low, 100 * inside.high]
        digits = next((d for d in (1, 2, 3) if all(round(end, d) for end in ends)), 4)
        if digits > 1:
            return f"[{', '.join(f'{end:+.{digits}f}' for end in ends)}]"
    return show_interval(inside.low, inside.high, unit, signed=True)


def reference_row(study: Study, against: str | None) -> str:
    """The row that the others are compared with: `against`, or the first. Raises ExperimentError if there is none."""
    rows = list(study.rows)
    if against is not None and against not in rows:
        raise ExperimentError(f"--against: there is no row {against!r}; there are {', '.join(rows)}")
    if len(rows) < 2:
        raise ExperimentError(f"there is one row, {rows[0]}, and nothing to compare it with")
    return rows[0] if against is None else against


def show_p(p: float) -> str:
    """A p-value with two significant digits, at least "<0.001"."""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def shown(difference: Difference | None, column: Column) -> str:
    """Difference and interval in a cell: "+0.3 [-1.2, +1.8] within"."""
    if difference is None:
        return show(None, column.unit)
    mean, inside, *_, verdict = described(difference, column)
    return mean if inside == "—" else f"{mean} {inside} {verdict}"
