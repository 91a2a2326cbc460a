"""What FedSVD, FedRot-LoRA and HetLoRA's pruning promise beyond the contract matrix, on the shipped foundation."""

import pytest
import torch

from fedloom.aggregation import rotation
from fedloom.methods.hetlora import RANK
from tests.contract.test_family import IMAGES, listen

pytestmark = pytest.mark.identities


def places(tensors) -> list[str]:
    return sorted(n.removesuffix("lora_A") for n in tensors if n.endswith("lora_A"))


def product(tensors, place: str) -> torch.Tensor:
    return tensors[place + "lora_B"].double() @ tensors[place + "lora_A"].double()


def test_19_fedsvd_sends_b_keeps_the_mean_product_and_makes_a_orthonormal(quick, federate) -> None:
    federation = federate(quick("fedsvd", data=IMAGES))
    rounds = listen(federation)
    federation.run()
    replies = rounds[-1].values()
    sent = next(iter(replies))[0].tensors
    assert not any(n.endswith("lora_A") for _, up in replies for n in up.payload.tensors)
    trained = places(n for n in sent if n.removesuffix("A") + "B" in next(iter(replies))[1].payload.tensors)
    assert trained
    for place in trained:
        B = torch.stack([up.payload.tensors[place + "lora_B"].double() for _, up in replies]).mean(0)
        wanted = B @ sent[place + "lora_A"].double()
        now = federation.state.shared
        assert float((product(now, place) - wanted).norm() / wanted.norm()) < 1e-5
        A = now[place + "lora_A"].double()
        torch.testing.assert_close(A @ A.T, torch.eye(len(A), dtype=A.dtype), rtol=0, atol=1e-5)


def test_fedsvd_rewrites_every_period_only(quick, federate) -> None:
    federation = federate(quick({"name": "fedsvd", "period": 3}, data=IMAGES, rounds=2))
    before = dict(federation.state.shared)
    federation.run()
    after = federation.state.shared
    assert all(torch.equal(after[n], before[n]) for n in after if n.endswith("lora_A"))
    assert any(not torch.equal(after[n], before[n]) for n in after if n.endswith("lora_B"))


def test_fedrot_without_strength_is_averaging_and_with_it_keeps_every_clients_product(
    quick, federate
) -> None:
    plain = federate(quick("fedavg-lora", data=IMAGES, rounds=1))
    still = federate(quick({"name": "fedrot-lora", "strength": 0.0}, data=IMAGES, rounds=1))
    plain.run()
    still.run()
    for name, tensor in plain.state.shared.items():
        torch.testing.assert_close(still.state.shared[name], tensor, rtol=1e-5, atol=1e-7)

    turned = federate(quick({"name": "fedrot-lora", "strength": 1.0}, data=IMAGES, rounds=2))
    told = listen(turned)
    turned.run()
    still = federate(quick({"name": "fedrot-lora", "strength": 0.0}, data=IMAGES, rounds=2))
    mine = listen(still)
    still.run()
    moved = False
    for client, (sent, reply) in told[1].items():
        there, here = mine[1][client][1].payload.tensors, reply.payload.tensors
        for place in places(here):
            torch.testing.assert_close(product(here, place), product(there, place), rtol=1e-4, atol=1e-7)
            reference = sent.tensors[place + "lora_B"]
            nearest = rotation.rotate_b(there[place + "lora_A"], there[place + "lora_B"], reference)
            torch.testing.assert_close(here[place + "lora_B"], nearest[1], rtol=1e-4, atol=1e-7)
            moved |= not torch.equal(here[place + "lora_B"], there[place + "lora_B"])
    assert moved


def test_hetlora_cuts_a_clients_shortened_ranks_off_for_good(quick, federate) -> None:
    settings = {"data": IMAGES, "rounds": 3, "cohort": {"ranks": {"llm": [4], "encoder": [2]}}}
    # A penalty this strong shortens every tail in the second round; half of the ranks are its tail.
    federation = federate(quick({"name": "hetlora", "gamma": 1e4, "kept": 0.5}, **settings))
    rounds = listen(federation)
    federation.run()
    client = federation.clients["image-01"]
    ranks = {n.removesuffix(RANK): int(t) for n, t in client.personal.items() if n.endswith(RANK)}
    cut = {n: r for n, r in ranks.items() if r < (2 if n.startswith("encoder") else 4)}
    assert cut
    sent = rounds[-1]["image-01"][1].payload.tensors
    for name, rank in cut.items():
        assert not sent[name][rank:].any()
        assert not sent[name.removesuffix("lora_A") + "lora_B"][:, rank:].any()
        assert sent[name][:rank].any()

    whole = federate(quick({"name": "hetlora", "gamma": 1e4, "kept": 0.5, "prune": False}, **settings))
    whole.run()
    assert not any(n.endswith(RANK) for c in whole.clients.values() for n in c.personal)


def test_hetlora_weighs_by_the_update_with_its_scale() -> None:
    from fedloom.core.payload import Payload, Reply
    from fedloom.methods import METHODS

    pair = {"llm/q.lora_A": torch.ones(1, 3), "llm/q.lora_B": torch.ones(2, 1)}
    one, two = Reply("a", Payload(pair)), Reply("b", Payload(pair), ratios={"llm": 3.0})
    assert METHODS["hetlora"]().client_weights([one, two]) == pytest.approx([0.25, 0.75])
