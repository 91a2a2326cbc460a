"""Extrapolates the ledger of a probe to the bytes of the whole run."""

from collections.abc import Mapping, Sequence

from fedloom.experiment.plan.probe import FIRST
from fedloom.experiment.plan.result import Traffic
from fedloom.experiment.settings import Experiment


def traffic(
    experiment: Experiment,
    ledger: Sequence[Mapping[str, object]],
    sent: Mapping[int, Mapping[str, tuple[int, int]]],
    cohorts: Sequence[Sequence[str]],
) -> Traffic | None:
    """The run's bytes from the ledger of the probed rounds; `cohorts` are the clients of all rounds, from round 1."""
    totals: dict[int, tuple[int, int]] = {}
    asked: dict[int, set[str]] = {}
    for entry in ledger:
        number = int(str(entry["round"]))
        up, down = totals.get(number, (0, 0))
        totals[number] = up + int(str(entry["bytes_up"])), down + int(str(entry["bytes_down"]))
        asked.setdefault(number, set()).update(map(str, entry["asked"]))  # type: ignore[call-overload]
    if not totals:
        return Traffic(0, 0, 0, 0, True) if not cohorts else None
    rounds = len(cohorts)
    equal = all(set(c) == set(cohorts[0]) for c in cohorts)
    first = [totals[r] for r in (1, 2, 3) if r in totals]
    grows = equal and len(first) == 3 and first[2] not in first[:2]

    def of(number: int) -> tuple[int, int]:
        if number in totals and (number <= FIRST or not grows):
            return totals[number]
        if grows:
            return tuple(b + (number - 3) * (b - a) for a, b in zip(first[1], first[2], strict=True))  # type: ignore[return-value]
        warm = experiment.method.warm_start
        known = [r for r in totals if warm is None or (r <= warm.rounds) == (number <= warm.rounds)] or list(
            totals
        )
        near = [r for r in known if r > 1 and r % 2 == number % 2] or [r for r in known if r > 1] or known
        reference = near[0]
        if asked[reference] == set(cohorts[number - 1]):
            return totals[reference]
        return _of_cohort(cohorts[number - 1], sent[reference])

    each = [of(r) for r in range(1, rounds + 1)]
    usual = of(min(2, rounds))
    exact = not grows and (equal or len(totals) == rounds)
    return Traffic(*usual, sum(up for up, _ in each), sum(down for _, down in each), exact)


def _of_cohort(names: Sequence[str], sent: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Bytes of these clients; those that were not asked count as the mean of the others."""
    mean = [sum(pair[i] for pair in sent.values()) / max(len(sent), 1) for i in (0, 1)]
    up, down = (sum(sent[n][i] if n in sent else mean[i] for n in names) for i in (0, 1))
    return round(up), round(down)
