"""The local engine: all clients in this process, one after another, on one frozen foundation: every engine's reference."""

import time
from collections.abc import Callable, Mapping

from fedloom.client import Client, Round
from fedloom.exchange import Payload
from fedloom.firewall import Reply
from fedloom.methods import Method
from fedloom.model import AdaptedModel
from fedloom.training import Training


class LocalEngine:
    """Asks clients in this process. `wire` sends every payload through its bytes, as a deployment does."""

    def __init__(
        self,
        model: AdaptedModel,
        clients: Mapping[str, Client],
        training: Training,
        *,
        wire: bool = False,
    ) -> None:
        self.model = model
        self.clients = dict(clients)
        self.training = training
        self.wire = wire

    def ask(
        self,
        method: Method,
        task: str,
        payloads: Mapping[str, Payload],
        at: Round,
        done: Callable[[str, float], None] = lambda client, seconds: None,
        received: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> list[Reply]:
        """One reply per asked client, each handed to `received` as it arrives, which says what to keep of it.

        A client that raises gives a reply with the error; it never ends the run.
        """
        replies = []
        for name, payload in payloads.items():
            began = time.perf_counter()
            replies.append(received(self._ask_one(self.clients[name], method, task, payload, at)))
            done(name, time.perf_counter() - began)
        self.model.rest()
        return replies

    def _ask_one(self, client: Client, method: Method, task: str, payload: Payload, at: Round) -> Reply:
        if self.wire:
            payload = Payload.decode(payload.encode())
        try:
            answer = client.answer(method, task, payload, self.model, self.training, at)
        except Exception as error:  # whatever goes wrong at one client is that client's refusal
            return Reply(client.name, error=f"raised {type(error).__name__}: {error}")
        if self.wire:
            answer = Payload.decode(answer.encode())
        return Reply(client.name, answer)
