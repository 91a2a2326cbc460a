"""Sentences about a planning process that ends without a result."""

import pytest

import fedloom
from fedloom.core.errors import ExperimentError
from fedloom.experiment.plan import process


@pytest.mark.parametrize(
    ("code", "says"), [(-9, "most likely because memory ran out"), (1, "ended with exit code 1")]
)
def test_a_process_that_is_ended_from_outside_is_said(
    code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended:
        exitcode = code

        def __init__(self, **settings: object) -> None:
            self.send = settings["args"][0]  # type: ignore[index]

        def start(self) -> None:
            self.send.close()

        def join(self) -> None: ...

        def terminate(self) -> None: ...

    context = process.get_context("spawn")
    monkeypatch.setattr(process, "get_context", lambda kind: context)
    monkeypatch.setattr(context, "Process", Ended)
    experiment = fedloom.Experiment.parse({"method": "fedavg-lora", "row": "FedAvg"})
    with pytest.raises(ExperimentError, match=f"FedAvg: .*{says}"):
        process.plan(experiment, probe=False)
