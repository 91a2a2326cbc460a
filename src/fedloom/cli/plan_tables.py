"""The tables of `fedloom plan`, at most 80 columns wide."""

from collections.abc import Iterator, Sequence

from rich.text import Text

from fedloom.cli.output import out, plain_table
from fedloom.experiment.plan.result import Plan
from fedloom.experiment.plan.stopwatch import Time
from fedloom.experiment.report.units import human_bytes

WIDTH = 80
"""Widest table in columns."""


def show(plan: Plan, runs: int) -> None:
    """Print one run's plan."""
    seeds = f", {runs} seeds" if runs > 1 else ""
    column = f", {plan.across}" if plan.across else ""
    out.print(
        Text(f"{plan.name}: {plan.row}{column} ({plan.method}), {plan.rounds} rounds{seeds}", style="bold"),
        width=WIDTH,
    )
    for header, rows in tables(plan):
        if rows:
            out.print()
            out.print(plain_table(header, list(rows), min(WIDTH, out.width)), width=WIDTH)
    out.print()
    measured = f"Time and memory: {plan.probed}."
    for sentence in (measured, *plan.advice, *plan.notes, fits(plan)):
        out.print(Text(sentence), width=WIDTH)
    out.print()


def tables(plan: Plan) -> Iterator[tuple[tuple[str, ...], Sequence[tuple[str, ...]]]]:
    """The tables of a plan, as headers and rows."""
    yield (
        ("loaded", "class", "parameters", "dtype", "memory"),
        [(p.name, p.kind, f"{p.parameters:,}", p.dtype, human_bytes(p.bytes)) for p in plan.parts],
    )
    yield (
        ("adapted", "layers", "in", "rank"),
        [(a.group, str(a.layers), a.places, a.rank) for a in plan.adapted],
    )
    groups = {group: role for kind in plan.kinds for group, role in kind.groups.items()}
    yield (
        ("tensors of", "role", "parameters"),
        [(g, role, f"{size:,}") for g, (role, size) in sorted(groups.items())],
    )
    yield (
        ("clients", "holding", "trained", "shared", "personal", "frozen"),
        [
            (str(len(k.clients)), k.name, *(f"{n:,}" for n in (k.trained, k.shared, k.personal, k.frozen)))
            for k in plan.kinds
        ],
    )
    yield (
        ("data of", "training", "cut", "mean length", "longest", "steps a round"),
        [
            (
                k.name,
                str(d.train.count),
                _cut(d.train.cut, d.train.looked_at, d.train.count),
                f"{d.train.mean:.0f}",
                str(d.train.longest),
                str(d.steps),
            )
            for k, d in zip(plan.kinds, plan.data, strict=True)
        ]
        + [
            (
                "test",
                str(plan.tests.count),
                _cut(plan.tests.cut, plan.tests.looked_at, plan.tests.count),
                f"{plan.tests.mean:.0f}",
                str(plan.tests.longest),
                "",
            )
        ],
    )
    yield ("messages", "up", "down"), list(_messages(plan))
    yield ("expected", "", ""), list(_expected(plan))


def _cut(cut: int, looked_at: int, count: int) -> str:
    return str(cut) if looked_at == count else f"{cut} of {looked_at} seen"


def _messages(plan: Plan) -> Iterator[tuple[str, str, str]]:
    for kind, pair in zip(plan.kinds, plan.per_client, strict=True):
        if pair is not None:
            yield f"a client with {kind.name}", human_bytes(pair[0]), human_bytes(pair[1])
    if plan.traffic is None:
        yield "a round: not measured", "", ""
        return
    about = "" if plan.traffic.exact else "about "
    yield (
        f"a round, {plan.asked} clients",
        about + human_bytes(plan.traffic.up),
        about + human_bytes(plan.traffic.down),
    )
    yield "the run", about + human_bytes(plan.traffic.whole_up), about + human_bytes(plan.traffic.whole_down)


def _expected(plan: Plan) -> Iterator[tuple[str, str, str]]:
    memory, times = plan.memory, plan.seconds
    yield "local steps", f"{plan.steps:,}", f"{plan.cohort} clients at a time"
    if memory is not None:
        yield "memory once loaded", human_bytes(memory.start), memory.device
        yield "in training", human_bytes(memory.training), ""
        yield "in evaluation", human_bytes(memory.evaluation), ""
        yield (
            "at the highest",
            human_bytes(memory.peak),
            f"of {human_bytes(memory.there)}, {human_bytes(memory.free)} free",
        )
    if times is not None:
        yield "start", seconds(times.start), "imports, data, model"
        yield "a round", seconds(times.round), f"the first {seconds(times.first_round)}"
        yield (
            "evaluations",
            seconds(times.evaluations),
            f"each {seconds(times.evaluation)}" if times.evaluation.clock else "",
        )
        yield "the run", seconds(times.whole), f"{times.whole.processor:.0f} s of processor time"


def seconds(time: Time) -> str:
    """A duration by the clock."""
    value = time.clock
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def fits(plan: Plan) -> str:
    """Whether the run fits, in one sentence."""
    memory = plan.memory
    if memory is None:
        return "Whether it fits is not known: time and memory were not measured."
    if memory.there and memory.peak > memory.there:
        return f"It does not fit: {human_bytes(memory.peak)} are expected, and there are {human_bytes(memory.there)}."
    return f"It fits: {human_bytes(memory.peak)} of {human_bytes(memory.there)} of memory."


def whole_file(plans: Sequence[tuple[Plan, int]], jobs: int) -> str:
    """The sum over a file's runs, in one sentence."""
    runs = sum(count for _, count in plans)
    known = [(p.seconds.whole, count) for p, count in plans if p.seconds is not None]
    if len(known) < len(plans):
        return f"{runs} runs."
    total = sum((whole * count for whole, count in known), Time())
    peak = max((p.memory.peak for p, _ in plans if p.memory is not None), default=0)
    beside = f", {jobs} side by side, {human_bytes(peak * jobs)} of memory" if jobs > 1 else ""
    return f"{runs} runs: {seconds(total * (1 / jobs))}{beside}."
