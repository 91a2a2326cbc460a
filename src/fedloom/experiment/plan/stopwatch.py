"""Measured durations by the clock and by the processor, and the largest memory of each phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fedloom.experiment.plan import memory


@dataclass(frozen=True)
class Time:
    """Seconds by the clock, and of all processors together."""

    clock: float = 0.0
    processor: float = 0.0

    def __add__(self, other: "Time") -> "Time":
        return Time(self.clock + other.clock, self.processor + other.processor)

    def __sub__(self, other: "Time") -> "Time":
        return Time(max(0.0, self.clock - other.clock), max(0.0, self.processor - other.processor))

    def __mul__(self, factor: float) -> "Time":
        return Time(self.clock * factor, self.processor * factor)


class Stopwatch:
    """Reads the time since the process began, and adds up time and memory by phase."""

    def __init__(self, began: float) -> None:
        """`began`: `time.time()` when the process was started, so that its imports count."""
        self._offset = time.time() - began - time.perf_counter()
        self.device = torch.device("cpu")
        self.peaks: dict[str, int] = {}
        self.rises: dict[str, int] = {}
        """By phase: the largest rise from its beginning, since freed memory stays with the process."""

    def now(self) -> Time:
        """Time since the process began, once the device is through with its queue."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return Time(time.perf_counter() + self._offset, time.process_time())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note the peak memory of the phase `name`, which may come several times."""
        self.note("rest")
        memory.reset_peak(self.device)
        before = memory.peak(self.device)
        try:
            yield
        finally:
            self.note(name)
            self.rises[name] = max(self.rises.get(name, 0), memory.peak(self.device) - before)

    def note(self, name: str) -> None:
        """Count the peak since the last reset for the phase `name`."""
        self.peaks[name] = max(self.peaks.get(name, 0), memory.peak(self.device))
