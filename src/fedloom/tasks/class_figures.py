"""Figures of image classification: unweighted means over the clients, in one run as between sites.

A client's figures are accuracies by test set: `LOCAL`, `OWN_CLASSES`, and the common sets by name, such as base and novel.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from fedloom.core.number_range import Range
from fedloom.tasks.evaluation import Assessment
from fedloom.tasks.metrics import harmonic_mean
from fedloom.tasks.site_figures import SHARE, Figures

ACCURACY = "image/accuracy"
LOCAL, OWN_CLASSES = "local", "own classes"
_NAME = re.compile(
    rf"(?P<part>local|base|novel)/{ACCURACY}|local/{ACCURACY}_own_classes|domain/[^/\n]{{1,100}}/accuracy"
)


@dataclass(frozen=True)
class ClassFigures:
    """The rules for figures between sites. `sets`: the experiment's common test sets; a site sends figures on those it holds."""

    sets: tuple[str, ...]
    most: int = 6

    def leaving(self, assessment: Assessment, site: str) -> dict[str, float]:
        """The site's accuracies: local, over its own classes, on the common sets, and its domain's."""
        return {n: v for n, v in assessment.metrics.items() if self.range_of(n) is not None}

    def range_of(self, name: str) -> Range | None:
        """Accuracies lie in [0, 1]."""
        return SHARE if _NAME.fullmatch(name) and name.isprintable() else None

    def combined(self, by_site: Mapping[str, Figures], at_server: Figures) -> dict[str, float]:
        """The metrics of a local run; the server's accuracy on a common set counts where no site holds the set."""
        figures = {site: self._accuracies(own) for site, own in sorted(by_site.items())}
        figures = {site: own for site, own in figures.items() if LOCAL in own}
        held = {name for own in figures.values() for name in own}
        elsewhere = {name: v for name, v in self._accuracies(at_server).items() if name not in held}
        domains = {site: domain for site in figures if (domain := self._domain(by_site[site])) is not None}
        return means({site: {**own, **elsewhere} for site, own in figures.items()}, domains)

    def missing(self, metrics: Figures) -> list[str]:
        """The common sets without a figure, in one sentence."""
        left = [name for name in self.sets if metric_name(name) not in metrics]
        if not left:
            return []
        return [
            f"not measured: {' and '.join(left)}, since no site holds common test pictures of them, and the server holds none or "
            "has no common model to test"
        ]

    def row(self, figures: Figures) -> dict[str, float]:
        """The site's accuracies under the names of a local run."""
        own = self._accuracies(figures)
        return client_row(own) if LOCAL in own else {}

    def _accuracies(self, figures: Figures) -> dict[str, float]:
        """A client's accuracies by test set, from the figures that a site sent."""
        names = {LOCAL: f"local/{ACCURACY}", OWN_CLASSES: f"local/{ACCURACY}_own_classes"}
        names |= {name: metric_name(name) for name in self.sets}
        return {test: figures[name] for test, name in names.items() if name in figures}

    def _domain(self, figures: Figures) -> str | None:
        """The domain of a site whose test samples all belong to one."""
        names = (n.removesuffix("/accuracy") for n in sorted(figures) if n.startswith("domain/"))
        return next((n.removeprefix("domain/") for n in names if n not in self.sets), None)


def metric_name(test_set: str) -> str:
    """The name of a run's metric on a common test set."""
    return f"{test_set}/accuracy" if test_set.startswith("domain/") else f"{test_set}/{ACCURACY}"


def client_row(figures: Figures) -> dict[str, float]:
    """A client's row of the summary."""
    row = {ACCURACY: figures[LOCAL]}
    row |= {f"{n}/accuracy": v for n, v in figures.items() if n not in (LOCAL, OWN_CLASSES)}
    return row | ({f"{ACCURACY}_own_classes": figures[OWN_CLASSES]} if OWN_CLASSES in figures else {})


def means(figures: Mapping[str, Figures], domains: Mapping[str, str]) -> dict[str, float]:
    """A run's metrics: means over the figures of the clients that have them; empty without clients.

    `domains`: the domain of each single-domain client.
    """
    if not figures:
        return {}
    names = dict.fromkeys(n for own in figures.values() for n in own)
    values = {name: [own[name] for own in figures.values() if name in own] for name in names}
    mean = {name: fmean(own) for name, own in values.items()}
    metrics = {f"local/{ACCURACY}": mean[LOCAL], f"local/worst_client/{ACCURACY}": min(values[LOCAL])}
    if OWN_CLASSES in mean:
        metrics[f"local/{ACCURACY}_own_classes"] = mean[OWN_CLASSES]
    metrics |= {metric_name(name): mean[name] for name in ("base", "novel") if name in mean}
    if "base" in mean and "novel" in mean:
        metrics["hm"] = harmonic_mean(mean[LOCAL], mean["base"], mean["novel"])
        metrics["hm2"] = harmonic_mean(mean["base"], mean["novel"])
    groups: dict[str, list[float]] = {}
    for client, domain in sorted(domains.items()):
        groups.setdefault(f"domain/{domain}", []).append(figures[client][LOCAL])
    for name in names:
        if name.startswith("domain/"):
            groups[name] = values[name]
            metrics[f"held_out/{ACCURACY}"] = mean[name]
    for name, own in groups.items():
        metrics[f"{name}/accuracy"] = fmean(own)
        if len(own) > 1:
            metrics[f"{name}/accuracy_sd"] = stdev(own)
    return metrics
