"""What the terminal shows while something runs: a progress bar where there is a terminal, one plain line a round where not."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from fedloom.experiment.report.columns import titled
from fedloom.experiment.report.units import human_bytes
from fedloom.experiment.settings import Experiment
from fedloom.federation.progress import Observer
from fedloom.federation.progress import Progress as Told


@contextmanager
def watching(experiments: Sequence[Experiment], out: Console) -> Iterator["Watcher"]:
    """A watcher for these runs. Steps are client updates, so that time left is told inside a round, too."""
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
    with Progress(*columns, console=out, transient=False) as bar:
        watcher.bar = bar
        yield watcher


class Watcher:
    """Makes the observer of each run."""

    def __init__(self, experiments: Sequence[Experiment], out: Console) -> None:
        self.out = out
        self.bar: Progress | None = None
        self.width = max(len(label(e)) for e in experiments)

    def __call__(self, experiment: Experiment, number: int, count: int) -> Observer:
        """The observer of run `number` of `count`."""
        name = label(experiment).ljust(self.width)
        if count > 1:
            name = f"{number}/{count} {name}"
        if self.bar is None:
            return lambda told: self._log(name, told)
        bar, began = self.bar, time.monotonic()
        task = bar.add_task(name, total=experiment.rounds + 1, state="getting ready", left="")
        heard = 0

        def observe(told: Told) -> None:
            nonlocal heard
            heard = heard + 1 if told.client is not None else 0
            share = min(heard / max(told.clients, 1), 1.0) * 0.9
            done = told.round + (share if told.client is not None else 1)
            left = (time.monotonic() - began) / max(done, 1e-9) * (told.rounds + 1 - done)
            state = (
                describe(told) if told.client is None else f"round {told.round}/{told.rounds}, {told.client}"
            )
            ended = told.client is None and told.round == told.rounds
            bar.update(task, completed=done, state=state, left="" if ended else f"{left:.0f} s left")

        return observe

    def _log(self, name: str, told: Told) -> None:
        if told.client is None:
            self.out.print(f"{name}  {describe(told)}", soft_wrap=True)


def label(experiment: Experiment) -> str:
    """What a run is called beside its bar."""
    return f"{experiment.row or experiment.method.title} (seed {experiment.seed})"


def describe(told: Told) -> str:
    """One line about a finished round: training loss, accuracy per modality or of image classification, bytes, seconds."""
    parts = [f"round {told.round}/{told.rounds}"]
    if "train/loss" in told.metrics:
        parts.append(f"loss {told.metrics['train/loss']:.3f}")
    for name, value in told.metrics.items():
        scope, _, rest = name.partition("/")
        if scope == "global" and rest.endswith(("/token_accuracy", "/accuracy")):
            parts.append(f"{rest.rpartition('/')[0]} {value:.1%}")
        elif name in titled():
            parts.append(f"{titled()[name]} {value:.1%}")
    parts.append(human_bytes(told.totals.bytes_up + told.totals.bytes_down))
    parts.append(f"{told.totals.seconds:.0f} s")
    return "  ".join(parts)
