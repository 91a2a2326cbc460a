"""Progress of running experiments: a bar per run in a terminal, else one plain line per round."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from fedloom.core.terminal import visible
from fedloom.data.media import Checking, checking
from fedloom.experiment.report.columns import titled
from fedloom.experiment.report.units import human_bytes
from fedloom.experiment.settings import Experiment
from fedloom.federation.progress import Observer, Progress


@contextmanager
def watching(experiments: Sequence[Experiment], out: Console) -> Iterator["Watcher"]:
    """A watcher for these runs; the bars advance with every client update, not only with rounds."""
    watcher = Watcher(experiments, out)
    if not out.is_terminal:
        yield watcher
        return
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Bar(*columns, console=out, transient=False) as bar:
        watcher.bar = bar
        yield watcher


@contextmanager
def file_checks(out: Console, bar: Bar | None = None, *, quick: bool = False) -> Iterator[None]:
    """Checks of media files show in `bar`, or in a bar of their own, while they take place; afterwards what was noted."""
    if bar is None and out.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24))
        state = TextColumn("{task.fields[state]}")
        with (
            Bar(*columns, state, console=out, transient=True) as own,
            file_checks(out, own, quick=quick),
        ):
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
        name = label(experiment).ljust(self.width)
        if count > 1:
            name = f"{number}/{count} {name}"
        if self.bar is None:
            return lambda progress: self._log(name, progress)
        bar, began = self.bar, time.monotonic()
        task = bar.add_task(name, total=experiment.rounds + 1, state="getting ready", left="")
        updates = 0

        def observe(progress: Progress) -> None:
            nonlocal updates
            updates = updates + 1 if progress.client is not None else 0
            share = min(updates / max(progress.clients, 1), 1.0) * 0.9
            done = progress.round + (share if progress.client is not None else 1)
            left = (time.monotonic() - began) / max(done, 1e-9) * (progress.rounds + 1 - done)
            state = (
                describe(progress)
                if progress.client is None
                else f"round {progress.round}/{progress.rounds}, {visible(progress.client)}"
            )
            ended = progress.client is None and progress.round == progress.rounds
            bar.update(task, completed=done, state=state, left="" if ended else f"{left:.0f} s left")
            self._notes(name, progress)

        return observe

    def _log(self, name: str, progress: Progress) -> None:
        if progress.client is None:
            self.out.print(f"{name}  {describe(progress)}", soft_wrap=True)
            self._notes(name, progress)

    def _notes(self, name: str, progress: Progress) -> None:
        for note in progress.notes:
            self.out.print(Text(f"{name}  {note}"), soft_wrap=True)


def label(experiment: Experiment) -> str:
    """The name of a run beside its bar."""
    return visible(f"{experiment.row or experiment.method.title} (seed {experiment.seed})")


def describe(progress: Progress) -> str:
    """One line for a finished round: training loss, headline accuracies, total bytes and seconds so far."""
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
    parts.append(f"{progress.totals.seconds:.0f} s")
    return "  ".join(parts)
