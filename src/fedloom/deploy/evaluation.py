"""Federated evaluation: every site measures on its own test samples, and the server combines the sites' figures.

The task says which figures leave a site, in which ranges, and how they combine (`tasks.site_figures`).
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fedloom.core.lazy_mapping import LazyMapping
from fedloom.core.payload import Payload, group_of
from fedloom.core.plain_text import plain, shown
from fedloom.deploy.wire import EVALUATE
from fedloom.federation.settings import Round
from fedloom.tasks.base import Evaluator, Snapshot
from fedloom.tasks.evaluation import Assessment, TestSet, evaluated_clients
from fedloom.tasks.site_figures import Figures, SiteFigures

if TYPE_CHECKING:
    from fedloom.federation.loop import Federation


class SiteEvaluator:
    """Evaluates a federation's models at its sites; `federation` is set once it exists.

    `figures`: the task's rules. `server`: the evaluator on what the server holds itself, if anything.
    """

    federation: "Federation"

    def __init__(self, figures: SiteFigures, server: Evaluator | None = None) -> None:
        self.figures, self.server = figures, server

    @property
    def tests(self) -> TestSet:
        """Empty: the test samples stay at the sites."""
        return TestSet([], [], [])

    def controls(self, common: Mapping[str, Tensor]) -> dict[str, float]:
        """Empty: controls need the samples."""
        return {}

    def assess(self, snapshot: Snapshot) -> Assessment:
        """The combined metrics of all sites that answer, and what the server measures."""
        by_site = _ask_sites(self.federation, snapshot, self.figures)
        measured: Figures = {}
        if self.server is not None:
            measured = self.server.assess(replace(snapshot, own=lambda names: {})).metrics
        metrics = self.figures.combined(by_site, measured)
        if by_site:
            notes = self.federation.engine.model.notes
            notes += [note for note in self.figures.missing(metrics) if note not in notes]
        rows = {site: self.figures.row(own) for site, own in by_site.items()}
        return Assessment({**metrics, "evaluated_sites": float(len(by_site))}, rows, [])


def _ask_sites(federation: "Federation", snapshot: Snapshot, rules: SiteFigures) -> dict[str, Figures]:
    """The accepted figures of every site that answers, by site; the ledger notes the others and why."""
    experiment, number, common = federation.experiment, snapshot.number, snapshot.common
    tensors = {**federation.state.shared, **common}
    sites = evaluated_clients(federation.names, experiment.evaluation, experiment.seed)
    options = {"generate": snapshot.generate}

    def payload(site: str) -> Payload:
        groups = federation.clients[site].groups
        return Payload({n: t for n, t in tensors.items() if group_of(n) in groups}, options)

    payloads, began = LazyMapping(sites, payload), time.perf_counter()
    at = Round(number, experiment.rounds, experiment.seed)
    replies = federation.engine.ask(
        federation.method, EVALUATE, payloads, at, lambda c, s: None, lambda reply: reply
    )
    by_site: dict[str, Figures] = {}
    refused = {}
    for reply in replies:
        figures: Any = reply.payload.numbers.get("figures")
        if fault := reply.error or figure_fault(figures, rules):
            refused[reply.client] = plain(fault, experiment.firewall.max_text)
        else:
            by_site[reply.client] = {n: float(v) for n, v in figures.items()}
    refused |= {s: "missing: no reply" for s in sites if s not in by_site and s not in refused}
    down = sum(payloads[s].nbytes for s in sites)
    federation.totals.bytes_down += down
    federation.totals.unmeasured += len(refused)
    if federation.folder is not None:
        entry = {
            "round": number,
            "request": EVALUATE,
            "asked": sites,
            "answered": sorted(by_site),
            "refused": refused,
            "bytes_up": 0,
            "bytes_down": down,
            "seconds": round(time.perf_counter() - began, 4),
        }
        federation.folder.append("ledger.jsonl", [entry])
    return by_site


def figure_fault(figures: object, rules: SiteFigures) -> str | None:
    """The first fault among a site's figures by name, as a reason of refusal, or None."""
    if not isinstance(figures, dict) or len(figures) > rules.most:
        return f"figures: at most {rules.most} numbers by name are right"
    for name, value in figures.items():
        known = rules.range_of(name) if isinstance(name, str) else None
        if known is None:
            return f"figures: {shown(name)} is no figure"
        if fault := known.fault(value):
            return f"figures: {name} is {shown(value)}, {fault}"
    return None
