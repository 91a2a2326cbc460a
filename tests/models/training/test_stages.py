"""UniFLoW's acceptance tests that need a model: stage isolation, modality isolation, untouched groups, cached features."""

import pytest
import torch

from fedloom.core.payload import Payload, group_of
from fedloom.methods import METHODS


def changed_groups(federation, before) -> set[str]:
    after = federation.state.shared
    return {group_of(n) for n in after if not torch.equal(after[n], before[n])}


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"tau": 1.0}, {"encoder.image", "projector"}),
        ({"tau": 1.0, "projector": "frozen"}, {"encoder.image"}),
        ({"tau": 0.0}, {"llm"}),
        ({"tau": 0.0, "projector": "stage2"}, {"llm", "projector"}),
        ({"schedule": "rounds", "rho": 1.0}, {"encoder.image", "projector"}),
        ({"schedule": "rounds", "rho": 0.0}, {"llm"}),
        ({}, {"encoder.image", "llm", "projector"}),
    ],
)
def test_only_what_a_stage_trains_changes(training, expected, quick, federate) -> None:
    data = {"clients": {"image": 2}, "train": 12, "test": 2}
    federation = federate(quick("feda2-lora", rounds=2, data=data, training={"batch_size": 6, **training}))
    before = federation.state.shared
    federation.run()
    assert changed_groups(federation, before) == expected


@pytest.mark.parametrize("mode", ["strict", "always", "relative", "centred"])
def test_groups_that_nobody_trained_keep_every_bit_in_every_solver_mode(mode, quick, federate) -> None:
    method = {"name": "feda2-lora", "mode": mode}
    first = federate(quick(method, training={"tau": 1.0, "batch_size": 6}))
    first.run()
    trained = first.state
    second = federate(quick(method, rounds=1, training={"tau": 0.0, "batch_size": 6}))
    second.state = trained
    second.run()
    assert changed_groups(second, trained.shared) == {"llm"}


def test_a_client_without_a_modality_changes_no_tensor_of_its_encoder(quick, federate) -> None:
    federation = federate(
        quick("feda2-lora", data={"clients": {"image": 1, "audio": 1, "text": 1}, "train": 12, "test": 2})
    )
    exchanges = []
    original = federation.engine._ask_one

    def spy(client, method, task, payload, at):
        reply = original(client, method, task, payload, at)
        exchanges.append(
            (
                client.name,
                {group_of(n) for n in payload.tensors},
                {group_of(n) for n in reply.payload.tensors},
            )
        )
        return reply

    federation.engine._ask_one = spy
    federation.run()
    own = {f"{m}-01": {f"encoder.{m}", "projector", "llm"} for m in ("audio", "image")} | {"text-01": {"llm"}}
    assert all(down == up == own[client] for client, down, up in exchanges)
    assert len(exchanges) == 6


@pytest.mark.parametrize("method", ["fedavg-lora", "feda2-lora"])
def test_with_one_holder_the_aggregate_is_the_holders_own(method, quick, federate) -> None:
    settings = {"name": method, "ridge": 0.0, "mode": "strict"} if method == "feda2-lora" else method
    federation = federate(
        quick(settings, rounds=1, data={"clients": {"image": 1, "audio": 1}, "train": 12, "test": 2})
    )
    sent = {}
    original = federation.engine._ask_one

    def spy(client, method, task, payload, at):
        reply = original(client, method, task, payload, at)
        sent.update(
            {n: t for n, t in reply.payload.tensors.items() if n.startswith(f"encoder.{client.name[:5]}")}
        )
        return reply

    federation.engine._ask_one = spy
    federation.run()
    for name in [n.removesuffix("lora_A") for n in sent if n.endswith("lora_A")]:
        A, B = sent[name + "lora_A"], sent[name + "lora_B"]
        merged = federation.state.shared[name + "lora_B"] @ federation.state.shared[name + "lora_A"]
        torch.testing.assert_close(merged, B @ A, rtol=1e-5, atol=1e-8)


def test_cached_features_give_the_losses_and_gradients_of_the_full_pass(quick, federate) -> None:
    model = federate(quick()).engine.model
    client = federate(quick()).clients["both-01"]
    examples = client.examples(model)[:6]
    parameters = model.begin([n for n in model.tensors if group_of(n) == "llm"])
    full = model.loss(examples)
    grads = torch.autograd.grad(full, parameters, allow_unused=True)
    cached = model.loss(examples, model.features(examples))
    again = torch.autograd.grad(cached, parameters, allow_unused=True)
    assert torch.equal(full, cached)
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True) if a is not None)
    model.rest()


def test_gradients_reach_every_adapter_of_the_stage_and_nothing_else(quick, federate) -> None:
    federation = federate(quick())
    model = federation.engine.model
    with torch.no_grad():
        for name, p in model.tensors.items():
            if name.endswith("lora_B"):
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    examples = federation.clients["both-01"].examples(model)
    for groups in ({"encoder.image", "encoder.audio", "projector"}, {"llm"}):
        model.begin([n for n in model.tensors if group_of(n) in groups])
        model.loss(examples).backward()
        for name, p in model.tensors.items():
            reached = p.grad is not None and bool(p.grad.any())
            assert reached == (group_of(name) in groups), name
        trained = {id(p) for p in model.tensors.values()}
        assert all(p.grad is None for p in model.mllm.parameters() if id(p) not in trained)
    model.rest()


def test_every_client_starts_from_the_broadcast_and_not_from_the_last_client(quick, federate) -> None:
    federation = federate(quick("feda2-lora"))
    at = None
    original = federation.engine._ask_one
    replies = {}

    def spy(client, method, task, payload, when):
        nonlocal at
        at = when
        replies[client.name] = original(client, method, task, payload, when)
        return replies[client.name]

    federation.engine._ask_one = spy
    federation.experiment = federation.experiment.model_copy(update={"rounds": 1})
    start = federation.state.shared
    federation.run()
    last = federation.clients["image-01"]
    down = Payload(start).only(lambda n: group_of(n) in last.groups)
    single = original(last, federation.method, "train", down, at)
    assert all(
        torch.equal(t, replies["image-01"].payload.tensors[n]) for n, t in single.payload.tensors.items()
    )


def test_all_methods_are_titled_and_described() -> None:
    for method in METHODS.values():
        assert method.title
        assert method.paper
        assert all(f.description for f in method.model_fields.values())
