"""Clients' own tensors lie on disk while they are idle, and nothing in a round looks at clients that are not asked."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fedloom.core.payload import Payload
from fedloom.experiment.run import run
from fedloom.federation.client import Client
from fedloom.federation.client_states import ClientStates
from fedloom.methods import Trainer
from fedloom.methods.fedavg_lora import FedAvgLoRA
from fedloom.tasks.evaluation import Evaluation, evaluated_clients

DATA = {"clients": {"image": 6}, "train": 6, "test": 1}
HALF = {"fraction": 0.5}


def everything(federation) -> dict[str, Tensor]:
    found = dict(federation.state.shared)
    for client in federation.clients.values():
        found |= {f"{client.name}:{n}": t for n, t in client.personal.items()}
    return found


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def tensors_in(value: Any, seen: set[int]) -> int:
    """How many tensors can be reached from a value of ours, not following into data or models."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        return 1
    if isinstance(value, Mapping):
        return sum(tensors_in(v, seen) for v in value.values())
    if isinstance(value, list | tuple | set):
        return sum(tensors_in(v, seen) for v in value)
    return sum(tensors_in(v, seen) for v in vars(value).values()) if isinstance(value, ClientStates) else 0


@pytest.mark.parametrize("folder", [None, "run"])
def test_no_client_holds_a_tensor_while_it_is_idle(folder, quick, federate) -> None:
    federation = federate(quick("fedsa-lora", data=DATA), folder)
    federation.run()
    first = next(iter(federation.clients.values()))
    for client in federation.clients.values():
        assert client.begin is first.begin, "what nobody has trained yet exists once"
        assert client.states is federation.client_states
        held = {k: v for k, v in vars(client).items() if k not in ("data", "begin", "prepared")}
        assert tensors_in(held, set()) == 0
    assert not same(first.personal, first.held(first.begin)), "it has trained, and reads what it keeps"


def test_a_round_reads_and_writes_the_asked_clients_only(quick, federate, monkeypatch) -> None:
    federation = federate(quick("fedsa-lora", data=DATA, cohort=HALF, rounds=3), "run")
    read: list[str] = []
    original = ClientStates.read
    monkeypatch.setattr(ClientStates, "read", lambda self, name: read.append(name) or original(self, name))
    monkeypatch.setattr(federation, "_assess", lambda number, ends: {})
    federation.run()
    asked = [entry["asked"] for entry in federation.folder.history("ledger.jsonl")]
    assert sorted(read) == sorted(name for names in asked for name in names)
    clients = federation.folder.state / "clients"
    index = [json.loads(line) for line in (clients / "index.jsonl").read_text().splitlines()]
    assert index == [{"round": n, "clients": names} for n, names in enumerate(asked, 1)]
    last = {name: n for n, names in enumerate(asked, 1) for name in names}
    files = {str(f.relative_to(clients)) for f in clients.glob("*/*")}
    assert files == {f"{name}/round-{n:06d}.safetensors" for name, n in last.items()}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def test_a_run_of_half_cohorts_resumes_to_the_same_bits_and_cleans_up(quick, federate, tmp_path) -> None:
    experiment = quick("fedsa-lora", data=DATA, cohort=HALF, rounds=4, engine={"memory": 0})
    whole = federate(experiment, "whole")
    whole.run()

    def stop(told: Any) -> None:
        if told.round == 3 and told.client is not None:
            raise Killed

    with pytest.raises(Killed):
        run(experiment, tmp_path / "cut", observe=stop)
    state = tmp_path / "cut" / "state"
    assert list((state / "clients").glob("*/round-000003.safetensors")), "written before the round counts"
    (state / "clients" / "image-01" / "round-000009.safetensors").parent.mkdir(exist_ok=True)
    (state / "clients" / "image-01" / "round-000009.safetensors").write_bytes(b"left behind")
    with (state / "clients" / "index.jsonl").open("a") as index:
        index.write('{"round": 9, "clients": ["image-01"]}\n{"round": 10, "cli')
    (state / ".uploads-left").mkdir()
    from fedloom.experiment.build import build
    from fedloom.federation.run_folder import RunFolder

    again = build(experiment, RunFolder(tmp_path / "cut"), lambda told: None)
    again.resume(again.folder.last())
    assert again.round == 2
    assert not (state / "clients" / "image-01" / "round-000009.safetensors").exists()
    assert not (state / ".uploads-left").exists()
    again.run()
    assert same(everything(again), everything(whole))
    assert (state / "clients" / "index.jsonl").read_bytes() == (
        tmp_path / "whole" / "state" / "clients" / "index.jsonl"
    ).read_bytes()


