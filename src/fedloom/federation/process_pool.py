"""A pool of worker processes on this machine, which share the frozen weights on a CPU."""

import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

import torch

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.hf_logging import quiet_process
from fedloom.core.new_process import without_main
from fedloom.core.tensor_messages import Packed, receive, send, unpack
from fedloom.federation.pool import Answered, Event, Lost, Make, Ready, packed
from fedloom.federation.worker import CohortWork, Identity, Results
from fedloom.models.base import Trainable
from fedloom.models.shared_weights import Region, SharedWeights, borrow, share

STARTS = 3
"""Starts in a row in which a worker may end before it is ready."""


@dataclass(frozen=True)
class _Opening:
    """The first message to a worker: the frozen weights of the run, and what the worker must have in common with it."""

    weights: SharedWeights | None
    expected: Identity


@dataclass(frozen=True)
class _Ended:
    """The last message of a worker that cannot go on."""

    sentence: str
    disk: bool


@dataclass
class _Slot:
    """One worker's process, and the pipe to it."""

    process: BaseProcess
    pipe: Connection
    state: Literal["starting", "idle", "at work"] = "starting"


class ProcessPool:
    """`count` processes, started at once by `spawn`: a fork would copy PyTorch's thread pools in an unknown state.

    They build their model while this process builds its own, and end with this process, however it ends.
    """

    def __init__(self, make: Make, count: int) -> None:
        """Raises ExperimentError where `make` cannot be sent to a process."""
        self.count = count
        self._make = packed(make)
        self._failed = [0] * count
        self._opening: _Opening | None = None
        self._region: Region | None = None
        self._device: torch.device | str = "cpu"
        self._slots: dict[int, _Slot] = {}
        weakref.finalize(self, _end, self._slots)
        for worker in range(count):
            self._start(worker)

    def open(self, model: Trainable, expected: Identity) -> None:
        """See `Pool.open`."""
        self._device = model.device
        if self._opening is None:
            shared = share(model)
            self._opening = _Opening(None if shared is None else shared[0], expected)
            self._region = None if shared is None else shared[1]
        for worker in range(self.count):
            if worker not in self._slots:  # closed before
                self._start(worker)
            else:
                self._greet(worker)

    def idle(self) -> Sequence[int]:
        """See `Pool.idle`."""
        return [worker for worker, slot in sorted(self._slots.items()) if slot.state == "idle"]

    def send(self, worker: int, cohort: CohortWork) -> None:
        """See `Pool.send`."""
        slot = self._slots[worker]
        slot.state = "at work"
        with suppress(OSError):  # the process has ended, which `events` sees
            send(slot.pipe, cohort)

    def events(self) -> Iterator[Event]:
        """See `Pool.events`."""
        waiting = {slot.pipe: worker for worker, slot in self._slots.items()}
        for pipe in wait(list(waiting)):
            assert isinstance(pipe, Connection)  # noqa: S101 - no others were given
            yield self._event(waiting[pipe])

    def renew(self, worker: int) -> None:
        """See `Pool.renew`."""
        self._start(worker)

    def close(self) -> None:
        """See `Pool.close`."""
        _end(self._slots)

    def pids(self) -> list[int]:
        """The processes' ids."""
        return [slot.process.pid or 0 for _, slot in sorted(self._slots.items())]

    def _start(self, worker: int) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_main, args=(theirs, self._make, worker), name=f"fedloom-worker-{worker}"
        )
        with without_main():
            process.start()
        theirs.close()
        self._slots[worker] = _Slot(process, ours)
        self._greet(worker)

    def _greet(self, worker: int) -> None:
        slot = self._slots[worker]
        if self._opening is not None:
            with suppress(OSError):  # the process has ended, which `events` sees
                send(slot.pipe, self._opening)

    def _event(self, worker: int) -> Event:
        slot = self._slots[worker]
        try:
            message = receive(slot.pipe, self._device)
        except (EOFError, OSError):
            return self._lost(worker, slot)
        if isinstance(message, _Ended):
            raise (DiskError if message.disk else ExperimentError)(message.sentence)
        slot.state = "idle"
        if message is None:
            self._failed[worker] = 0
            return Ready(worker)
        results: Results = message
        return Answered(worker, results)

    def _lost(self, worker: int, slot: _Slot) -> Lost:
        slot.pipe.close()
        slot.process.join(5)
        if slot.process.exitcode is None:  # it has closed its pipe, and does not end
            slot.process.kill()
            slot.process.join()
        del self._slots[worker]
        code = slot.process.exitcode or 0
        reason = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if slot.state == "starting":
            self._failed[worker] += 1
            if self._failed[worker] == STARTS:
                raise ExperimentError(
                    f"engine.workers: a worker {reason} while it started, {STARTS} times; fewer workers need less memory"
                )
        return Lost(worker, reason)


def _end(slots: dict[int, _Slot]) -> None:
    """End the processes; those at work are not waited for, since they hold nothing that has to be written."""
    for slot in slots.values():
        slot.pipe.close()  # an idle worker ends by itself, and removes its temporary files
        if slot.state == "at work":
            slot.process.terminate()
    for slot in slots.values():
        slot.process.join(3)
        if slot.process.exitcode is None:
            slot.process.kill()
            slot.process.join()
    slots.clear()


def _main(pipe: Connection, make: Packed, worker: int) -> None:
    """A worker's process: serves cohorts until the pipe is closed; the parent handles interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_process()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent needs no worker any more
        try:
            _serve(pipe, make, worker)
        except ExperimentError as error:
            send(pipe, _Ended(str(error), isinstance(error, DiskError)))


def _serve(pipe: Connection, make: Packed, number: int) -> None:
    with _importing():
        build: Make = unpack(make)
    worker = build(number)
    opening: _Opening = receive(pipe)
    worker.check(opening.expected)
    if opening.weights is not None:
        borrow(worker.model, opening.weights)
    send(pipe, None)
    while True:
        with _importing():
            cohort: CohortWork = receive(pipe, worker.model.device)
        send(pipe, worker.work(cohort))


@contextmanager
def _importing() -> Iterator[None]:
    """Raise ExperimentError for an object whose class this process does not find."""
    try:
        yield
    except (AttributeError, ImportError) as error:
        raise ExperimentError(
            f"engine.workers: a worker process cannot import what the run uses ({error}); define it in a module"
        ) from error


def _end_with_parent() -> None:
    """End this process as soon as its parent has ended: an orphan must not keep memory or files."""
    parent: Any = multiprocessing.parent_process()
    parent.join()
    os._exit(1)
