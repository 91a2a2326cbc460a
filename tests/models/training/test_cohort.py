"""A cohort trained together ends where its clients would end one after another."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fedloom.experiment.settings import Experiment
from fedloom.methods import METHODS
from fedloom.models.training.settings import Training
from fedloom.models.training.stacked_optimizer import StackedAdamW, StackedSGD

MIXED = {"clients": {"image": 2, "audio": 1, "both": 1}, "train": 5, "test": 1}
"""5 samples in batches of 4: the last batch has one, and a client with both modalities lacks one of them there."""
FOUR = {"batch_size": 4}
IMAGES = {"clients": {"image": 3}, "train": 7, "test": 1}
TEXT = {
    "source": "text",
    "clients": {"text": 3},
    "train": 20,
    "test": 2,
    "task": "entailment",
    "dirichlet": 0.5,
}
VERA = {"llm_lora": {"kind": "vera", "rank": 16}, "encoder_lora": {"kind": "vera", "rank": 16}}
DROPOUT = {"llm_lora": {"rank": 4, "dropout": 0.2}, "encoder_lora": {"rank": 3, "dropout": 0.1}}


@pytest.fixture
def trained(quick, federate):
    """All tensors that a run in float64 ends with, and the federation."""

    def run(cohort: Any, settings: dict[str, Any], spy: Any = None) -> tuple[dict[str, torch.Tensor], Any]:
        few = {"generate": False, "controls": False, "samples": 0, "clients": 1}
        federation = federate(quick(**{"evaluation": few, **settings, "engine": {"cohort": cohort}}))
        model = federation.engine.model
        model.root.double()
        model.start = {n: t.double() for n, t in model.start.items()}
        federation = replace(federation)
        if spy is not None:
            spy(federation)
        federation.run()
        tensors = {**federation.state.shared, **federation.state.tensors}
        for client in federation.clients.values():
            tensors |= {f"{client.name}:{n}": t for n, t in client.personal.items()}
        return tensors, federation

    return run


def agree(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_gives_the_same_together_as_one_after_another(method, trained) -> None:
    settings = {"method": method, "data": MIXED, "training": FOUR}
    agree(trained("off", settings)[0], trained(4, settings)[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "feda2-lora", "data": MIXED, "model": DROPOUT, "training": FOUR, "rounds": 1},
        {"method": "feda2-lora", "data": IMAGES, "model": VERA},
        {"method": "hetlora", "data": IMAGES, "cohort": {"ranks": {"llm": [4, 2], "encoder": [3, 1]}}},
        {"method": "flora", "data": IMAGES, "cohort": {"ranks": {"llm": [4, 2]}, "alpha": "fixed"}},
        {"method": "fedavg-lora", "data": TEXT, "model": {}},
        {"method": "feddpa-lora", "data": TEXT, "model": {}},
        {"method": "fedavg-lora", "data": MIXED, "training": {"batch_size": 3, "epochs": 2, "clip": None}},
        {"method": "fedavg-lora", "data": IMAGES, "training": {"batch_size": 2, "weight_decay": 0.1}},
    ],
    ids=["dropout", "vera", "ranks", "scales", "head-dropout", "second-adapter", "epochs", "decay"],
)
def test_so_it_is_with(settings, trained) -> None:
    agree(trained("off", settings)[0], trained(4, settings)[0])


def test_ten_times_more_clients_than_a_cohort_holds(federate) -> None:
    ends = []
    for cohort in ("off", 2):
        fields = {
            "rounds": 1,
            "method": "pfedmma",
            "data": {
                "source": "classes",
                "clients": {"image": 20},
                "test": 1,
                "partition": {"kind": "few-shot", "shots": 2, "balanced": True},
            },
            "training": {"batch_size": 4, "optimizer": "sgd", "lr": 0.02, "clip": None},
            "evaluation": {"generate": False, "controls": False, "samples": 0, "clients": 1},
            "engine": {"cohort": cohort},
        }
        federation = federate(Experiment.parse(fields))
        model = federation.engine.model
        model.root.double()
        model.start = {n: t.double() for n, t in model.start.items()}
        federation = replace(federation)
        federation.run()
        own = {f"{c.name}:{n}": t for c in federation.clients.values() for n, t in c.personal.items()}
        ends.append({**federation.state.shared, **own})
        assert len(federation.clients) == 20
    agree(*ends)


def test_clients_of_unequal_size_leave_the_batch_one_by_one(trained) -> None:
    def shorten(federation: Any) -> None:
        for name, keep in (("image-01", 2), ("image-02", 5)):
            client = federation.clients[name]
            client.data = replace(client.data, train=client.data.train[:keep])

    settings = {"method": "fedavg-lora", "data": IMAGES, "training": {"batch_size": 2}}
    agree(trained("off", settings, shorten)[0], trained(3, settings, shorten)[0])


def test_a_loss_that_blows_up_costs_its_own_client_only(trained) -> None:
    def spoil(federation: Any) -> None:
        client = federation.clients["image-02"]
        for example in client.examples(federation.engine.model):
            example.inputs["image"].fill_(float("inf"))

    settings = {"method": "fedavg-lora", "data": IMAGES, "rounds": 1}
    one, single = trained("off", settings, spoil)
    two, joint = trained(3, settings, spoil)
    agree(one, two)
    assert single.totals.refused == joint.totals.refused == 1
    assert all(torch.isfinite(t).all() for t in two.values())


def test_clients_are_really_trained_together(trained, monkeypatch) -> None:
    import fedloom.federation.local_engine as engine

    sizes: list[int] = []
    original = engine.train_cohort
    monkeypatch.setattr(
        engine, "train_cohort", lambda model, jobs: (sizes.append(len(jobs)), original(model, jobs))[1]
    )
    trained(2, {"method": "fedavg-lora", "data": {**IMAGES, "clients": {"image": 5}}, "rounds": 1})
    assert sizes == [2, 2]  # and the fifth alone
    sizes.clear()
    trained("off", {"method": "fedavg-lora", "data": IMAGES, "rounds": 1})
    assert sizes == []


def test_auto_is_written_down_as_a_number(quick, federate) -> None:
    federation = federate(quick("fedavg-lora", data=IMAGES))
    assert federation.experiment.engine.cohort == federation.engine.cohort > 1
    again = Experiment.parse(federation.experiment.as_dict())
    assert again.engine.cohort == federation.engine.cohort


@pytest.mark.parametrize("rates", [(0.1, 0.1, 0.1), (0.1, 0.02, 0.3)], ids=["one-rate", "rates"])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_stacked_optimiser_is_one_optimiser_per_client(decay, name, rates) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes, clients = [(3, 5), (4,), (2, 3)], 3
    starts = [torch.randn(clients, *s, generator=draw, dtype=torch.float64) for s in shapes]
    stacked = [nn.Parameter(t.clone()) for t in starts]
    if name == "adamw":
        settings = {"betas": Training().betas, "weight_decay": decay}
        ours, kind = StackedAdamW(stacked, rates, **settings), torch.optim.AdamW
    else:
        settings = {"momentum": 0.9, "weight_decay": decay}
        ours, kind = StackedSGD(stacked, rates, **settings), torch.optim.SGD
    single = [[nn.Parameter(t[k].clone()) for t in starts] for k in range(clients)]
    theirs = [
        kind([{"params": [t], "lr": lr} for t, lr in zip(p, rates, strict=True)], **settings) for p in single
    ]
    for _ in range(6):
        active = torch.rand(clients, len(shapes), generator=draw) < 0.7
        ours.zero_grad()
        for k in range(clients):
            theirs[k].zero_grad(set_to_none=True)
            for i, shape in enumerate(shapes):
                if active[k, i]:
                    gradient = torch.randn(shape, generator=draw, dtype=torch.float64)
                    stacked[i].grad[k] += gradient
                    single[k][i].grad = gradient.clone()
            if active[k].any():
                nn.utils.clip_grad_norm_(single[k], 1.0)
            theirs[k].step()
        ours.clip(1.0)
        ours.step(active)
        for i in range(len(shapes)):
            expected = torch.stack([single[k][i].detach() for k in range(clients)])
            torch.testing.assert_close(stacked[i].detach(), expected, rtol=1e-12, atol=1e-12)
