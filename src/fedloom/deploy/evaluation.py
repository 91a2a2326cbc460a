"""Federated evaluation: every site measures on its own test samples, and the server combines the sites' metrics by name.

Counts (tokens, correct tokens) add up exactly; means are weighted by their counts. Corpus BLEU, macro-F1 and medians cannot be
combined from the sites' values and are reported per site only.
"""

import re
from collections.abc import Mapping
from math import fsum
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fedloom.core.lazy_mapping import LazyMapping
from fedloom.core.payload import Payload, group_of
from fedloom.core.plain_text import plain, shown
from fedloom.deploy.wire import EVALUATE
from fedloom.federation.settings import Round
from fedloom.privacy.reply_schema import Range
from fedloom.tasks.base import Snapshot
from fedloom.tasks.evaluation import Assessment, TestSet, evaluated_clients
from fedloom.tasks.metrics.metric import Merge, metric_of
from fedloom.tasks.metrics.summary import COUNTS

if TYPE_CHECKING:
    from fedloom.federation.loop import Federation

Figures = Mapping[str, float]
NAME = re.compile(r"(?P<scope>global|local)/(?P<kind>[a-z+]{1,40})/(?P<metric>[A-Za-z0-9_@.-]{1,60})")

_MOST = 10_000
_COUNT = 1e15
_SHARE = 100.0
"""Largest size of a figure in percent. Shares end at 1; a rescaled BERTScore of a bad answer lies far below zero."""


class SiteEvaluator:
    """Evaluates a federation's models at its sites; `federation` is set once it exists."""

    federation: "Federation"

    @property
    def tests(self) -> TestSet:
        """Empty: the test samples stay at the sites."""
        return TestSet([], [], [])

    def controls(self, common: Mapping[str, Tensor]) -> dict[str, float]:
        """Empty: controls need the samples."""
        return {}

    def assess(self, snapshot: Snapshot) -> Assessment:
        """The combined metrics of all sites that answer."""
        return _assess_at_sites(self.federation, snapshot)


def _assess_at_sites(federation: "Federation", snapshot: Snapshot) -> Assessment:
    experiment, number, common = federation.experiment, snapshot.number, snapshot.common
    tensors = {**federation.state.shared, **common}
    sites = evaluated_clients(federation.names, experiment.evaluation, experiment.seed)
    options = {"common": bool(common) or number == 0, "generate": snapshot.generate}

    def payload(site: str) -> Payload:
        groups = federation.clients[site].groups
        return Payload({n: t for n, t in tensors.items() if group_of(n) in groups}, options)

    payloads = LazyMapping(sites, payload)
    at = Round(number, experiment.rounds, experiment.seed)
    replies = federation.engine.ask(
        federation.method, EVALUATE, payloads, at, lambda c, s: None, lambda reply: reply
    )
    metrics_by_site: dict[str, Figures] = {}
    refused = {}
    for reply in replies:
        figures: Any = reply.payload.numbers.get("figures")
        if fault := reply.error or figure_fault(figures):
            refused[reply.client] = plain(fault, experiment.firewall.max_text)
        else:
            metrics_by_site[reply.client] = {n: float(v) for n, v in figures.items()}
    refused |= {s: "missing: no reply" for s in sites if s not in metrics_by_site and s not in refused}
    down = sum(payloads[s].nbytes for s in sites)
    federation.totals.bytes_down += down
    if federation.folder is not None:
        entry = {
            "round": number,
            "request": EVALUATE,
            "asked": sites,
            "answered": sorted(metrics_by_site),
            "refused": refused,
            "bytes_up": 0,
            "bytes_down": down,
        }
        federation.folder.append("ledger.jsonl", [entry])
    metrics = {**combined(metrics_by_site), "evaluated_sites": float(len(metrics_by_site))}
    return Assessment(metrics, {site: _client_metrics(m) for site, m in metrics_by_site.items()}, [])


def combined(metrics_by_site: Mapping[str, Figures]) -> dict[str, float]:
    """Metrics over all sites' samples, with `worst_client/...` and `mean_client/...` as in a local run."""
    metrics: dict[str, float] = {}
    parts: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for site in sorted(metrics_by_site):
        for name, value in metrics_by_site[site].items():
            match = NAME.fullmatch(name)
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


def _weighted_mean(metric: str, count: Merge, own: Figures, sites: Mapping[str, Figures]) -> float:
    weights = {site: sites[site].get(count, 0.0) for site in own}
    total = fsum(weights.values())
    if total <= 0:
        return fsum(own.values()) / len(own)
    if metric == "token_accuracy":  # a share of whole tokens: exact
        return fsum(round(own[s] * weights[s]) for s in own) / total
    return fsum(own[s] * weights[s] for s in own) / total


def figure_fault(figures: object) -> str | None:
    """The first fault among a site's figures by name, as a reason of refusal, or None.

    Counts are not negative, figures in percent are shares, and every figure is small enough for sums and products.
    """
    if not isinstance(figures, dict) or len(figures) > _MOST:
        return f"figures: at most {_MOST} numbers by name are right"
    for name, value in figures.items():
        match = NAME.fullmatch(name)
        if match is None:
            return f"figures: {shown(name)} is no figure"
        if fault := _range(match["metric"]).fault(value):
            return f"figures: {name} is {shown(value)}, {fault}"
    return None


def _range(metric: str) -> Range:
    """The range of a metric's figure."""
    definition = metric_of(metric)
    if metric in COUNTS:
        return Range(0, _COUNT)
    return Range(-_SHARE, _SHARE) if definition is not None and definition.unit == "percent" else Range()


def _client_metrics(metrics: Figures) -> dict[str, float]:
    """A site's row: metrics of its own model if it has one, else of the common model."""
    scope = "local/" if any(n.startswith("local/") for n in metrics) else "global/"
    return {n.removeprefix(scope): v for n, v in metrics.items() if n.startswith(scope)}
