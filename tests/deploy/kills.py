"""SIGKILL at named points: of the server in round 2, and of a site's trainer while it answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedloom.federation import run_folder
from fedloom.federation.loop import Federation
from fedloom.federation.run_folder import RunFolder
from tests.deploy.silos import Killed, Silos, question_of, reboot

POINTS = (
    "before send",
    "after the first upload",
    "while aggregating",
    "while evaluating",
    "while writing the histories",
    "while writing the checkpoint",
    "before the checkpoint counts",
)
"""Points of the server."""
MOMENTS = {
    "while training": "fedloom.federation.local_engine.train_one",
    "while writing its state": "fedloom.deploy.state.with_checksum",
    "before it keeps its answer": "fedloom.deploy.state.SiteState.keep",
}
"""Moments of a trainer, and what is running then."""


def kill_at(point: str, silos: Silos, monkeypatch: pytest.MonkeyPatch, request: str = "train") -> None:
    """Kill the server at a named point of round 2, once; `request` is the one whose messages count."""
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
    places: dict[str, tuple[Any, str]] = {
        "while aggregating": (type(silos.experiment.method), "round"),
        "while evaluating": (Federation, "_assess"),
        "while writing the histories": (RunFolder, "append"),
        "while writing the checkpoint": (run_folder, "save_checked"),
        "before the checkpoint counts": (Path, "rename"),
    }
    owner, name = places[point]
    original = getattr(owner, name)

    def struck(*arguments: Any, **options: Any) -> Any:
        at = [s for s in arguments if isinstance(s, Federation)]
        where = repr(arguments)
        if point == "while aggregating":
            result = original(*arguments, **options)
            if arguments[2].round == 2:
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


def kill_trainer(
    moment: str, silos: Silos, name: str, question: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill a site's trainer at a moment of its answer, and start it again."""

    def die(*arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MOMENTS[moment], die)
        with pytest.raises(Killed):
            silos.trainer(name).answer(question)
    reboot(silos, name)
