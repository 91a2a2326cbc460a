"""Extrapolates a probe to the whole run: seconds and memory."""

from collections.abc import Callable, Mapping, Sequence

from fedloom.core.shares import at_most
from fedloom.experiment.plan.measured import Measured
from fedloom.experiment.plan.probe import FIRST
from fedloom.experiment.plan.result import Seconds
from fedloom.experiment.plan.stopwatch import Time
from fedloom.experiment.plan.survey import Lengths
from fedloom.experiment.settings import Experiment


def seconds(
    experiment: Experiment, measured: Measured, rounds: int, tests: Lengths, train: Lengths, prepare: Time
) -> Seconds | None:
    """The run's times, or None where no round was measured. `prepare`: time to prepare one sample.

    Where the probe was stopped, later evaluations count as the first one, and the run's end as nothing.
    """
    if 0 not in measured.rounds or (rounds and 1 not in measured.rounds):
        return None
    share = measured.all_tests / max(measured.tests, 1)
    work = {r: _round(measured, r) for r in measured.rounds if r > 0}
    start = measured.start
    if measured.shortened:
        start += prepare * (measured.all_tests - measured.tests)
        if 1 in work:
            work[1] += prepare * (train.count - sum(1 for _ in train.probed))
    usual = _usual(work, experiment, rounds)
    between = [t for (r, generate), t in measured.evaluations.items() if 0 < r < rounds and not generate]
    generate = experiment.evaluation.generate
    first = measured.evaluations.get((0, generate), Time()) * share
    one = _mean(between) * share if between else first
    last = measured.evaluations.get((rounds, generate))
    if last is None:
        last = first * (1 / share)
        if between and (rounds, False) in measured.evaluations:
            last += measured.evaluations[rounds, False] - _mean(between)
    count = sum(1 for r in range(1, rounds) if r % experiment.evaluation.every == 0)
    controls = measured.controls * share
    evaluations = first + one * count + (last * share if rounds else Time()) + controls
    rest = measured.rounds[0] + ((measured.end or Time()) - measured.controls)
    total = sum((usual(r) for r in range(1, rounds + 1)), Time())
    later = usual(min(2, rounds)) if rounds else Time()
    return Seconds(
        start, usual(1) if rounds else Time(), later, one, evaluations, start + rest + total + evaluations
    )


def _round(measured: Measured, number: int) -> Time:
    """A round at its whole training."""
    training = measured.training.get(number)
    if training is None or not measured.shortened:
        return measured.rounds[number]
    known = {
        k: (r.by_kind[k], float(r.done[k])) for r in measured.training.values() for k in r.done if r.done[k]
    }
    return measured.rounds[number] - training.time + training.whole(known)


def _usual(work: Mapping[int, Time], experiment: Experiment, rounds: int) -> Callable[[int], Time]:
    """Function from a round's number to its time: its own, or that of a measured round of the same kind."""
    later = [t for r, t in work.items() if 1 < r <= FIRST]

    def kind(number: int) -> tuple[str, bool]:
        training = experiment.training
        first = training.schedule == "rounds" and number <= at_most(training.rho, rounds)
        return experiment.method_in(number).name, first

    def of(number: int) -> Time:
        if number in work:
            return work[number]
        if rounds in work and kind(number) == kind(rounds) != kind(FIRST):
            return work[rounds]
        return _mean(later or list(work.values()))

    return of


def _mean(times: Sequence[Time]) -> Time:
    return sum(times, Time()) * (1 / len(times)) if times else Time()


def evaluation_peak(experiment: Experiment, measured: Measured) -> int:
    """Bytes of an evaluation in batches of the run's size, from those of the probe's."""
    peak, start = measured.peaks.get("evaluation", 0), measured.peaks.get("start", 0)
    batch = min(experiment.evaluation.batch_size, measured.all_tests)
    if not measured.shortened or batch <= measured.tests:
        return peak
    return max(peak, round(start + measured.rises.get("evaluation", 0) * batch / max(measured.tests, 1)))


def missing_bytes(experiment: Experiment, measured: Measured, tests: Lengths, train: Lengths) -> float:
    """Bytes of the prepared samples and features that the run holds and the shortened probe did not."""
    if not measured.shortened:
        return 0.0
    limit = experiment.engine.memory * 10**6
    probed = len(train.probed) * (train.bytes / train.looked_at if train.looked_at else 0.0)
    examples = min(train.whole_bytes, limit) - min(probed, limit)
    held = tests.whole_bytes * measured.tests / max(measured.all_tests, 1)
    samples = measured.tests + len(train.probed)
    features = measured.features * ((measured.all_tests + train.count) / max(samples, 1))
    return (
        max(0.0, examples)
        + max(0.0, tests.whole_bytes - held)
        + max(0.0, min(features, limit) - measured.features)
    )
