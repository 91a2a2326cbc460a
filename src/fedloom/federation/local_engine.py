"""The local engine: all clients in this process on one frozen foundation, one after another or a cohort at a time.

Clients' functions run in coroutines that pause where they train. With a cohort, those that pause with the same kind of job are
trained together; a method knows nothing of it. One after another is the reference, and both give the same result up to rounding.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from greenlet import getcurrent, greenlet

from fedloom.core.payload import Payload, Reply
from fedloom.federation.client import Client
from fedloom.federation.settings import Round
from fedloom.methods import Method
from fedloom.models.base import Trainable
from fedloom.models.training.cohort import kind, same_base, train_cohort
from fedloom.models.training.loop import LocalJob, Outcome, train_one
from fedloom.models.training.settings import Training

Done = Callable[[str, float], None]


class LocalEngine:
    """Asks clients in this process. `wire` sends every payload through its bytes, as a deployment does.

    `cohort` is the largest number of clients that are trained together; 1 trains each by itself.
    """

    def __init__(
        self,
        model: Trainable,
        clients: Mapping[str, Client],
        training: Training,
        *,
        wire: bool = False,
        cohort: int = 1,
    ) -> None:
        self.model = model
        self.clients = dict(clients)
        self.training = training
        self.wire = wire
        self.cohort = cohort

    def ask(
        self,
        method: Method,
        request: str,
        payloads: Mapping[str, Payload],
        at: Round,
        done: Done = lambda client, seconds: None,
        received: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> list[Reply]:
        """One reply per asked client, each handed to `received` as it arrives, which says what to keep of it.

        A client that raises gives a reply with the error; it never ends the run.
        """
        names = sorted(payloads)  # who is trained with whom shall not depend on the order of asking
        replies: dict[str, Reply] = {}
        for first in range(0, len(names), self.cohort):
            calls = {
                n: partial(self._ask_one, self.clients[n], method, request, payloads[n], at)
                for n in names[first : first + self.cohort]
            }
            began = time.perf_counter()

            def arrive(reply: Reply, began: float = began, shared: int = len(calls)) -> None:
                replies[reply.client] = received(reply)
                done(reply.client, (time.perf_counter() - began) / shared)

            self._run(calls, arrive)
        self.model.rest()
        return [replies[name] for name in payloads]

    def _run(self, calls: Mapping[str, Callable[[], Reply]], arrive: Callable[[Reply], None]) -> None:
        """Run each call to its next job, then the jobs, and so on; a reply is handed over before anybody else goes on."""
        clients = {name: greenlet(call) for name, call in calls.items()}
        outcomes: Mapping[str, Outcome | Exception | None] = dict.fromkeys(clients)
        while outcomes:
            jobs: dict[str, LocalJob] = {}
            for name, outcome in outcomes.items():
                go_on = clients[name].throw if isinstance(outcome, Exception) else clients[name].switch
                said = go_on() if outcome is None else go_on(outcome)
                if isinstance(said, LocalJob):
                    jobs[name] = said
                else:
                    arrive(said)
            outcomes = self._train(jobs)

    def _train(self, jobs: Mapping[str, LocalJob]) -> dict[str, Outcome | Exception]:
        """An outcome or an error for every job, in their order."""
        found: dict[str, Outcome | Exception] = {}
        for names in _alike(self.model, jobs):
            try:
                if len(names) == 1:
                    found[names[0]] = train_one(self.model, jobs[names[0]])
                else:
                    found |= zip(names, train_cohort(self.model, [jobs[n] for n in names]), strict=True)
            except Exception as error:  # it belongs to the clients whose job it is
                if len(names) == 1:
                    found[names[0]] = error
                else:  # one client's data may be the reason: find out whose
                    for name in names:
                        found |= self._train({name: jobs[name]})
        return {name: found[name] for name in jobs}

    def _ask_one(self, client: Client, method: Method, request: str, payload: Payload, at: Round) -> Reply:
        if self.wire:
            payload = Payload.decode(payload.encode())
        try:
            answer = client.answer(method, request, payload, self.model, self.training, at, _pause)
        except Exception as error:  # whatever goes wrong at one client is that client's refusal
            return Reply(client.name, error=f"raised {type(error).__name__}: {error}")
        if self.wire:
            answer = Payload.decode(answer.encode())
        return Reply(client.name, answer)


def _pause(job: LocalJob) -> Outcome:
    """Hand a job to the engine that runs this client, and go on when it is done."""
    engine: Any = getcurrent().parent
    outcome: Outcome = engine.switch(job)
    return outcome


def _alike(model: Trainable, jobs: Mapping[str, LocalJob]) -> list[Sequence[str]]:
    """Names of jobs that can be done together, in the order of their first."""
    groups: list[tuple[object, list[str]]] = []
    if not model.stackable:
        return [[name] for name in jobs]
    for name, job in jobs.items():
        key = kind(model, job)
        for other, names in groups:
            if other == key and same_base(jobs[names[0]], job):
                names.append(name)
                break
        else:
            groups.append((key, [name]))
    return [names for _, names in groups]
