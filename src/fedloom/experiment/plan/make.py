"""Makes the plan of one run: reads its data, loads its model, and probes it."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from fedloom.experiment.clients import load_clients
from fedloom.experiment.plan import memory
from fedloom.experiment.plan.advice import advice
from fedloom.experiment.plan.contents import adapted_groups, client_kinds, loaded_parts
from fedloom.experiment.plan.estimate import evaluation_peak, missing_bytes, seconds
from fedloom.experiment.plan.measured import Measured
from fedloom.experiment.plan.probe import FIRST, SURVEY, Probe
from fedloom.experiment.plan.result import KindData, Memory, Plan, Seconds
from fedloom.experiment.plan.stopwatch import Stopwatch, Time
from fedloom.experiment.plan.survey import Lengths, survey, together
from fedloom.experiment.plan.time_limit import time_limit
from fedloom.experiment.plan.traffic import traffic
from fedloom.experiment.settings import Experiment
from fedloom.experiment.workers import about_workers, in_one_process
from fedloom.federation import cohort_size
from fedloom.federation.loop import Federation
from fedloom.models.training.settings import local_steps

How = Literal["none", "short", "whole"]
"""A probe of no rounds, of a part of them, or of whole ones."""


def make_plan(experiment: Experiment, began: float, *, how: How, limit: float) -> Plan:
    """The plan of an experiment. `began`: when this process was started (`time.time`); `limit`: seconds for it all.

    Nothing but a temporary folder is written, which is removed. Raises ExperimentError as the run would.
    """
    watch, until = Stopwatch(began), began + limit
    beside, experiment = about_workers(experiment), in_one_process(experiment)
    sources = load_clients(experiment)
    with TemporaryDirectory(prefix="fedloom-plan-", ignore_cleanup_errors=True) as folder:
        probe = Probe(experiment, sources, Path(folder), watch, how != "whole")
        federation = probe.build()
        lengths, tests, prepare = _surveyed(probe, federation, min(SURVEY, limit / 4))
        plan, measured = _contents(federation, lengths, tests), probe.measured
        plan = replace(plan, notes=[*plan.notes, *beside])
        if how == "none":
            probe.dry(lengths)
            plan = _with_traffic(plan, federation, measured, "not measured, by --no-probe")
            return replace(plan, advice=advice(plan, experiment))
        with time_limit(until - time.time()) as timer:
            probe.run(lengths)
        measured.stopped = timer.over
        train = together(list(lengths.values()))
        times = seconds(experiment, measured, federation.rounds, tests, train, prepare)
        plan = _with_traffic(plan, federation, measured, _words(measured))
        device = federation.engine.model.device
        extra = round(missing_bytes(experiment, measured, tests, train))
        highest = measured.peaks | {"evaluation": evaluation_peak(experiment, measured)}
        peaks = {name: size + extra for name, size in highest.items()}
        plan = replace(
            plan,
            seconds=times,
            memory=Memory(
                measured.peaks.get("start", 0),
                peaks.get("training", 0),
                peaks.get("evaluation", 0),
                max(peaks.values(), default=0),
                cohort_size.memory(device),
                memory.free(device),
                device.type,
            ),
            whole_probe=None if times is None else _whole_probe(times, federation.rounds),
            stopped=timer.over,
        )
        return replace(plan, notes=[*plan.notes, *_faults(measured)], advice=advice(plan, experiment))


def _surveyed(
    probe: Probe, federation: Federation, limit: float
) -> tuple[Mapping[str, Lengths], Lengths, Time]:
    """The lengths of the clients' training samples and of all test samples, and the time to prepare a sample."""
    began = probe.watch.now()
    lengths = probe.lengths(limit)
    evaluated, model = set(federation.evaluator.tests.of), federation.engine.model
    samples = [s for source in probe.sources if source.name in evaluated for s in source.test]
    tests = survey(samples, model.prepare, model, None, time.monotonic() + limit)
    count = sum(part.looked_at for part in lengths.values()) + tests.looked_at
    return lengths, tests, (probe.watch.now() - began) * (1 / max(count, 1))


def _contents(federation: Federation, lengths: Mapping[str, Lengths], tests: Lengths) -> Plan:
    """The plan without anything that is measured."""
    experiment, model = federation.experiment, federation.engine.model
    assert isinstance(experiment, Experiment)  # noqa: S101
    kinds = client_kinds(model, federation.clients, federation.method.scope)
    training, rounds = experiment.training, federation.rounds

    def steps(client: str) -> int:
        count = lengths[client].count
        share = -(-count // rounds) if training.one_pass and rounds else count
        return local_steps(share, training) if share else 0

    data = [
        KindData(
            replace(together([lengths[c] for c in kind.clients]), probed=()),
            sum(len(federation.clients[c].data.test) for c in kind.clients),
            sum(steps(c) for c in kind.clients),
        )
        for kind in kinds
    ]
    return Plan(
        experiment.name,
        experiment.row or federation.method.title,
        experiment.across,
        federation.method.name,
        rounds,
        len(federation.cohort(1)) if rounds else 0,
        experiment.engine.cohort if isinstance(experiment.engine.cohort, int) else 1,
        loaded_parts(model, federation.tools),
        adapted_groups(model),
        kinds,
        data,
        [None] * len(kinds),
        replace(tests, probed=()),
        sum(steps(c) for number in range(1, rounds + 1) for c in federation.cohort(number)),
        None,
        None,
        None,
        "",
        list(model.notes),
        (),
    )


def _with_traffic(plan: Plan, federation: Federation, measured: Measured, words: str) -> Plan:
    experiment = federation.experiment
    assert isinstance(experiment, Experiment)  # noqa: S101
    cohorts = [federation.cohort(number) for number in range(1, federation.rounds + 1)]
    usual = measured.sent.get(min(2, max(measured.sent, default=0)), {})
    per_client = [next((usual[c] for c in kind.clients if c in usual), None) for kind in plan.kinds]
    counted = traffic(experiment, measured.ledger, measured.sent, cohorts)
    return replace(plan, traffic=counted, per_client=per_client, probed=words)


def _whole_probe(times: Seconds, rounds: int) -> float:
    """Seconds of a probe that leaves nothing of its rounds out."""
    return (times.whole - times.round * max(rounds - FIRST - 1, 0)).clock


def _words(measured: Measured) -> str:
    """The rounds that were probed, whole or in part."""
    rounds = ", ".join(str(r) for r in sorted(measured.rounds) if r > 0) or "0"
    part = "in part" if measured.shortened else "in full"
    return f"rounds {rounds} {part}" + ("; ended by --limit, the rest is guessed" if measured.stopped else "")


def _faults(measured: Measured) -> list[str]:
    """The first refusal of a client's answer in the probe, as a sentence."""
    for entry in measured.ledger:
        for client, reason in dict(entry["refused"]).items():
            return [f"in round {entry['round']} of the probe the answer of {client} was refused: {reason}"]
    return []
