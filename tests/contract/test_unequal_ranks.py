"""Clients of unequal ranks and scales: what a round of each method makes of their updates, on the shipped foundation."""

import pytest
import torch

from fedloom.aggregation import lora
from tests.contract.test_family import IMAGES, listen, weights_of

pytestmark = pytest.mark.identities


def _part(place: str) -> str:
    return "llm" if place.startswith("llm") else "encoder"


def _of(pair) -> torch.Tensor:
    A, B = pair
    return B @ A


@pytest.mark.parametrize("method", ["fedavg-lora", "feda2-lora", "flora", "flexlora", "hetlora"])
@pytest.mark.parametrize("alpha", ["scaled", "fixed"])
def test_unequal_ranks_and_scales_count_in_effective_weight(method, alpha, quick, federate) -> None:
    ranks = {"llm": [4, 2], "encoder": [3, 1, 2]}
    federation = federate(quick(method, data=IMAGES, rounds=1, cohort={"ranks": ranks, "alpha": alpha}))
    rounds = listen(federation)
    before = dict(federation.global_model())
    federation.run()
    model = federation.engine.model
    moved = weights_of(model, federation.global_model())
    start = weights_of(model, before)
    members = sorted(rounds[0])
    sent = [rounds[0][name][1].payload.tensors for name in members]
    scales = {
        part: [8.0 / (max(own) if alpha == "scaled" else own[k % len(own)]) for k in range(len(members))]
        for part, own in ranks.items()
    }
    updates = {p: [] for p in moved}
    for place, own in updates.items():
        part = _part(place)
        for k, tensors in enumerate(sent):
            A, B = tensors[f"{place}.lora_A"].double(), tensors[f"{place}.lora_B"].double()
            assert A.shape[0] == B.shape[1] == ranks[part][k % len(ranks[part])]
            own.append((A, B, scales[part][k]))
    squares = [  # HetLoRA's weights are norms over all layers
        sum(float((s * B @ A).square().sum()) for p, (A, B, s) in clients)
        for clients in ([(p, own[k]) for p, own in updates.items()] for k in range(len(members)))
    ]
    norms = [square**0.5 for square in squares]
    for place, own in updates.items():
        full = max(ranks[_part(place)])
        A, B, s_k = zip(*own, strict=True)
        U = sum(s * b @ a for a, b, s in own) / len(own)
        folded = [s * b for b, s in zip(B, s_k, strict=True)]
        if method == "flora":
            wanted = U
        elif method == "flexlora":
            P, S, Q_t = torch.linalg.svd(U, full_matrices=False)
            wanted = (P[:, :full] * S[:full]) @ Q_t[:full]
        elif method == "hetlora":
            wanted = _of(lora.fedavg(A, folded, [n / sum(norms) for n in norms], rank=full, tail="pad"))
        else:
            rule = lora.fedavg if method == "fedavg-lora" else lora.feda2
            wanted = _of(rule(A, folded, rank=full))
        change = moved[place] - start[place]
        # FLoRA's is read off float32 weights, which are some 30 times larger.
        assert float((change - wanted).norm() / U.norm()) < (1e-4 if method == "flora" else 1e-5)
        assert float((change - U).norm() / U.norm()) < 1.0  # the server moves towards the mean update
