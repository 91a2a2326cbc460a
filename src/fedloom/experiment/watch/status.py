"""A run's status from its files and its lock: waiting, preparing, running, ended, stopped, killed or failed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from fedloom.experiment.watch.files import Event, RunFiles

State = Literal["waiting", "preparing", "running", "ended", "stopped", "killed", "failed"]
STARTS, ENDS = ("begun", "resumed"), ("ended", "stopped", "failed")
WAY_ON = "fedloom run --resume goes on from there"
RECENT = 20
"""Rounds whose mean time stands for the rounds to come."""


@dataclass(frozen=True)
class Status:
    """A run's state in a word and in a sentence; times are seconds since 1970."""

    state: State
    headline: str
    done: int = 0
    """Finished rounds; round 0, before training, is none."""
    rounds: int = 0
    doing: str | None = None
    each: float | None = None
    """Seconds of a round, the mean of the last ones; None before two rounds have ended."""
    last: float | None = None
    """When the last round ended."""
    worked: float = 0.0
    """Seconds of work so far; in a running run without those `since` it was begun or resumed."""
    since: float | None = None
    history: Sequence[tuple[float, str]] = ()
    """When the run was begun, resumed and stopped, in words."""
    seams: Sequence[int] = ()
    """The rounds after which it was resumed."""
    notes: Sequence[str] = field(default=())

    def fields(self) -> dict[str, Any]:
        """The status as JSON values."""
        return {**vars(self), "history": [list(entry) for entry in self.history]}


def status_of(files: RunFiles) -> Status:
    """The run's status."""
    if not files.begun:
        if files.locked:
            return Status("preparing", "Getting ready: data and model are being loaded")
        return Status("waiting", "No run has begun in this folder yet")
    events, entries = files.events.records, files.ledger.records
    rounds = _whole(files.settings().get("rounds"))
    measured = [max(values) for values in files.series().values()]
    done = max([*measured, *(e.round for e in entries[-1:])], default=-1)
    state = _state(files, events)
    sittings = _sittings(events)
    spent = [_last_sign(sitting, files) - sitting[0].time for sitting in sittings]
    running = state == "running"
    summary = files.summary.value
    worked = (
        summary.seconds if summary is not None and not sittings else sum(spent[:-1] if running else spent)
    )
    last = next((e.time for e in reversed(events) if e.event == "round"), None)
    seams = [e.after for e in events if e.event == "resumed"]
    return Status(
        state,
        _headline(state, files, done, rounds, seams),
        max(done, 0),
        rounds,
        files.doing.value.text if running and files.doing.value is not None else None,
        _each(sittings[-1] if sittings else ()),
        last,
        worked or sum(e.seconds for e in entries),
        sittings[-1][0].time if running and sittings else None,
        _history(sittings, files, running=running),
        seams,
        [*_shortfalls(files), *files.accepted(), *files.unreadable()],
    )


def _state(files: RunFiles, events: Sequence[Event]) -> State:
    last = events[-1].event if events else ""
    if files.lock_is_new and files.summary.value is None:
        return "preparing"
    if last == "failed":
        return "failed"
    if last == "stopped":
        return "stopped"
    if files.summary.value is not None:
        return "ended"
    return "running" if files.locked else "killed"


def _headline(state: State, files: RunFiles, done: int, rounds: int, seams: Sequence[int]) -> str:
    at = "before round 1" if done < 1 else f"after round {done} of {rounds}"
    why = next((e.why for e in reversed(files.events.records) if e.why), "")
    if state == "ended":
        status = files.summary.value.status if files.summary.value is not None else ""
        text = f"Ended: {status}"
    elif state == "failed":
        text = f"Failed {at}: {why}"
    elif state == "stopped":
        text = f"Stopped {at} ({why}); {WAY_ON}"
    elif state == "killed":
        text = f"Killed {at}: its process is gone without a word; {WAY_ON}"
    elif state == "preparing":
        text = f"Getting ready to go on {at}"
    elif done < 0:
        text = f"Running: before training, {rounds} rounds to come"
    else:
        text = (
            f"Running: round {min(done + 1, rounds)} of {rounds}" if done < rounds else "Running: at its end"
        )
    if not seams:
        return text
    times = "once, " if len(seams) == 1 else f"{len(seams)} times, last "
    return f"{text}; resumed {times}{_after(seams[-1])}"


def _sittings(events: Sequence[Event]) -> list[list[Event]]:
    """The events of each process that worked on the run."""
    sittings: list[list[Event]] = []
    for event in events:
        if event.event in STARTS or not sittings:
            sittings.append([])
        sittings[-1].append(event)
    return sittings


def _last_sign(sitting: Sequence[Event], files: RunFiles) -> float:
    """When a process was last heard of."""
    own = sitting[-1].time
    doing = files.doing.value
    is_last = sitting[-1] is files.events.records[-1]
    return max(own, doing.time) if is_last and doing is not None and sitting[-1].event not in ENDS else own


def _each(sitting: Sequence[Event]) -> float | None:
    ends = [event.time for event in sitting if event.event == "round"][-RECENT - 1 :]
    return fmean(b - a for a, b in pairwise(ends)) if len(ends) > 1 else None


def _history(
    sittings: Sequence[Sequence[Event]], files: RunFiles, *, running: bool
) -> list[tuple[float, str]]:
    lines: list[tuple[float, str]] = []
    for number, sitting in enumerate(sittings):
        first, last = sitting[0], sitting[-1]
        words = f"resumed {_after(first.after)}" if first.event == "resumed" else "begun"
        lines.append((first.time, words))
        if last.event in ENDS:
            lines.append((last.time, f"{last.event}: {last.why}" if last.why else last.event))
        elif number < len(sittings) - 1 or not (running or files.summary.value):
            lines.append((_last_sign(sitting, files), "last sign of a process that was killed"))
    return lines


def _after(round: int) -> str:
    return f"after round {round}" if round > 0 else "before round 1"


def _shortfalls(files: RunFiles) -> list[str]:
    """The shortfalls of the rounds so far; at the end the status says them."""
    if files.summary.value is not None:
        return []
    entries = files.ledger.records
    asked = sum(len(e.asked) for e in entries)
    counts = {
        "refused": sum(len(e.refused) for e in entries),
        "left out, wholly or in part, by the robust stage": sum(len(e.left_out) for e in entries),
        "not sent: their clients did not answer": sum(
            len({*e.asked} - {*e.answered, *e.refused}) for e in entries
        ),
    }
    return [f"Used fewer updates than asked: {n} of {asked} were {what}." for what, n in counts.items() if n]


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
