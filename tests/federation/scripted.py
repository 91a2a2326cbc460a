"""A federation whose clients do not train: each reply is written by a test."""

from collections.abc import Callable, Mapping
from typing import Any

from fedloom.core.payload import Payload, Reply
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from fedloom.federation.client import Client
from fedloom.federation.loop import Federation
from fedloom.federation.run_folder import RunFolder
from fedloom.tasks.evaluation import Assessment

Script = Callable[[str, Reply], Reply | None]


class Scripted:
    """An engine: every client sends back what it got, moved by 0.01, after `script` has changed the reply."""

    def __init__(self, model: Any, clients: Mapping[str, Client]) -> None:
        self.model, self.clients = model, dict(clients)
        self.script: Script = lambda client, reply: reply

    def ask(self, method: Any, request: str, payloads: Any, at: Any, done: Any, received: Any) -> list[Reply]:
        replies = []
        for client in payloads:
            tensors = {n: t + 0.01 for n, t in payloads[client].tensors.items()}
            numbers = {"round": at.number, "examples": 4, "steps": 2, "loss": 0.5}
            reply = self.script(client, Reply(client, Payload(tensors, numbers)))
            if reply is not None:
                replies.append(received(reply))
        return replies


class Unmeasured:
    """An evaluator without figures."""

    tests: Any = None

    def assess(self, snapshot: Any) -> Assessment:
        return Assessment({}, {"nobody": {}}, [])

    def controls(self, common: Any) -> dict[str, float]:
        return {}


class Scripts:
    """Federations of three clients with pictures, on one model that is loaded once."""

    def __init__(self) -> None:
        self.base = build(Experiment.parse(self.fields()), None, lambda told: None)

    @staticmethod
    def fields(**settings: Any) -> dict[str, Any]:
        return {
            "rounds": 1,
            "method": "fedavg-lora",
            "data": {"clients": {"image": 3}, "train": 4, "test": 1},
            "model": {"llm_lora": {"rank": 2}, "encoder_lora": {"rank": 2}},
            "evaluation": {"generate": False, "controls": False, "samples": 0},
            **settings,
        }

    def federation(self, script: Script, folder: RunFolder | None = None, **settings: Any) -> Federation:
        of = self.base
        clients = {n: type(c)(c.data, c.groups) for n, c in of.clients.items()}
        engine = Scripted(of.engine.model, clients)
        engine.script = script
        if folder is not None:
            folder.create()
        return Federation(Experiment.parse(self.fields(**settings)), engine, Unmeasured(), folder)
