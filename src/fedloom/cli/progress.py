"""Progress of running experiments: a bar per run in a terminal, else one plain line per round."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from fedloom.core.terminal import visible
from fedloom.core.terminal_tables import NBSP, wrapped
from fedloom.data.media import Checking, checking
from fedloom.experiment.report.columns import titled
from fedloom.experiment.report.units import human_bytes, show
from fedloom.experiment.settings import Experiment
from fedloom.federation.progress import Observer, Progress


class Bars(Bar):
    """A bar per piece of work: its name, the bar with its time, and what is being done; none of them is cut."""

    def __init__(self, out: Console, *, transient: bool) -> None:
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TimeElapsedColumn())
        super().__init__(*columns, TextColumn("{task.fields[left]}"), console=out, transient=transient)

    def get_renderables(self) -> Iterator[RenderableType]:
        """The shown tasks, three lines each where nothing has to be wrapped."""
        for task in self.tasks:
            if task.visible:
                yield Text(task.description, style="bold")
                yield self.make_tasks_table([task])
                yield wrapped(task.fields["state"], self.console.width)


@contextmanager
def watching(experiments: Sequence[Experiment], out: Console) -> Iterator["Watcher"]:
    """A watcher for these runs; the bars advance with every client update, not only with rounds."""
    watcher = Watcher(experiments, out)
    if not out.is_terminal:
        yield watcher
        return
    with Bars(out, transient=True) as bar:
        watcher.bar = bar
        yield watcher


@contextmanager
def file_checks(out: Console, bar: Bar | None = None, *, quick: bool = False) -> Iterator[None]:
    """Checks of media files show in `bar`, or in a bar of their own, while they take place; afterwards what was noted."""
    if bar is None and out.is_terminal:
        with Bars(out, transient=True) as own, file_checks(out, own, quick=quick):
            yield
        return
    tasks: list[TaskID] = []

    def progress(done: int, count: int) -> None:
        if bar is None:
            return
        if not tasks:
            tasks.append(bar.add_task("checking files", total=count, state="", left=""))
        bar.update(tasks[0], completed=done, total=count, state=f"{done} of {count}", visible=done < count)

    with checking(Checking(quick, progress)) as how:
        yield
    for note, files in sorted(how.notes.items()):
        out.print(f"note: {files} of the files: {note}", soft_wrap=True)


class Watcher:
    """Creates an observer for each run."""

    def __init__(self, experiments: Sequence[Experiment], out: Console) -> None:
        self.out = out
        self.bar: Bar | None = None
        self.width = max(len(label(e)) for e in experiments)

    def __call__(self, experiment: Experiment, number: int, count: int) -> Observer:
        """The observer of run `number` of `count`."""
        name = label(experiment)
        if self.bar is None:
            name = name.ljust(self.width)
        if count > 1:
            name = f"{number}/{count} {name}"
        return (
            _Lines(name, self.out) if self.bar is None else _Bar(name, self.out, self.bar, experiment.rounds)
        )


@dataclass
class _Lines:
    """The observer of one run where no bar can be drawn: a line per round."""

    name: str
    out: Console

    def __call__(self, progress: Progress) -> None:
        if progress.client is None:
            self.out.print(Text(f"{self.name}  {describe(progress)}"), soft_wrap=True)
            self.notes(progress)

    def notes(self, progress: Progress) -> None:
        for note in progress.notes:
            self.out.print(Text(f"{self.name}  {note}"), soft_wrap=not self.out.is_terminal)


class _Bar(_Lines):
    """The observer of one run with a bar; `tell` shows what is being done."""

    def __init__(self, name: str, out: Console, bar: Bar, rounds: int) -> None:
        super().__init__(name, out)
        self.bar, self.figures, self.answers = bar, "", 0
        self.began, self.clock = time.monotonic(), Remaining(rounds)
        for task in bar.tasks:  # a run that has ended makes room for the next one
            if task.finished:
                bar.update(task.id, visible=False)
        self.task = bar.add_task(name, total=rounds + 1, state="getting ready", left="")

    def __call__(self, progress: Progress) -> None:
        """Advance the bar; the last round's figures stay as a line above the bars."""
        now = time.monotonic() - self.began
        if progress.client is not None:
            self.answers += 1
            of = max(progress.clients, 1)
            nth = (self.answers - 1) % of + 1  # some methods ask twice in a round
            self.clock.answered(now, min(self.answers / of, 1.0))
            done = progress.round + 0.9 * min(self.answers / of, 1.0)
            self._show(done, progress.rounds + 1)
            self.tell(
                f"round {progress.round}/{progress.rounds}, {visible(progress.client)} answered ({nth} of {of})"
            )
            return
        self.answers = 0
        self.clock.finished(now, progress.round)
        self.figures = "  ".join(part.replace(" ", NBSP) for part in figures(progress))
        self._show(progress.round + 1, progress.rounds + 1)
        self.notes(progress)
        if progress.round == progress.rounds:
            self.out.print(wrapped(f"{self.name}  {self.figures}", self.out.width))
            self.figures = ""
        self.tell(f"round {progress.round}/{progress.rounds} is over")

    def tell(self, text: str) -> None:
        """Show what is being done, and the last finished round's figures below."""
        state = "\n".join(line for line in (text, self.figures) if line)
        self.bar.update(self.task, state=state, left=self.clock.left(time.monotonic() - self.began))

    def _show(self, done: float, total: int) -> None:
        self.bar.update(self.task, completed=done, total=total)


