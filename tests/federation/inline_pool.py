"""A pool whose workers live in this process; messages pass as between processes, and a worker is lost when a test says so."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fedloom.core.tensor_messages import pack, unpack
from fedloom.federation.pool import Answered, Event, Lost, Ready
from fedloom.federation.worker import CohortWork, Worker

Dies = Callable[[CohortWork, int], bool]


class InlinePool:
    """`make` as for `ProcessPool`; `dies` says whether a cohort, with so many sent before it, ends its worker."""

    def __init__(
        self, make: Callable[[int], Worker], count: int, dies: Dies = lambda cohort, sent: False
    ) -> None:
        self.count, self.dies = count, dies
        self.workers = [make(number) for number in range(count)]
        self.sent: list[tuple[int, tuple[str, ...]]] = []
        self.started = list(range(count))
        self.waiting: list[Event] = []
        self.free: list[int] = []

    def open(self, model: Any, expected: Any) -> None:
        for worker in self.workers:
            worker.check(expected)

    def idle(self) -> Sequence[int]:
        return sorted(self.free)

    def send(self, worker: int, cohort: CohortWork) -> None:
        self.free.remove(worker)
        before = len(self.sent)
        self.sent.append((worker, tuple(cohort.calls)))
        arrived = unpack(pack(cohort))
        if self.dies(arrived, before):
            self.waiting.append(Lost(worker, "was ended by SIGKILL"))
            return
        results = unpack(pack(self.workers[worker].work(arrived)))
        self.waiting.append(Answered(worker, results))

    def events(self) -> Iterator[Event]:
        if self.started:
            worker = self.started.pop(0)
            self.free.append(worker)
            yield Ready(worker)
            return
        event = self.waiting.pop()  # the last one first: arrival must not matter
        if isinstance(event, Answered):
            self.free.append(event.worker)
        yield event

    def renew(self, worker: int) -> None:
        self.started.append(worker)

    def close(self) -> None:
        self.workers = []
