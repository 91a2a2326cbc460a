"""The probe: the first rounds, the last round and the end of a run, in a temporary folder, shortened where a round is long.

A shortened probe takes few local steps of the clients and one batch of test samples, spread over their lengths up to the
longest one, and has everything else at its real size: all clients, all tensors, aggregation, firewall and checkpoints.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedloom.data.client_data import ClientData
from fedloom.experiment import provenance
from fedloom.experiment.build import build_from
from fedloom.experiment.plan.measured import Measured, NoEvaluator, TimedEvaluator
from fedloom.experiment.plan.probe_engine import ProbeEngine
from fedloom.experiment.plan.stopwatch import Stopwatch, Time
from fedloom.experiment.plan.survey import Lengths, survey, thinned
from fedloom.experiment.run import finish
from fedloom.experiment.settings import Experiment
from fedloom.federation.local_engine import LocalEngine
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Progress
from fedloom.federation.run_folder import RunFolder
from fedloom.privacy.robust.attacks import Backdoor
from fedloom.tasks.base import Evaluator, Snapshot, Trigger

STEPS = 4
"""Local steps of a client in a shortened probe: a quarter of a round trains the encoder where tau is 0.25."""
FIRST = 3
"""Rounds from the first on that a probe runs: the first fills caches, and methods may take turns."""
LARGE, FEW = 30_000_000, 16
"""Parameters from which on a shortened probe evaluates so few test samples."""
SURVEY = 15.0
"""Seconds for looking at samples; beyond them, their lengths are those of a part."""


class _Enough(BaseException):
    """The rounds that the probe wanted are over."""


@dataclass
class Probe:
    """One probe of an experiment with these clients. `shortened`: whether it takes part of the samples and steps only."""

    experiment: Experiment
    sources: Sequence[ClientData]
    folder: Path
    watch: Stopwatch
    shortened: bool
    measured: Measured = field(default_factory=Measured)

    def build(self) -> Federation:
        """The federation, on all training samples and, if shortened, some test samples of every client."""
        sources = (
            thinned(self.sources, self.experiment.evaluation.batch_size) if self.shortened else self.sources
        )
        folder = RunFolder(self.folder)
        folder.create()
        self.federation = build_from(self.experiment, sources, folder, self._observe)
        self.federation.check()
        model = self.federation.engine.model
        if self.shortened and sum(p.numel() for p in model.root.parameters()) > LARGE:
            self.federation.evaluator = self._smaller(FEW)
        self.watch.device = model.device
        settings = self.federation.experiment
        assert isinstance(settings, Experiment)  # noqa: S101
        folder.write_experiment(settings.located().as_dict() | {"versions": provenance.versions()})
        provenance.gather(settings, self.sources, model)
        measured, tests = self.measured, self.federation.evaluator.tests
        evaluated = set(tests.of)
        measured.shortened, measured.tests = self.shortened, len(tests.samples)
        measured.all_tests = sum(len(s.test) for s in self.sources if s.name in evaluated)
        measured.start = self.watch.now()
        self.watch.note("start")
        return self.federation

    def lengths(self, seconds: float = SURVEY) -> dict[str, Lengths]:
        """The lengths of the clients' training samples."""
        federation, model = self.federation, self.federation.engine.model
        training = federation.experiment.training
        keep = STEPS * training.batch_size * (federation.experiment.rounds if training.one_pass else 1)
        until, found = time.monotonic() + seconds, {}
        for left, (name, client) in zip(
            range(len(federation.clients), 0, -1), federation.clients.items(), strict=True
        ):
            now = time.monotonic()
            found[name] = survey(
                client.data.train,
                lambda sample, name=name: model.prepare(sample, name),  # type: ignore[misc]
                model,
                keep if self.shortened else None,
                now + max(0.0, until - now) / left,
            )
        return found

    def run(self, lengths: Mapping[str, Lengths]) -> Measured:
        """Run the rounds and the end. Leaves what was measured in `measured` when it is stopped by TimeUp."""
        federation, measured = self.federation, self.measured
        engine = federation.engine
        assert isinstance(engine, LocalEngine)  # noqa: S101
        if self.shortened:
            self._shorten(lengths)
        self.engine = ProbeEngine(engine, self.watch, lengths, STEPS if self.shortened else None)
        self.timed = TimedEvaluator(federation.evaluator, self.watch, measured)
        federation.engine, federation.evaluator = self.engine, self.timed
        measured.training, measured.sent, measured.peaks = (
            self.engine.rounds,
            self.engine.sent,
            self.watch.peaks,
        )
        self._last = self.watch.now()
        self._run_to(min(FIRST, federation.rounds))
        if federation.rounds > FIRST and not self.shortened:
            federation.round = federation.rounds - 1
            self._run_to(federation.rounds)
        elif federation.rounds > FIRST:
            self._assess_now(last=True, generate=False)
        if federation.rounds > FIRST and federation.experiment.evaluation.every < federation.rounds:
            self._assess_now(last=False, generate=False)
        began = self.watch.now()
        finish(federation)
        measured.end = self.watch.now() - began
        self.watch.note("rest")
        measured.features = federation.engine.model.store.held
        measured.ledger = self._ledger()
        return measured

    def dry(self, lengths: Mapping[str, Lengths]) -> None:
        """Exchange the first rounds' messages without training or evaluation, for their bytes; nothing is timed.

        A method with server models is left out: its round is that training.
        """
        federation, engine = self.federation, self.federation.engine
        assert isinstance(engine, LocalEngine)  # noqa: S101
        if federation.tools is not None:
            return
        self._shorten(lengths)
        self.engine = ProbeEngine(engine, self.watch, lengths, 0)
        self.timed = NoEvaluator(federation.evaluator, self.watch, self.measured)
        federation.engine, federation.evaluator = self.engine, self.timed
        self._last = self.watch.now()
        self._run_to(min(FIRST, federation.rounds))
        self.measured.sent = self.engine.sent
        self.measured.ledger = self._ledger()

    def _smaller(self, tests: int) -> Evaluator:
        """The evaluator on so many test samples."""
        federation, experiment = self.federation, self.experiment
        of = federation.evaluator.tests.of
        tested = {s.name: s.test for s in thinned(self.sources, tests) if s.name in set(of)}
        attack = experiment.attack
        trigger = Trigger(attack.answer, attack.patch) if isinstance(attack, Backdoor) else None
        return experiment.task.evaluator(
            tested, federation.engine.model, experiment.setup, federation.tools, trigger
        )

    def _ledger(self) -> list[dict[str, Any]]:
        return [] if self.federation.folder is None else self.federation.folder.history("ledger.jsonl")

    def _shorten(self, lengths: Mapping[str, Lengths]) -> None:
        """Leave every client the samples that a shortened probe takes."""
        for name, client in self.federation.clients.items():
            client.data = replace(client.data, train=[client.data.train[i] for i in lengths[name].probed])

    def _run_to(self, number: int) -> None:
        self._until = number
        try:
            self.federation.run()
        except _Enough:
            return

    def _observe(self, progress: Progress) -> None:
        if progress.client is not None:
            return
        now = self.watch.now()
        self.measured.rounds[progress.round] = now - self._last - self.timed.spent
        self._last, self.timed.spent = now, Time()
        if progress.round >= self._until and progress.round < self.federation.rounds:
            raise _Enough

    def _assess_now(self, *, last: bool, generate: bool) -> None:
        """Evaluate the present models once more, as a round in between, or the last one, would."""
        federation = self.federation
        number = federation.rounds if last else 2
        if (number, generate) in self.measured.evaluations:
            return
        self.timed.assess(
            Snapshot(
                number,
                last,
                generate,
                federation.global_model(),
                federation.personal_models,
                federation.state,
                self.folder,
                federation.experiment.engine.cohort_limit,
            )
        )
        store = federation.engine.model.store
        if not store.constant:  # as after a round
            store.clear()