class Remaining:
    """The time that a run still takes, by its finished rounds, or by the answers in its first one."""

    def __init__(self, rounds: int) -> None:
        self.rounds, self.round, self.first = rounds, 0, 0
        self.start: float | None = None
        self.round_began, self.each = 0.0, 0.0

    def finished(self, now: float, round: int) -> None:
        """Note the end of a round; round 0, or the first one after a resume, begins the measurement."""
        if self.start is None:
            self.start, self.first = now, round
        elif round > self.first:
            self.each = (now - self.start) / (round - self.first)
        self.round, self.round_began = round, now

    def answered(self, now: float, share: float) -> None:
        """Note that this share of the clients has answered; an estimate until the first round is over."""
        if self.start is not None and self.round == self.first and share > 0:
            self.each = (now - self.round_began) / share

    def left(self, now: float) -> str:
        """In words: "12 s left"; empty before anything is measured, at the end, and below a second."""
        seconds = self.each * (self.rounds - self.round) - (now - self.round_began)
        if not self.each or self.round >= self.rounds or seconds < 1:
            return ""
        return f"{show(round(seconds), 'seconds') if seconds >= 120 else f'{seconds:.0f} s'} left"


def label(experiment: Experiment) -> str:
    """The name of a run beside its bar."""
    return visible(f"{experiment.row or experiment.method.title} (seed {experiment.seed})")


def describe(progress: Progress) -> str:
    """One line for a finished round: training loss, headline accuracies, total bytes and seconds so far."""
    return "  ".join(figures(progress))


def figures(progress: Progress) -> list[str]:
    """The parts of `describe`."""
    parts = [f"round {progress.round}/{progress.rounds}"]
    if "train/loss" in progress.metrics:
        parts.append(f"loss {progress.metrics['train/loss']:.3f}")
    for name, value in progress.metrics.items():
        scope, _, rest = name.partition("/")
        if scope == "global" and rest.endswith(("/token_accuracy", "/accuracy")):
            parts.append(f"{rest.rpartition('/')[0]} {value:.1%}")
        elif name in titled():
            parts.append(f"{titled()[name]} {value:.1%}")
    parts.append(human_bytes(progress.totals.bytes_up + progress.totals.bytes_down))
    seconds = progress.totals.seconds
    parts.append("<0.1 s" if seconds < 0.05 else show(seconds, "seconds"))
    return parts
