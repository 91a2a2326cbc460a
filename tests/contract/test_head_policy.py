"""A classifier's head under each policy (specification fedlora 6): averaged, kept by its client, or frozen at its start."""

import pytest
import torch

from tests.contract.test_family import TEXT, listen

pytestmark = pytest.mark.identities


@pytest.mark.parametrize("head", ["shared", "personal", "frozen"])
def test_the_head_is_averaged_kept_or_frozen(head, quick, federate) -> None:
    federation = federate(quick({"name": "fedsa-lora", "head": head}, data=TEXT, model={}, rounds=1))
    model = federation.engine.model
    names = [n for n in model.tensors if n.startswith("head/")]
    start = {n: model.start[n].clone() for n in names}
    rounds = listen(federation)
    federation.run()
    replies = {c: reply.payload.tensors for c, (_, reply) in rounds[0].items()}
    assert names
    for name in names:
        assert (name in federation.state.shared) == (head == "shared")
        for client, tensors in replies.items():
            assert (name in tensors) == (head == "shared")
            assert (name in federation.clients[client].personal) == (head == "personal")
    models = [federation.client_model(c).tensors for c in federation.clients.values()]
    for name in (n for n in names if n.endswith("weight")):
        if head == "shared":
            mean = torch.stack([t[name].double() for t in replies.values()]).mean(0)
            torch.testing.assert_close(federation.state.shared[name].double(), mean, rtol=1e-6, atol=1e-8)
            assert not torch.equal(federation.state.shared[name], start[name])
        elif head == "personal":
            own = [m[name] for m in models]
            assert not any(torch.equal(t, start[name]) for t in own)
            assert not torch.equal(own[0], own[1])
        else:
            model.load(models[0])
            assert torch.equal(model.tensors[name], start[name])
