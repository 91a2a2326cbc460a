"""The engine of workers: the bits of the local engine, whatever the number of workers and whichever of them is lost."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from fedloom.core.activity import told_to
from fedloom.core.payload import Payload
from fedloom.core.tensor_files import digest_of
from fedloom.core.tensor_messages import pack, unpack
from fedloom.experiment import build as building
from fedloom.experiment.settings import Experiment
from fedloom.experiment.workers import make_worker
from fedloom.federation.loop import Federation
from fedloom.federation.process_pool import ProcessPool
from fedloom.federation.run_folder import RunFolder
from fedloom.methods import METHODS
from tests.federation.inline_pool import Dies, InlinePool

SMALL: dict[str, Any] = {
    "rounds": 2,
    "data": {"clients": {"image": 2, "audio": 1, "text": 1}, "train": 8, "test": 2},
    "training": {"batch_size": 4},
}
METHODS_OF_MANY_KINDS = {
    "fedavg-lora": "one shared adapter",
    "feda2-lora": "two asks a round",
    "fedsa-lora": "personal factors",
    "fedex-lora": "a base that moves",
    "scaffold": "a state of each client",
    "feddpa-lora": "two adapters and prompts",
    "pfedmma": "CLIP",
    "fedmmkt": "models of their own",
}


@pytest.fixture
def with_workers(monkeypatch, quick, federate) -> Callable[..., Federation]:
    """A federation whose workers are inline."""

    def make(experiment: Experiment, count: int, folder: str, dies: Dies = lambda cohort, sent: False) -> Any:
        def pool(chosen: Experiment, load: Any, inside: Any) -> InlinePool:
            return InlinePool(partial(make_worker, chosen, load, count, False, inside), count, dies)

        with monkeypatch.context() as patch:
            patch.setattr(building, "worker_pool", pool)
            return federate(experiment, folder)

    return make


def outcome(federation: Federation) -> dict[str, Any]:
    """Everything that a run leaves, but for its seconds."""
    federation.run()
    assert federation.folder is not None
    tensors = {**federation.state.shared, **{f"state:{n}": t for n, t in federation.state.tensors.items()}}
    for client in federation.clients.values():
        tensors |= {f"{client.name}:{n}": t for n, t in client.personal.items()}
    ledger = [
        {n: v for n, v in entry.items() if n != "seconds"}
        for entry in federation.folder.history("ledger.jsonl")
    ]
    return {
        "tensors": digest_of(tensors),
        "metrics": federation.folder.history("metrics.jsonl"),
        "ledger": ledger,
        "status": federation.status(),
    }


def settings(method: str) -> dict[str, Any]:
    if METHODS[method].public_items:
        return {"rounds": 1}
    return {"rounds": 2} if method == "pfedmma" else SMALL


@pytest.mark.parametrize("method", METHODS_OF_MANY_KINDS)
def test_methods_end_with_the_same_bits_in_workers(method, quick, federate, with_workers) -> None:
    experiment = quick(method, engine={"cohort": 2, "threads": 1}, **settings(method))
    want = outcome(federate(experiment, "local"))
    found, told = with_workers(experiment, 2, "workers"), []
    with told_to(told.append):
        assert outcome(found) == want
    assert any(text.endswith("clients answered, 2 of 2 workers at work") for text in told)
    used = {worker for worker, _ in found.engine.pool.sent}
    assert used == {0, 1}, "both were at work"


@pytest.mark.parametrize("engine", [{"cohort": "off"}, {"cohort": 3, "wire": True}])
def test_the_number_of_workers_and_the_wire_change_no_bit(engine, quick, federate, with_workers) -> None:
    experiment = quick("fedsa-lora", engine={"threads": 1, **engine}, **SMALL)
    want = outcome(federate(experiment, "local"))
    for count in (1, 3):
        assert outcome(with_workers(experiment, count, f"workers-{count}")) == want


def test_a_secure_sum_keeps_its_secrets_in_the_run_and_trains_in_workers(
    quick, federate, with_workers
) -> None:
    pytest.importorskip("cryptography")
    privacy = {"secure": {}}
    data = {"clients": {"image": 6}, "train": 4, "test": 1}
    experiment = quick(
        "fedavg-lora", rounds=1, data=data, privacy=privacy, engine={"cohort": 2, "threads": 1}
    )
    local = federate(experiment, "local")
    local.run()
    found = with_workers(experiment, 2, "workers")
    found.run()
    assert digest_of(found.state.shared) == digest_of(local.state.shared)
    assert sum(len(names) for _, names in found.engine.pool.sent) == 6, "only the training leaves the process"


def test_a_client_that_raises_is_refused_by_its_own_words(quick, federate, with_workers, monkeypatch) -> None:
    client_function = METHODS["fedavg-lora"].client

    def spoilt(self: Any, request: str, payload: Payload, trainer: Any) -> Payload:
        if trainer.client == "image-02":
            raise ValueError("no such picture")
        return client_function(self, request, payload, trainer)

    monkeypatch.setattr(METHODS["fedavg-lora"], "client", spoilt)
    experiment = quick("fedavg-lora", engine={"cohort": 2, "threads": 1}, **SMALL)
    want = outcome(federate(experiment, "local"))
    found = outcome(with_workers(experiment, 2, "workers"))
    assert found == want
    assert found["ledger"][0]["refused"] == {"image-02": "raised ValueError: no such picture"}


def test_a_lost_worker_costs_its_cohort_a_second_try_and_a_note(quick, federate, with_workers) -> None:
    experiment = quick("fedsa-lora", engine={"cohort": 2, "threads": 1}, **SMALL)
    want = outcome(federate(experiment, "local"))
    found = outcome(with_workers(experiment, 2, "workers", lambda cohort, sent: sent == 1))
    [note] = found["ledger"][0]["notes"]
    assert note == "a worker was ended by SIGKILL with image-02, text-01: they were tried again"
    found["ledger"][0]["notes"] = []
    assert found == want


def test_a_client_whose_work_ends_its_worker_again_and_again_is_refused_by_name(
    quick, federate, with_workers
) -> None:
    experiment = quick("fedsa-lora", engine={"cohort": 4, "threads": 1}, **SMALL)
    federation = with_workers(experiment, 2, "workers", lambda cohort, sent: "image-01" in cohort.calls)
    found = outcome(federation)
    for entry in found["ledger"]:
        assert entry["refused"] == {"image-01": "lost: its worker was ended by SIGKILL, 2 times"}
        assert entry["answered"] == ["audio-01", "image-02", "text-01"]
        assert "they were tried one by one" in " ".join(entry["notes"])
    assert len(federation.engine.pool.sent) == 2 * (2 + 2 + 3), (
        "two cohorts, the client twice, the others once"
    )


def test_a_worker_with_other_data_or_adapters_is_refused(quick, federate, with_workers) -> None:
    experiment = quick("fedsa-lora", engine={"cohort": 2, "threads": 1}, **SMALL)
    federation = with_workers(experiment, 1, "workers")
    worker = federation.engine.pool.workers[0]
    worker.model.start["llm/x"] = torch.zeros(1)
    with pytest.raises(ValueError, match="a worker begins with other adapters than the run"):
        federation.run()
    federation = with_workers(experiment, 1, "fewer")
    worker = federation.engine.pool.workers[0]
    worker.clients["image-01"].data.train.pop()
    with pytest.raises(
        ValueError, match="a worker finds 7 training samples of client image-01 and the run 8"
    ):
        federation.run()


def test_workers_without_a_cohort_are_said(quick, federate, with_workers) -> None:
    one = with_workers(quick("fedsa-lora", engine={"cohort": 2, "threads": 1}, **SMALL), 3, "three")
    assert "2 of 3 workers have work: a round has 2 cohorts of 2 clients" in one.engine.model.notes
    two = with_workers(quick("fedsa-lora", engine={"cohort": 2, "threads": 1}, **SMALL), 2, "two")
    assert not any("workers have work" in note for note in two.engine.model.notes)


def test_a_message_holds_each_tensor_once_and_keeps_its_bits() -> None:
    one = torch.randn(3, 4)
    message = {
        "a": one,
        "b": [one, one.to(torch.bfloat16)],
        "c": (torch.empty(0, 2), torch.tensor(5), torch.tensor([True])),
    }
    packed = pack(message)
    assert len(packed.tensors) == 5
    found = unpack(packed)
    assert found["a"] is found["b"][0]
    assert torch.equal(found["b"][1], message["b"][1])
    assert found["c"][0].shape == (0, 2)
    assert found["c"][1].item() == 5


def test_an_experiment_that_cannot_be_sent_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"engine\.workers: the experiment cannot be sent to a process"):
        ProcessPool(lambda number: None, 1)  # type: ignore[arg-type, return-value]


def test_a_run_folder_of_workers_is_that_of_the_local_engine(quick, with_workers, tmp_path) -> None:
    experiment = quick("fedsa-lora", engine={"cohort": 2, "threads": 1}, **SMALL)
    with_workers(experiment, 2, "workers").run()
    resumed = building.build(experiment, RunFolder(tmp_path / "workers"), lambda progress: None)
    resumed.resume(resumed.folder.last())
    assert resumed.round == 2
    assert set(resumed.client_states._rounds) == set(resumed.clients)
