"""Figures of sites: which figures of an evaluation leave a site, their ranges, and how the server combines them by name.

A task gives its own `SiteFigures`; the default, `SampleFigures`, is for metrics over test samples. Counts (tokens, correct
tokens) add up exactly; means are weighted by their counts. Corpus BLEU, macro-F1 and medians cannot be combined from the sites'
values and are reported per site only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from typing import Protocol

from fedloom.core.number_range import Range
from fedloom.tasks.evaluation import Assessment
from fedloom.tasks.metrics.metric import Merge, metric_of
from fedloom.tasks.metrics.summary import COUNTS

Figures = Mapping[str, float]
SHARE = Range(0, 1)
"""The range of a figure in percent that is never negative, such as an accuracy."""
_NAME = re.compile(r"(?P<scope>global|local)/(?P<kind>[a-z+]{1,40})/(?P<metric>[A-Za-z0-9_@.-]{1,60})")
_MEASURED = re.compile(r"(global|local)/(?!worst_client/|mean_client/)")
_COUNT = Range(0, 1e15)
_PERCENT = Range(-100, 100)
"""The range of any figure in percent. Shares end at 1; a rescaled BERTScore of a bad answer lies far below zero."""


class SiteFigures(Protocol):
    """The figures of a task between sites: chosen at a site, checked and combined at the server.

    `leaving` runs at a site, all others at the server, on figures that `range_of` has accepted. Figures are by name and finite.
    """

    @property
    def most(self) -> int:
        """The largest number of figures of one site."""

    def leaving(self, assessment: Assessment, site: str) -> dict[str, float]:
        """The figures of the site's own evaluation that it sends; numbers only, of no single sample."""

    def range_of(self, name: str) -> Range | None:
        """The range of the figure of this name, or None where no figure has it."""

    def combined(self, by_site: Mapping[str, Figures], at_server: Figures) -> dict[str, float]:
        """The run's metrics, from every answering site's figures and from what the server has measured itself."""

    def missing(self, metrics: Figures) -> list[str]:
        """Sentences on the task's metrics that neither a site nor the server has measured, for the run's notes."""

    def row(self, figures: Figures) -> dict[str, float]:
        """A site's row of the summary, `<kind>/<metric>`."""


@dataclass(frozen=True)
class SampleFigures:
    """`global/<kind>/<metric>` and `local/<kind>/<metric>`: metrics over test samples."""

    most: int = 10_000

    def leaving(self, assessment: Assessment, site: str) -> dict[str, float]:
        """All metrics but the worst and mean client's, which the server computes."""
        return {n: v for n, v in assessment.metrics.items() if _MEASURED.match(n)}

    def range_of(self, name: str) -> Range | None:
        """Counts are not negative, figures in percent are shares, and every figure is small enough for sums and products."""
        if (match := _NAME.fullmatch(name)) is None:
            return None
        definition = metric_of(match["metric"])
        if match["metric"] in COUNTS:
            return _COUNT
        return _PERCENT if definition is not None and definition.unit == "percent" else Range()

    def combined(self, by_site: Mapping[str, Figures], at_server: Figures) -> dict[str, float]:
        """Metrics over all sites' samples, with `worst_client/...` and `mean_client/...` as in a local run."""
        metrics = dict(at_server)
        parts: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        for site in sorted(by_site):
            for name, value in by_site[site].items():
                match = _NAME.fullmatch(name)
                if match is not None:
                    values = parts.setdefault((match["scope"], match["kind"]), {}).setdefault(site, {})
                    values[match["metric"]] = value
        for (scope, kind), sites in sorted(parts.items()):
            prefix = "" if scope == "global" else f"{scope}/"
            for metric in sorted({m for values in sites.values() for m in values}):
                own = {site: values[metric] for site, values in sites.items() if metric in values}
                if metric in COUNTS:
                    metrics[f"{scope}/{kind}/{metric}"] = fsum(own.values())
                    continue
                definition = metric_of(metric)
                merge = "generated" if definition is None else definition.merge
                if merge is not None:
                    metrics[f"{scope}/{kind}/{metric}"] = _weighted_mean(metric, merge, own, sites)
                worst = max if definition is not None and definition.lower_is_better else min
                metrics[f"{prefix}worst_client/{kind}/{metric}"] = worst(own.values())
                metrics[f"{prefix}mean_client/{kind}/{metric}"] = fsum(own.values()) / len(own)
        return metrics

    def missing(self, metrics: Figures) -> list[str]:
        """None: every site with test samples measures all metrics."""
        return []

    def row(self, figures: Figures) -> dict[str, float]:
        """Metrics of the site's own model if it has one, else of the common model."""
        scope = "local/" if any(n.startswith("local/") for n in figures) else "global/"
        return {n.removeprefix(scope): v for n, v in figures.items() if n.startswith(scope)}


def _weighted_mean(metric: str, count: Merge, own: Figures, sites: Mapping[str, Figures]) -> float:
    weights = {site: sites[site].get(count, 0.0) for site in own}
    total = fsum(weights.values())
    if total <= 0:
        return fsum(own.values()) / len(own)
    if metric == "token_accuracy":  # a share of whole tokens: exact
        return fsum(round(own[s] * weights[s]) for s in own) / total
    return fsum(own[s] * weights[s] for s in own) / total
