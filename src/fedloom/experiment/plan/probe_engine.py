"""The engine of a probe: the local engine, which measures its training and can leave most of it out."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil

import torch
from torch import Tensor

from fedloom.core.payload import Payload, Reply
from fedloom.experiment.plan.stopwatch import Stopwatch, Time
from fedloom.experiment.plan.survey import Lengths
from fedloom.federation.local_engine import LocalEngine
from fedloom.federation.settings import Round
from fedloom.methods import Method
from fedloom.models.training.loop import LocalJob, Outcome
from fedloom.models.training.settings import Training, local_steps

LONGEST = 6.0
"""Seconds of training after which a shortened probe trains only clients of a kind that it has not met."""
Key = frozenset[str]
"""Groups of tensors that clients trained together hold."""


@dataclass
class RoundTraining:
    """One round's training: time measured, and work done and due by kind of client, in token positions."""

    time: Time = field(default_factory=Time)
    by_kind: dict[Key, Time] = field(default_factory=dict)
    done: Counter[Key] = field(default_factory=Counter)
    due: Counter[Key] = field(default_factory=Counter)

    def whole(self, known: Mapping[Key, tuple[Time, float]]) -> Time:
        """The time of all work that is due. `known`: time and work of kinds measured in any round."""
        total = Time()
        everything = (sum((t for t, _ in known.values()), Time()), sum(w for _, w in known.values()))
        for kind, due in self.due.items():
            own = (
                (self.by_kind[kind], self.done[kind]) if self.done.get(kind) else known.get(kind, everything)
            )
            total += own[0] * (due / own[1] if own[1] else 0.0)
        return total


class ProbeEngine(LocalEngine):
    """Asks clients like the local engine; with `steps`, clients take so many local steps at most, and most take none.

    A client that takes none answers with its start tensors plus the last measured change, so that exchange, firewall and
    aggregation have their real work. `counts`: number of training samples by client in the run; `lengths`: their lengths.
    """

    def __init__(
        self, engine: LocalEngine, watch: Stopwatch, lengths: Mapping[str, Lengths], steps: int | None
    ) -> None:
        super().__init__(
            engine.model,
            engine.clients,
            engine.training,
            wire=engine.wire,
            cohort=engine.cohort,
            limits=engine.limits,
        )
        self.watch, self.lengths, self.steps = watch, lengths, steps
        self.rounds: dict[int, RoundTraining] = {}
        self.sent: dict[int, dict[str, tuple[int, int]]] = {}
        """By round and client: bytes up and down."""
        self._changes: dict[str, Tensor] = {}
        self._spent = Time()

    def ask(
        self,
        method: Method,
        request: str,
        payloads: Mapping[str, Payload],
        at: Round,
        done: Callable[[str, float], None] = lambda client, seconds: None,
        received: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> list[Reply]:
        """`LocalEngine.ask`, which also counts each client's bytes."""
        sent = self.sent.setdefault(at.number, {})

        def counted(reply: Reply) -> Reply:
            up, down = sent.get(reply.client, (0, 0))
            sent[reply.client] = (
                up + (reply.payload.nbytes if reply.error is None else 0),
                down + payloads[reply.client].nbytes,
            )
            return received(reply)

        return super().ask(method, request, payloads, at, done, counted)

    def _train(self, jobs: Mapping[str, LocalJob]) -> dict[str, Outcome | Exception]:
        if not jobs:
            return {}
        first = next(iter(jobs.values()))
        record = self.rounds.setdefault(first.round, RoundTraining())
        kind = frozenset(g for name in jobs for g in self.clients[name].groups)
        if self.steps == 0:
            return {name: self._untrained(job) for name, job in jobs.items()}
        record.due[kind] += round(sum(self._work(j, j.training, whole=True) for j in jobs.values()))
        if self.steps is None:
            short = jobs
        elif self._spent.clock > LONGEST and any(kind in r.done for r in self.rounds.values()):
            return {name: self._untrained(job) for name, job in jobs.items()}
        else:
            short = {n: replace(j, training=self._shortened(j)) for n, j in jobs.items()}
        began = self.watch.now()
        with self.watch.phase("training"):
            outcomes = super()._train(short)
        took = self.watch.now() - began
        record.time += took
        self._spent += took
        record.by_kind[kind] = record.by_kind.get(kind, Time()) + took
        record.done[kind] += round(
            sum(self._work(j, j.training, whole=self.steps is None) for j in short.values())
        )
        self._remember(first, outcomes[first.client])
        return outcomes

    def _shortened(self, job: LocalJob) -> Training:
        whole = local_steps(self._samples(job, whole=True), job.training)
        return job.training.model_copy(update={"steps": min(self.steps or whole, max(whole, 1))})

    def _samples(self, job: LocalJob, *, whole: bool) -> int:
        """Samples of a client in one round: of the run, or of the probe."""
        if not whole:
            return len(job.chosen)
        count = self.lengths[job.client].count
        return ceil(count / job.rounds) if job.training.one_pass else count

    def _work(self, job: LocalJob, training: Training, *, whole: bool) -> float:
        """Token positions of a client's training in one round."""
        samples = self._samples(job, whole=whole)
        if not samples:
            return 0.0
        mean = self.lengths[job.client].mean if whole else self.lengths[job.client].probed_mean
        per_step = samples / ceil(samples / training.batch_size)
        return local_steps(samples, training) * per_step * mean

    def _remember(self, job: LocalJob, outcome: Outcome | Exception) -> None:
        if isinstance(outcome, Outcome) and self.steps is not None:
            start = {**self.model.start, **job.start}
            self._changes |= {
                n: t - start[n] for n, t in outcome.tensors.items() if t.shape == start[n].shape
            }

    def _untrained(self, job: LocalJob) -> Outcome:
        """The outcome of a client that is not trained."""
        names = sorted({n for stage in job.stages() for n in job.names_in(stage.parts)})
        tensors = {}
        for name in names:
            tensor = self.model.tensors[name].detach()
            start = job.start.get(name, self.model.start[name])
            whole = start if start.shape == tensor.shape else self.model.start[name]
            tensors[name] = whole + self._changes.get(name, torch.zeros_like(whole))
        gradients = {n: torch.zeros_like(t) for n, t in tensors.items()} if job.gradients else {}
        return Outcome(tensors, 0.0, job.steps, gradients)
