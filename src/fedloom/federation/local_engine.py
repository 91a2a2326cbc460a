"""The local engine: all clients in this process on one frozen foundation, one after another or a cohort at a time.

Clients' functions run in coroutines that pause where they train. With a cohort, clients that pause with the same kind of job
train together, transparently to the method. Both ways agree up to rounding; one after another is the reference.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

from fedloom.core.errors import DiskError
from fedloom.core.payload import Limits, Payload, Reply
from fedloom.federation.client import Client
from fedloom.federation.settings import Round
from fedloom.methods import Method
from fedloom.models.base import Trainable
from fedloom.models.training.cohort import kind, same_base, train_cohort
from fedloom.models.training.loop import LocalJob, Outcome, train_one
from fedloom.models.training.settings import Training

Done = Callable[[str, float], None]
T = TypeVar("T")


class LocalEngine:
    """Asks clients in this process. `wire` sends every payload through its bytes, as a deployment does.

    `cohort` is the largest number of clients trained together; 1 trains each by itself. `limits` bound what passes the wire.
    """

    def __init__(
        self,
        model: Trainable,
        clients: Mapping[str, Client],
        training: Training,
        *,
        wire: bool = False,
        cohort: int = 1,
        limits: Limits = Limits(),  # noqa: B008 - frozen
    ) -> None:
        self.model = model
        self.clients = dict(clients)
        self.training = training
        self.wire = wire
        self.cohort = cohort
        self.limits = limits

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

        An exception in a client becomes a reply with the error; it never ends the run.
        """
        names = sorted(payloads)  # the grouping of clients must not depend on the order of payloads
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

            self.together(calls, arrive)
        self.model.rest()
        return [replies[name] for name in payloads]

    def together(self, calls: Mapping[str, Callable[[], T]], arrive: Callable[[T], None]) -> None:
        """Run each call to its next job, train the jobs, and repeat; results are passed on one by one as calls end."""
        clients = {name: greenlet(call) for name, call in calls.items()}
        outcomes: Mapping[str, Outcome | Exception | None] = dict.fromkeys(clients)
        while outcomes:
            jobs: dict[str, LocalJob] = {}
            for name, outcome in outcomes.items():
                resume = clients[name].throw if isinstance(outcome, Exception) else clients[name].switch
                result = resume() if outcome is None else resume(outcome)
                if isinstance(result, LocalJob):
                    jobs[name] = result
                else:
                    arrive(result)
            outcomes = self._train(jobs)

    def _train(self, jobs: Mapping[str, LocalJob]) -> dict[str, Outcome | Exception]:
        """An outcome or an error for every job, in the order of `jobs`."""
        outcomes: dict[str, Outcome | Exception] = {}
        for names in _alike(self.model, jobs):
            try:
                if len(names) == 1:
                    outcomes[names[0]] = train_one(self.model, jobs[names[0]])
                else:
                    outcomes |= zip(names, train_cohort(self.model, [jobs[n] for n in names]), strict=True)
            except Exception as error:  # the error of the clients in this group
                if len(names) == 1:
                    outcomes[names[0]] = error
                else:  # one client's data may be the reason: train each by itself
                    for name in names:
                        outcomes |= self._train({name: jobs[name]})
        return {name: outcomes[name] for name in jobs}

    def close(self) -> None:
        """See `Engine.close`."""

    def _ask_one(self, client: Client, method: Method, request: str, payload: Payload, at: Round) -> Reply:
        def answer(arrived: Payload) -> Payload:
            return client.answer(method, request, arrived, self.model, self.training, at, pause)

        return replied(client.name, payload.detached(), answer, self.limits if self.wire else None)


def replied(name: str, payload: Payload, answer: Callable[[Payload], Payload], wire: Limits | None) -> Reply:
    """A client's reply to a payload; with `wire`, both pass through their bytes within these limits.

    An exception in a client becomes a reply with the error. Raises DiskError, which is the server's own disk and not the client.
    """
    try:
        answered = answer(payload if wire is None else Payload.decode(payload.encode(), wire))
        return Reply(name, answered if wire is None else Payload.decode(answered.encode(), wire))
    except DiskError:
        raise
    except Exception as error:  # any error at a client counts as its refusal
        return Reply(name, error=in_words(error))


def in_words(error: Exception) -> str:
    """An error of a client's function, for its reply."""
    return str(error) if isinstance(error, RaisedError) else f"raised {type(error).__name__}: {error}"


class RaisedError(Exception):
    """An error of a client's function in another process, in words."""


def pause(job: LocalJob) -> Outcome:
    """Pass a job to the engine that runs this client, and resume with its outcome."""
    engine: Any = getcurrent().parent
    outcome: Outcome = engine.switch(job)
    return outcome


def _alike(model: Trainable, jobs: Mapping[str, LocalJob]) -> list[Sequence[str]]:
    """Names of jobs that can be trained together, groups in the order of their first job."""
    groups: list[tuple[object, list[str]]] = []
    if not model.stackable:
        return [[name] for name in jobs]
    for name, job in jobs.items():
        key = kind(model, job)
        for other, names in groups:
            if other == key and same_base(jobs[names[0]].start, job.start):
                names.append(name)
                break
        else:
            groups.append((key, [name]))
    return [names for _, names in groups]
