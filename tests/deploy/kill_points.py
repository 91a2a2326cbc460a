"""The points of a round at which a test kills the server."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from fedloom.federation.loop import Federation
from tests.deploy.silos import Killed, Silos, question_of

POINTS = (
    "before send",
    "after the first upload",
    "while aggregating",
    "while evaluating",
    "while writing the histories",
    "while writing the checkpoint",
    "before the checkpoint counts",
)


def kill_at(
    point: str,
    silos: Silos,
    monkeypatch: pytest.MonkeyPatch,
    *,
    request: str = "train",
    aggregating: str = "fedloom.methods.fedsa_lora.FedSALoRA.round",
) -> None:
    """Kill the server at a named point of round 2, once.

    `request`: the request of this round whose messages count. `aggregating`: the method's function on the server; its last
    argument is the ask.
    """
    due = [True]

    def strike() -> None:
        if due:
            due.clear()
            raise Killed

    if point in ("before send", "after the first upload"):

        def between(name: str, question: bytes) -> Iterator[tuple[str, bytes]]:
            second = question_of(question, request, round=2)
            if second and point == "before send":
                strike()
            answer = silos.trainer(name).answer(question)
            if second and point == "after the first upload":
                strike()
            yield name, answer

        silos.between = between
        return
    place, _, name = {
        "while aggregating": aggregating,
        "while evaluating": "fedloom.federation.loop.Federation._assess",
        "while writing the histories": "fedloom.federation.run_folder.RunFolder.append",
        "while writing the checkpoint": "fedloom.federation.run_folder.save_checked",
        "before the checkpoint counts": "pathlib.Path.rename",
    }[point].rpartition(".")
    owner: Any = _resolve(place)
    original = getattr(owner, name)

    def struck(*arguments: Any, **options: Any) -> Any:
        at = [s for s in arguments if isinstance(s, Federation)]
        where = repr(arguments) if "checkpoint" in point else ""
        if point == "while aggregating":
            result = original(*arguments, **options)
            if arguments[-1].round == 2:
                strike()
            return result
        if point == "while evaluating" and at and arguments[1] == 2:
            strike()
        if point == "while writing the histories" and arguments[1] == "ledger.jsonl":
            lines = list(arguments[2])
            if any(line["round"] == 2 and line["request"] == request for line in lines):
                with (arguments[0].path / arguments[1]).open("a") as file:
                    file.write('{"round": 2, "tas')
                strike()
            return original(arguments[0], arguments[1], lines)
        if point == "while writing the checkpoint" and "round-000002" in where:
            arguments[1].write_bytes(b"half a file")
            strike()
        if point == "before the checkpoint counts" and ".round-000002" in where:
            strike()
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, struck)


def _resolve(place: str) -> Any:
    try:
        return import_module(place)
    except ModuleNotFoundError:
        module, _, name = place.rpartition(".")
        return getattr(import_module(module), name)
