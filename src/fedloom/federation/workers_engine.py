"""The engine of several processes: cohorts of a round train side by side in workers; states and secrets stay in this process.

Cohorts are cut by name, as the local engine does, so that results do not depend on the number of workers. A cohort whose worker
is lost is tried again, then client by client; the client whose work ends a worker again is refused.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from greenlet import getcurrent, greenlet

from fedloom.core.activity import tell
from fedloom.core.payload import Limits, Payload, Reply
from fedloom.federation.client import Call, Client, Served
from fedloom.federation.local_engine import Done, RaisedError, replied
from fedloom.federation.pool import Answered, Lost, Pool
from fedloom.federation.settings import Round
from fedloom.federation.worker import CohortWork, Failed, Results, identity
from fedloom.methods import Method
from fedloom.models.base import Trainable

ATTEMPTS = 2
"""Workers that a cohort, or a client by itself, may cost before it is split or refused."""


@dataclass
class _Task:
    """A cohort under way: the calls that are still to be served, and the workers that it has cost."""

    names: Sequence[str]
    calls: dict[str, Call] = field(default_factory=dict)
    lost: int = 0
    began: float = 0.0
    notes: list[str] = field(default_factory=list)


class WorkersEngine:
    """Asks clients in a pool of workers. `wire`, `cohort` and `limits` as in `LocalEngine`."""

    def __init__(
        self,
        model: Trainable,
        clients: Mapping[str, Client],
        pool: Pool,
        *,
        wire: bool = False,
        cohort: int = 1,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self.model = model
        self.clients = dict(clients)
        self.pool = pool
        self.wire = wire
        self.cohort = cohort
        self.limits = limits
        self._opened = False

    def close(self) -> None:
        """End the workers."""
        self.pool.close()
        self._opened = False

    def ask(
        self,
        method: Method,
        request: str,
        payloads: Mapping[str, Payload],
        at: Round,
        done: Done = lambda client, seconds: None,
        received: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> list[Reply]:
        """One reply per asked client, each passed through `received` as it arrives.

        An exception in a client becomes a reply with the error; an error of this machine's disk, or of a worker's, ends the run.
        """
        try:
            if not self._opened:
                self.pool.open(self.model, identity(self.model, self.clients))
                self._opened = True
            replies = _Ask(self, method, request, payloads, at, done, received).run()
        except BaseException:
            self.close()
            raise
        return [replies[name] for name in payloads]


class _Ask:
    """One ask: the clients' own part here, in coroutines that pause where a worker has to serve them, and the cohorts' way."""

    def __init__(
        self,
        engine: WorkersEngine,
        method: Method,
        request: str,
        payloads: Mapping[str, Payload],
        at: Round,
        done: Done,
        received: Callable[[Reply], Reply],
    ) -> None:
        self.engine, self.pool = engine, engine.pool
        self.method, self.request, self.payloads, self.at = method, request, payloads, at
        self.done, self.received = done, received
        self.replies: dict[str, Reply] = {}
        self.paused: dict[str, greenlet] = {}
        names = sorted(payloads)  # the grouping of clients must not depend on the order of payloads
        cut = range(0, len(names), engine.cohort)
        self.due = deque(_Task(names[first : first + engine.cohort]) for first in cut)
        self.at_work: dict[int, _Task] = {}

    def run(self) -> dict[str, Reply]:
        """The replies by client."""
        self._send()
        while self.at_work or self.due:
            for event in self.pool.events():
                if isinstance(event, Answered):
                    self._answered(self.at_work.pop(event.worker), event.results)
                elif isinstance(event, Lost):
                    if (task := self.at_work.pop(event.worker, None)) is not None:
                        self._lost(task, event.reason)
                    self.pool.renew(event.worker)
            self._send()
        return self.replies

    def _send(self) -> None:
        """Give every idle worker a cohort."""
        for worker in self.pool.idle():
            while worker not in self.at_work and self.due:
                task = self.due.popleft()
                if not task.calls and not task.lost:
                    self._begin(task)
                if task.calls:
                    self.at_work[worker] = task
                    self.pool.send(worker, CohortWork(self.method, self.at, task.calls))
        busy, count = len(self.at_work), self.pool.count
        answered = f"{len(self.replies)} of {len(self.payloads)} clients answered"
        tell(f"round {self.at.number}/{self.at.rounds}, {answered}, {busy} of {count} workers at work")

    def _begin(self, task: _Task) -> None:
        """Run each client's own part up to its call of the method's client function."""
        task.began = time.perf_counter()
        for name in task.names:
            self.paused[name] = greenlet(partial(self._ask_one, self.engine.clients[name]))
            self._go_on(task, name, self.paused[name].switch)

    def _go_on(self, task: _Task, name: str, resume: Callable[[], Any]) -> None:
        result = resume()
        if isinstance(result, Call):
            task.calls[name] = result
            return
        task.calls.pop(name, None)
        del self.paused[name]
        self.replies[name] = self.received(replace(result, notes=tuple(task.notes)))
        self.done(name, (time.perf_counter() - task.began) / len(task.names))

    def _answered(self, task: _Task, results: Results) -> None:
        """Let every client of a cohort go on with its result."""
        for name, result in results.items():
            resume = self.paused[name]
            if isinstance(result, Failed):
                self._go_on(task, name, partial(resume.throw, RaisedError(result.reason)))
            else:
                self._go_on(task, name, partial(resume.switch, result))

    def _lost(self, task: _Task, reason: str) -> None:
        """Try a cohort again whose worker was lost, then its clients one by one; refuse a client that is alone."""
        task.lost += 1
        names = sorted(task.calls)
        whose = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        if task.lost < ATTEMPTS:
            task.notes.append(f"a worker {reason} with {whose}: they were tried again")
            self.due.appendleft(task)
        elif len(names) > 1:
            note = f"a worker {reason} again with {whose}: they were tried one by one"
            alone = [_Task([n], {n: task.calls[n]}, 0, task.began, [*task.notes, note]) for n in names]
            self.due.extendleft(reversed(alone))
        else:
            error = RaisedError(f"lost: its worker {reason}, {task.lost} times")
            self._go_on(task, names[0], partial(self.paused[names[0]].throw, error))

    def _ask_one(self, client: Client) -> Reply:
        def answer(arrived: Payload) -> Payload:
            return client.answered(self.method, self.request, arrived, self.at, _serve)

        engine = self.engine
        return replied(
            client.name, self.payloads[client.name], answer, engine.limits if engine.wire else None
        )


def _serve(call: Call) -> Served:
    """Pass a call to the ask that runs this client, and resume with its result."""
    ask: Any = getcurrent().parent
    served: Served = ask.switch(call)
    return served
