"""The round loop: sample a cohort, ask, check, combine, evaluate, record, checkpoint; and going on where a run was cut off."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from fedloom.client import Client, Round
from fedloom.diagnostics import restoration, update_norm
from fedloom.engines import LocalEngine
from fedloom.evaluation import TestSet, assess
from fedloom.exchange import Payload, group_of
from fedloom.experiment import Experiment
from fedloom.firewall import Reply, inspect
from fedloom.methods import State
from fedloom.runfolder import Checkpoint, Personal, RunFolder
from fedloom.streams import torch_stream


class NoReplies(Exception):  # noqa: N818 - not an error: the round simply has nothing to combine
    """Not one usable reply came back."""


@dataclass
class Totals:
    """What a run adds up; part of every checkpoint."""

    bytes_up: int = 0
    bytes_down: int = 0
    asked: int = 0
    refused: int = 0
    skipped_rounds: int = 0
    seconds: float = 0.0

    def status(self) -> str:
        """`complete`, or what kept the run from being plainly so."""
        faults = []
        if self.refused:
            faults.append(f"{self.refused} of {self.asked} updates refused")
        if self.skipped_rounds:
            faults.append(f"{self.skipped_rounds} rounds without a quorum changed nothing")
        return "complete" if not faults else "complete, but " + " and ".join(faults)


@dataclass(frozen=True)
class Progress:
    """What an observer hears of: the round (0 = before training), its metrics, bytes so far, seconds so far."""

    round: int
    rounds: int
    metrics: Mapping[str, float]
    totals: Totals
    client: str | None = None
    """The client that has just answered; None when the round is over."""
    clients: int = 0
    """How many are asked in this round."""


Observer = Callable[[Progress], None]


@dataclass
class Federation:
    """The server's side of a run. `run` goes from wherever the state stands to the last round."""

    experiment: Experiment
    engine: LocalEngine
    tests: TestSet
    folder: RunFolder | None = None
    observe: Observer = lambda progress: None
    round: int = 0
    totals: Totals = field(default_factory=Totals)

    def __post_init__(self) -> None:
        self.method = self.experiment.method
        self.state: State = self.method.start(self.engine.model.start)
        for client in self.clients.values():
            client.personal = self.method.scope.pick(self._held(client, self.engine.model.start), "personal")
        self._replies: list[Reply] = []
        self._fresh = True
        self.first_metrics: Mapping[str, float] = {}
        self.last_metrics: Mapping[str, float] = {}
        self.client_metrics: Mapping[str, Mapping[str, float]] = {}

    @property
    def clients(self) -> Mapping[str, Client]:
        """The engine's clients by name."""
        return self.engine.clients

    def run(self) -> None:
        """All rounds that are left. Every round ends in a checkpoint, if there is a folder."""
        if self.round == 0 and self._fresh:
            self._finish(0, time.perf_counter(), [])
        for number in range(self.round + 1, self.experiment.rounds + 1):
            began = time.perf_counter()
            entries: list[dict[str, Any]] = []
            before, self._replies = self.state, []
            try:
                after = self.method.round(before, self._door(number, entries))
            except NoReplies:
                after = before
            if self._quorum(entries):
                self.state = after
            else:
                self.totals.skipped_rounds += 1
                entries[-1]["notes"].append("no quorum: the round changed nothing on the server")
            self._finish(number, began, entries, self._measure(before))
        if (
            not self.client_metrics
        ):  # resumed after the last round: the same evaluation gives the same figures
            self._assess(self.round, generate=self.experiment.evaluation.generate)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Stand where the checkpoint stood."""
        self._fresh = False
        self.round = checkpoint.round
        self.state = checkpoint.state
        self.totals = Totals(**checkpoint.totals)
        for name, own in checkpoint.personal.items():
            self.clients[name].personal = dict(own.tensors)
            self.clients[name].changed = own.changed
        if self.folder is not None:
            lines = self.folder.history("metrics.jsonl")
            self.first_metrics = {x["name"]: x["value"] for x in lines if x["round"] == 0}
            self.last_metrics = {x["name"]: x["value"] for x in lines if x["round"] == self.round}

    def cohort(self, number: int) -> list[str]:
        """The clients of a round: a seeded draw from the sorted names."""
        names = sorted(self.clients)
        size = max(1, math.ceil(self.experiment.cohort.fraction * len(names)))
        drawn = torch.randperm(len(names), generator=torch_stream(self.experiment.seed, "cohort", number))[
            :size
        ]
        return sorted(names[i] for i in drawn.tolist())

    def _held(self, client: Client, tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {n: t for n, t in tensors.items() if group_of(n) in client.groups}

    def _door(self, number: int, entries: list[dict[str, Any]]) -> Callable[..., list[Reply]]:
        """`ask` of one round: sends each client its part, checks what comes back, writes the ledger."""

        def ask(task: str, payload: Payload, cohort: Sequence[str] | None = None) -> list[Reply]:
            began = time.perf_counter()
            asked = sorted(cohort) if cohort is not None else self.cohort(number)
            down = {c: payload.only(lambda n, c=c: group_of(n) in self.clients[c].groups) for c in asked}  # type: ignore[misc]
            at = Round(number, self.experiment.rounds, self.experiment.seed)
            heard = self.engine.ask(task, down, at, lambda client, seconds: self._heard(number, client))
            allowed = {
                c: frozenset(self.method.scope.pick(self._held(self.clients[c], self.state.shared), "shared"))
                for c in asked
            }
            replies, refused = inspect(
                heard,
                rules=self.experiment.firewall,
                round=number,
                asked=asked,
                reference=self.state.shared,
                allowed=allowed,
            )
            groups_down = sum((p.nbytes_by_group() for p in down.values()), Counter())
            groups_up = sum((r.payload.nbytes_by_group() for r in heard if r.error is None), Counter())
            self.totals.bytes_down += groups_down.total()
            self.totals.bytes_up += groups_up.total()
            self.totals.asked += len(asked)
            self.totals.refused += len(refused)
            entries.append(
                {
                    "round": number,
                    "task": task,
                    "asked": asked,
                    "answered": [r.client for r in replies],
                    "refused": refused,
                    "bytes_up": groups_up.total(),
                    "bytes_down": groups_down.total(),
                    "groups_up": dict(sorted(groups_up.items())),
                    "groups_down": dict(sorted(groups_down.items())),
                    "seconds": round(time.perf_counter() - began, 4),
                    "notes": [
                        f"{r.client}: {r.payload.numbers['truncated']} training samples were cut to fit"
                        for r in replies
                        if r.payload.numbers.get("truncated")
                    ],
                }
            )
            if not replies:
                raise NoReplies
            self._replies = replies
            return replies

        return ask

    def _heard(self, number: int, client: str) -> None:
        self.observe(
            Progress(number, self.experiment.rounds, {}, self.totals, client, len(self.cohort(number)))
        )

    def _quorum(self, entries: Sequence[Mapping[str, Any]]) -> bool:
        share = self.experiment.cohort.quorum
        return all(len(e["answered"]) >= max(1, math.ceil(share * len(e["asked"]))) for e in entries)

    def _measure(self, before: State) -> dict[str, float]:
        """Training losses and what aggregation lost."""
        losses = {
            r.client: float(r.payload.numbers["loss"]) for r in self._replies if "loss" in r.payload.numbers
        }
        found = {f"train/{client}/loss": loss for client, loss in losses.items()}
        if losses:
            found["train/loss"] = sum(losses.values()) / len(losses)
        if self._replies and before.shared:
            found |= restoration(self._replies, self.method.client_weights(self._replies), self.state.shared)
            found["update_norm"] = update_norm(before.shared, self.state.shared)
        return found

    def _finish(
        self,
        number: int,
        began: float,
        entries: Sequence[Mapping[str, Any]],
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """Evaluate where it is due, write the histories, then the checkpoint that makes the round count."""
        metrics = dict(measured or {})
        ends = number in (0, self.experiment.rounds)
        if ends or number % self.experiment.evaluation.every == 0:
            metrics |= self._assess(number, generate=ends and self.experiment.evaluation.generate)
        self.round, self.last_metrics = number, metrics
        self.first_metrics = metrics if number == 0 else self.first_metrics
        self.totals.seconds += time.perf_counter() - began
        if self.folder is not None:
            lines = ({"round": number, "name": n, "value": v} for n, v in metrics.items() if math.isfinite(v))
            self.folder.append("metrics.jsonl", lines)
            self.folder.append("ledger.jsonl", entries)
            personal = {c.name: Personal(c.changed, c.personal) for c in self.clients.values()}
            self.folder.save(Checkpoint(number, self.state, personal, asdict(self.totals)))
        self.observe(Progress(number, self.experiment.rounds, metrics, self.totals))

    def _assess(self, number: int, *, generate: bool) -> dict[str, float]:
        personal = {c.name: c.personal for c in self.clients.values() if c.personal}
        model = self.engine.model
        # Before round 1 every client's model is the start model: evaluated once, not once per client.
        shared = self.state.shared or (model.start if number == 0 else {})
        found = assess(
            model,
            shared,
            personal,
            self.tests,
            self.experiment.evaluation,
            generate=generate,
            everywhere=number == self.experiment.rounds,
        )
        if self.folder is not None and generate:
            self.folder.write_predictions("start" if number == 0 else "end", found.records)
        self.client_metrics = found.clients
        return dict(found.metrics)
