"""Plans an experiment in a process of its own, whose peak memory is then that of the run."""

import os
import signal
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
from safetensors import SafetensorError

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_logging import quiet_process
from fedloom.data.media import Checking, checking
from fedloom.experiment.plan.make import How, make_plan
from fedloom.experiment.plan.result import Plan
from fedloom.experiment.settings import Experiment

WHOLE = 0.7
"""Share of the limit that a probe of whole rounds may be expected to take."""
KILLED = -9
"""Exit code of a process that the system ended, as Linux does where memory runs out."""

LESS = (
    "`--no-probe` shows what is loaded; engine.dtype: bfloat16, engine.cohort: off, a smaller training.batch_size or "
    "evaluation.batch_size need less"
)
"""Remedies where not even the probe fits."""


def plan(experiment: Experiment, *, probe: bool = True, limit: float = 60.0, quick: bool = False) -> Plan:
    """The plan of one run. `limit`: seconds for the probe; `quick`: check the headers of media files alone.

    A run with short rounds is probed once more in whole rounds, in a fresh process: the first one has paid for what a
    library loads at its first use. Raises what the run would raise, and ExperimentError where a process is ended from outside.
    """
    first = _planned(experiment, "short" if probe else "none", limit, quick)
    if first.whole_probe is None or first.stopped or first.whole_probe > WHOLE * limit:
        return first
    second = _planned(experiment, "whole", limit, quick)
    return first if second.stopped else second


def _planned(experiment: Experiment, how: How, limit: float, quick: bool) -> Plan:
    """The plan that a process of its own makes."""
    context = get_context("spawn")  # a fork would take this process's memory with it
    receive, send = context.Pipe(duplex=False)
    process = context.Process(
        target=_child, args=(send, experiment, how, limit, quick, time.time()), daemon=True
    )
    process.start()
    send.close()
    try:
        result = receive.recv()
    except EOFError:
        process.join()
        raise ExperimentError(_ended(experiment, process.exitcode)) from None
    finally:
        receive.close()
        process.terminate()
        process.join()
    if isinstance(result, BaseException):
        raise result
    assert isinstance(result, Plan)  # noqa: S101
    return result


def distinct(experiments: Sequence[Experiment]) -> list[tuple[Experiment, int]]:
    """The experiments without repetitions for other seeds, and how many runs each stands for."""
    found: dict[str, tuple[Experiment, int]] = {}
    for experiment in experiments:
        key = repr(experiment.model_copy(update={"seed": 0}).as_dict())
        first, count = found.get(key, (experiment, 0))
        found[key] = first, count + 1
    return list(found.values())


def _ended(experiment: Experiment, code: int | None) -> str:
    """The sentence about a process that ended without a result."""
    named = experiment.row or experiment.method.title
    if code == KILLED:
        return f"{named}: the system ended the probe, most likely because memory ran out; {LESS}"
    return f"{named}: the probe ended with exit code {code} before it had a result"


def _child(
    send: Connection, experiment: Experiment, how: How, limit: float, quick: bool, began: float
) -> None:
    quiet_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    try:
        with checking(Checking(quick)):
            result: Plan | BaseException = make_plan(experiment, began, how=how, limit=limit)
    except (ExperimentError, OSError, SafetensorError) as error:
        result = error
    except (MemoryError, torch.OutOfMemoryError) as error:
        named = experiment.row or experiment.method.title
        result = ExperimentError(f"{named}: the probe ran out of memory ({error}); {LESS}")
    send.send(result)
    send.close()
    os._exit(0)  # whatever threads a library left