def test_a_client_that_raises_keeps_what_it_had(quick, federate) -> None:
    federation = federate(quick("fedsa-lora", data=DATA, rounds=1))
    client = federation.clients["image-01"]
    before = client.personal

    class Breaks(type(federation.method)):  # type: ignore[misc]
        def answer(self, trainer: Trainer, *given: Any) -> Payload:
            super().answer(trainer, *given)
            if trainer.client == "image-01":
                raise RuntimeError("disk on fire")
            return Payload({}, {"examples": 1})

    federation.experiment = federation.experiment.model_copy(update={"method": Breaks()})
    federation.run()
    assert same(client.personal, before)
    assert not same(federation.clients["image-02"].personal, before)


def test_the_mean_of_b_over_all_clients_reads_one_at_a_time(quick, federate, monkeypatch) -> None:
    federation = federate(quick({"name": "fedsa-lora", "unseen": "mean_b"}, data=DATA, rounds=1))
    federation.run()
    name = next(n for n in federation.clients["image-01"].personal)
    wanted = sum(c.personal[name].double() for c in federation.clients.values()) / 6
    torch.testing.assert_close(federation.global_model()[name].double(), wanted)


class Meddler(FedAvgLoRA):
    """Clients that write over what they got, and later over what they sent."""

    name = "meddler"

    def client(self, task: str, payload: Payload, trainer: Trainer) -> Payload:
        for sent in SENT:
            for tensor in sent.values():
                tensor.fill_(1e9)
        SEEN.append({n: t.clone() for n, t in payload.tensors.items()})
        for tensor in payload.tensors.values():
            tensor.add_(100.0)
        payload.tensors.clear()
        reply = {n: t + 0.01 for n, t in SEEN[-1].items()}
        SENT.append(reply)
        return Payload(reply, {"examples": 1})


SEEN: list[dict[str, Tensor]] = []
SENT: list[dict[str, Tensor]] = []


def test_no_client_changes_what_the_server_or_another_client_has(quick, federate) -> None:
    SEEN.clear(), SENT.clear()
    data = {"clients": {"image": 3}, "train": 2, "test": 1}
    federation = federate(quick(Meddler(), data=data, rounds=2))
    start = {n: t.clone() for n, t in federation.state.shared.items()}
    federation.run()
    first, second = SEEN[:3], SEEN[3:]
    assert all(same(seen, {n: start[n] for n in seen}) for seen in first)
    assert all(torch.allclose(t, start[n] + 0.01, atol=1e-6) for seen in second for n, t in seen.items())
    held = {n: t for n, t in federation.state.shared.items() if n in SEEN[0]}
    assert all(torch.allclose(t, start[n] + 0.02, atol=1e-6) for n, t in held.items())
    assert same(federation.engine.model.start, {**federation.engine.model.start, **start})


def test_the_clients_evaluated_are_one_seeded_draw(quick, federate) -> None:
    names = [f"client-{i:02d}" for i in range(20)]
    few = Evaluation(clients=5)
    chosen = evaluated_clients(names, few, seed=3)
    assert chosen == sorted(chosen) == evaluated_clients(names[::-1], few, seed=3)
    assert len(set(chosen)) == 5
    assert evaluated_clients(names, few, seed=4) != chosen
    assert (
        evaluated_clients(names, Evaluation(), seed=3)
        == evaluated_clients(names, Evaluation(clients=99), seed=3)
        == names
    )
    runs = {}
    for clients in (None, 2):
        evaluation = {"generate": False, "controls": False, "clients": clients}
        runs[clients] = federate(quick("fedsa-lora", data=DATA, rounds=1, evaluation=evaluation))
        runs[clients].run()
    assert len(set(runs[2].evaluator.tests.of)) == 2
    assert set(runs[2].client_metrics) == set(runs[2].evaluator.tests.of)
    assert runs[2].last_metrics["local/image/samples"] == 2
    assert same(everything(runs[None]), everything(runs[2])), "what is measured changes no training"
    both = runs[None].client_metrics
    assert all(runs[2].client_metrics[c] == both[c] for c in runs[2].client_metrics)


def test_a_client_alone_keeps_its_tensors_in_a_temporary_folder(quick, federate) -> None:
    federation = federate(quick("fedsa-lora", data=DATA, rounds=1))
    single = Client(federation.clients["image-01"].data, frozenset({"llm"}))
    single.states.write("image-01", 1, {"llm/b": torch.ones(2)})
    assert single.personal["llm/b"].tolist() == [1.0, 1.0]
    single.personal["llm/b"].zero_()
    assert single.personal["llm/b"].tolist() == [1.0, 1.0], "what is read is the reader's own"
