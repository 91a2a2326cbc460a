"""What FDLoRA promises beyond the contract matrix, on the shipped foundation."""

import pytest
import torch

from fedloom.methods.fdlora import SCALARS
from tests.contract.test_family import IMAGES, listen

pytestmark = pytest.mark.identities


def test_the_outer_step_the_scalars_and_the_fused_model(quick, federate) -> None:
    """Round 1 by hand: w' = w + lr (1 + beta) D; only the shared adapter travels; a client answers with both, scaled."""
    method = {"name": "fdlora", "points": 3, "samples": 4}
    federation = federate(quick(method, data=IMAGES, rounds=1))
    start = dict(federation.state.shared)
    rounds = listen(federation)
    federation.run()
    replies = [up.payload.tensors for _, up in rounds[-1].values()]
    assert all(".local_" not in name and name != SCALARS for reply in replies for name in reply)
    moved = 0.0
    for name in replies[0]:
        change = torch.stack([reply[name] for reply in replies]).mean(0) - start[name]
        torch.testing.assert_close(federation.state.shared[name], start[name] + 0.7 * 1.9 * change)
        moved += float(change.norm())
    assert moved > 0
    client = federation.clients["image-01"]
    personal = client.personal
    local, common = personal[SCALARS].tolist()
    assert {local, common} <= {0.0, 0.5, 1.0}
    own = federation.client_model(client).tensors
    assert SCALARS not in own
    name = next(n for n in personal if n.endswith(".local_B") and float(personal[n].norm()))
    torch.testing.assert_close(own[name], local * personal[name])
    shared = name.replace("local_B", "lora_B")
    torch.testing.assert_close(own[shared], common * federation.state.shared[shared])

    model, examples = federation.engine.model, client.examples(federation.engine.model)[:3]
    model.load(own)
    both = model.losses(examples, [0] * 3, 1)[0]
    model.load({n: t for n, t in own.items() if ".local_" not in n})
    alone = model.losses(examples, [0] * 3, 1)[0]
    assert (local == 0) == bool(torch.isclose(both, alone, rtol=1e-6, atol=0))


def test_the_search_finds_the_scalar_of_lowest_loss_one_after_the_other(quick, federate) -> None:
    """On the samples that the search drew: here all of them."""
    method = {"name": "fdlora", "points": 2, "samples": 999}
    federation = federate(quick(method, data=IMAGES, rounds=1))
    sent = dict(federation.state.shared)
    federation.run()
    client, model = federation.clients["image-01"], federation.engine.model
    personal = client.personal
    examples = client.examples(model)
    losses = {}
    for local in (0.0, 1.0):
        for common in (0.0, 1.0):
            scale = {"local_B": local, "lora_B": common}
            tensors = {**client.held(sent), **{n: v for n, v in personal.items() if n != SCALARS}}
            model.load({n: v * scale.get(n.rpartition(".")[2], 1.0) for n, v in tensors.items()})
            losses[local, common] = float(model.losses(examples, [0] * len(examples), 1)[0])
    kept = tuple(personal[SCALARS].tolist())
    first = min((1.0, 0.0), key=lambda local: losses[local, 1.0])
    assert kept[0] == first
    assert losses[kept] == pytest.approx(min(losses[first, 1.0], losses[first, 0.0]), rel=1e-6)
