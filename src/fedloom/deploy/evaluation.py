"""Evaluation where the test samples stay: every site measures on its own, and the server puts named figures together.

What adds up is put together exactly (tokens and correct tokens); means are weighed by what they are means of. A corpus BLEU and
a median do not follow from the sites' own, and stand for the sites alone.
"""

import math
import re
from collections.abc import Mapping
from math import fsum
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fedloom.core.lazy_mapping import LazyMapping
from fedloom.core.payload import Payload, group_of
from fedloom.deploy.wire import EVALUATE
from fedloom.federation.settings import Round
from fedloom.tasks.base import Snapshot
from fedloom.tasks.evaluation import Assessment, TestSet, drawn
from fedloom.tasks.metrics.metric import Merge, metric_of
from fedloom.tasks.metrics.summary import COUNTS

if TYPE_CHECKING:
    from fedloom.federation.loop import Federation

Figures = Mapping[str, float]
NAME = re.compile(r"(?P<scope>global|local)/(?P<kind>[a-z+]{1,40})/(?P<metric>[A-Za-z0-9_@.-]{1,60})")


class SiteEvaluator:
    """Asks the sites for their figures; `federation` is set once it exists."""

    federation: "Federation"

    @property
    def tests(self) -> TestSet:
        """None: the test samples stay at the sites."""
        return TestSet([], [], [])

    def controls(self, common: Mapping[str, Tensor]) -> dict[str, float]:
        """None: they need the samples."""
        return {}

    def assess(self, snapshot: Snapshot) -> Assessment:
        """The sites' figures, put together; those that do not answer are left out."""
        return _assess_at_sites(self.federation, snapshot)


def _assess_at_sites(of: "Federation", snapshot: Snapshot) -> Assessment:
    settings, number, generate = of.experiment.evaluation, snapshot.number, snapshot.generate
    common = snapshot.common
    sent = {**of.state.shared, **common}
    asked = drawn(of.names, settings, of.experiment.seed)
    told = {"common": bool(common) or number == 0, "generate": generate}

    def payload(site: str) -> Payload:
        groups = of.clients[site].groups
        return Payload({n: t for n, t in sent.items() if group_of(n) in groups}, told)

    payloads = LazyMapping(asked, payload)
    at = Round(number, of.experiment.rounds, of.experiment.seed)
    replies = of.engine.ask(of.method, EVALUATE, payloads, at, lambda c, s: None, lambda reply: reply)
    of_site: dict[str, Figures] = {}
    refused = {}
    for reply in replies:
        if reply.error is not None:
            refused[reply.client] = reply.error
        elif (figures := _checked(reply.payload.numbers)) is None:
            refused[reply.client] = "figures: these are none"
        else:
            of_site[reply.client] = figures
    refused |= {s: "missing: no reply" for s in asked if s not in of_site and s not in refused}
    down = sum(payloads[s].nbytes for s in asked)
    of.totals.bytes_down += down
    if of.folder is not None:
        entry = {
            "round": number,
            "request": EVALUATE,
            "asked": asked,
            "answered": sorted(of_site),
            "refused": refused,
            "bytes_up": 0,
            "bytes_down": down,
        }
        of.folder.append("ledger.jsonl", [entry])
    metrics = {**combined(of_site), "evaluated_sites": float(len(of_site))}
    return Assessment(metrics, {site: _own(figures) for site, figures in of_site.items()}, [])


def combined(of_site: Mapping[str, Figures]) -> dict[str, float]:
    """The figures of all sites' samples together, with `worst_client/...` and `mean_client/...` as one process has them."""
    metrics: dict[str, float] = {}
    parts: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for site in sorted(of_site):
        for name, value in of_site[site].items():
            found = NAME.fullmatch(name)
            if found is not None:
                place = parts.setdefault((found["scope"], found["kind"]), {}).setdefault(site, {})
                place[found["metric"]] = value
    for (scope, kind), sites in sorted(parts.items()):
        prefix = "" if scope == "global" else f"{scope}/"
        for metric in sorted({m for values in sites.values() for m in values}):
            own = {site: values[metric] for site, values in sites.items() if metric in values}
            if metric in COUNTS:
                metrics[f"{scope}/{kind}/{metric}"] = fsum(own.values())
                continue
            known = metric_of(metric)
            merge = "generated" if known is None else known.merge
            if merge is not None:
                metrics[f"{scope}/{kind}/{metric}"] = _joined(metric, merge, own, sites)
            worst = max if known is not None and known.lower_is_better else min
            metrics[f"{prefix}worst_client/{kind}/{metric}"] = worst(own.values())
            metrics[f"{prefix}mean_client/{kind}/{metric}"] = fsum(own.values()) / len(own)
    return metrics


def _joined(metric: str, count: Merge, own: Figures, sites: Mapping[str, Figures]) -> float:
    weights = {site: sites[site].get(count, 0.0) for site in own}
    total = fsum(weights.values())
    if total <= 0:
        return fsum(own.values()) / len(own)
    if metric == "token_accuracy":  # a share of whole tokens: exact
        return fsum(round(own[s] * weights[s]) for s in own) / total
    return fsum(own[s] * weights[s] for s in own) / total


def _checked(numbers: Mapping[str, Any]) -> Figures | None:
    """The figures in a reply, or None if they are not plain finite numbers under names of figures."""
    figures = numbers.get("figures")
    if not isinstance(figures, dict) or len(figures) > 10_000:
        return None
    for name, value in figures.items():
        if NAME.fullmatch(name) is None or not isinstance(value, float) or not math.isfinite(value):
            return None
    return figures


def _own(figures: Figures) -> dict[str, float]:
    """A site's row: by its own model where it has one, else by the common one."""
    scope = "local/" if any(n.startswith("local/") for n in figures) else "global/"
    return {n.removeprefix(scope): v for n, v in figures.items() if n.startswith(scope)}
