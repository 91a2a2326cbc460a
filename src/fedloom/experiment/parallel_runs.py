"""Parallel runs, each in a process of its own with its share of the cores: small models leave most of a machine idle."""

import copy
import os
import queue as queues
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Any

from fedloom.core.activity import told_to
from fedloom.core.hf_logging import quiet_process
from fedloom.data.media import Checking, checking, mode
from fedloom.experiment.run import Result, run
from fedloom.experiment.settings import Experiment
from fedloom.federation.progress import Observer, Progress
from fedloom.models.load import choose_device
from fedloom.models.loading.loader_pool import cores

_progress: Any = None
"""In a worker: the progress queue to the parent process."""
_quick = False
"""In a worker: whether media files' headers alone are checked."""


@dataclass(frozen=True)
class RunJob:
    """One run: its experiment, its folder, whether to resume the run in that folder, and with changed inputs."""

    experiment: Experiment
    folder: Path
    resume: bool
    accept_changes: bool = False

    def run(self, observe: Observer) -> Result:
        """Run it in this process; an observer with a method `tell` also learns what is being done."""
        with told_to(getattr(observe, "tell", None)):
            return run(
                self.experiment,
                self.folder,
                resume=self.resume,
                accept_changes=self.accept_changes,
                observe=observe,
            )


def suggested(experiments: Sequence[Experiment]) -> int:
    """The default number of parallel runs: one per core, at most four, for small models on a CPU; else one."""
    small = all(e.size == "tiny" and e.model.llm is None and not e.engine.in_workers for e in experiments)
    on_cpu = choose_device(experiments[0].engine.device).type == "cpu"
    return min(len(experiments), cores(), 4) if small and on_cpu else 1


def shared_out(experiments: Sequence[Experiment], jobs: int) -> list[Experiment]:
    """The experiments with `engine.threads`, where unset, set to an equal share of the cores.

    It is recorded in the experiment, because another number of threads may round differently.
    """
    shared = []
    for experiment in experiments:
        engine = experiment.engine
        if engine.threads is None:
            workers = engine.workers if isinstance(engine.workers, int) else 1
            engine = engine.model_copy(update={"threads": max(1, cores() // (jobs * workers))})
        shared.append(experiment.model_copy(update={"engine": engine}))
    return shared


def run_jobs(jobs: Sequence[RunJob], workers: int, watch: Callable[[int], Observer]) -> list[Result]:
    """Run all jobs, `workers` at a time; results in the order of `jobs`. `watch(i)` makes the observer of job i.

    The first error terminates the other runs and is raised; their checkpoints stay on disk.
    """
    if workers == 1 or len(jobs) < 2:
        return [job.run(watch(i)) for i, job in enumerate(jobs)]
    context = get_context("spawn")  # a fork would copy PyTorch's thread pools in an unknown state
    queue: Any = context.Queue()
    observers: dict[int, Observer] = {}

    def forward(timeout: float) -> bool:
        try:
            number, progress = queue.get(timeout=timeout)
        except queues.Empty:
            return False
        if number not in observers:
            observers[number] = watch(number)
        if not isinstance(progress, str):
            observers[number](progress)
        elif (tell := getattr(observers[number], "tell", None)) is not None:
            tell(progress)
        return True

    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (queue, mode().quick))
    try:
        futures = [pool.submit(_run_job, i, job) for i, job in enumerate(jobs)]
        pending = set(futures)
        while pending:
            forward(0.2)
            done, pending = wait(pending, timeout=0)
            for future in done:
                future.result()
        while forward(0.05):
            pass
        return [future.result() for future in futures]
    except BaseException:
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(queue: Any, quick: bool) -> None:
    """Initialise a worker; the parent process handles interrupts."""
    global _progress, _quick
    _progress, _quick = queue, quick
    quiet_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run_job(number: int, job: RunJob) -> Result:
    with checking(Checking(_quick)):
        return job.run(_ToParent(number))


@dataclass(frozen=True)
class _ToParent:
    """The observer of run `number` in a worker: sends everything to the parent process."""

    number: int

    def __call__(self, progress: Progress) -> None:
        parent = parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # an orphan must not write to a run that is being resumed
        _progress.put((self.number, replace(progress, totals=copy.copy(progress.totals), client_metrics={})))

    def tell(self, text: str) -> None:
        _progress.put((self.number, text))
