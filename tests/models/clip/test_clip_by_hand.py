"""CoCoOp's net, pFedMoAP's heads and FedOTP's plan against their equations (specification pfedmma 3.3, 3.5, 3.6)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.methods import METHODS
from fedloom.models.clip.optimal_transport import plan
from tests.models.clip.tiny_clip import CLASSES, adapted, sample, towers

pytestmark = pytest.mark.identities
DOUBLE = torch.float64


def logits(model, examples):
    with torch.no_grad():
        return model.logits(examples, None, "base")


def test_cocoop_shifts_every_vector_of_the_context_by_a_net_of_the_pictures_own_features() -> None:
    """pi(f) = W2 ReLU(W1 f + b1) + b2, added to all 16 vectors: each picture alone is PromptFL with its own context."""
    on = towers(dtype=DOUBLE)
    model, plain = (adapted(METHODS[m](), dtype=DOUBLE, on=on) for m in ("cocoop-fedavg", "promptfl"))
    examples = [model.prepare(sample(i, i)) for i in range(5)]
    g = torch.Generator().manual_seed(3)
    model.load({n: t + torch.randn(t.shape, generator=g, dtype=DOUBLE) for n, t in model.start.items()})
    found = logits(model, examples)
    t = {n: p.detach() for n, p in model.tensors.items()}
    kinks = set()
    for i, f in enumerate(model.features(examples)):
        inner = f @ t["meta/first.weight"].T + t["meta/first.bias"]
        kinks |= set((inner < 0).tolist())
        shift = inner.clamp_min(0) @ t["meta/second.weight"].T + t["meta/second.bias"]
        plain.load({"prompt/context": t["prompt/context"] + shift})
        torch.testing.assert_close(found[i], logits(plain, examples)[i], rtol=1e-9, atol=1e-10)
    assert kinks == {False, True}


@pytest.mark.parametrize("heads", [2, 4])
def test_8_the_gating_with_several_heads_and_experts_by_hand(heads) -> None:
    """Each head has its own softmax over own and other contexts on its slice of the reduced features."""
    on = towers(dtype=DOUBLE)
    model = adapted(METHODS["pfedmoap"](heads=heads, contexts=4, mix=0.7), dtype=DOUBLE, on=on)
    g = torch.Generator().manual_seed(5)
    experts = 0.3 * torch.randn(2, 16, 24, generator=g, dtype=DOUBLE)  # two of three places
    gate = {
        n: p + torch.randn(p.shape, generator=g, dtype=DOUBLE) for n, p in model.start.items() if "gate/" in n
    }
    model.load({**gate, "experts/contexts": experts})
    examples = [model.prepare(sample(i, i)) for i in range(3)]
    found = logits(model, examples)

    def layer(name, x):
        return x @ gate[f"gate/{name}.weight"].T + gate[f"gate/{name}.bias"]

    with torch.no_grad():
        own = model.part.after(model.tensors["prompt/context"][None], CLASSES.base)
        texts = torch.cat([own, model.part.after(experts, CLASSES.base)])  # (3, C, 32)
        width = 32 // 4 // heads
        for b, f in enumerate(model.features(examples)):
            q = layer("query", f[::4])
            for c in range(len(CLASSES.base)):
                k, v = layer("key", texts[:, c, ::4]), layer("value", texts[:, c, ::4])
                mixed = []
                for h in range(heads):
                    at = slice(h * width, (h + 1) * width)
                    mixed.append(torch.softmax(10 * k[:, at] @ q[at], 0) @ v[:, at])
                gated = f[::4] @ layer("out", torch.cat(mixed))
                want = on.scale * (0.7 * f @ texts[0, c] + gated)
                torch.testing.assert_close(found[b, c], want, rtol=1e-9, atol=1e-10)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    eps=st.sampled_from([0.045, 0.1, 0.4]),
    mass=st.sampled_from([0.4, 0.8, 1.0]),
    kind=st.sampled_from(["ot", "sinkhorn"]),
    patches=st.integers(3, 9),
)
def test_a_plan_meets_the_conditions_of_its_entropic_optimum(seed, eps, mass, kind, patches) -> None:
    """min <T, 1 - S> + eps sum T (log T - 1) under the marginals: eps log T + cost = -(row price) - (column price).

    Of a capped row (sum at most 1/M) the price is not negative, and zero where the row has room.
    """
    S = torch.rand(patches, 2, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE) * 0.9 - 0.2
    T = plan(S, kind=kind, mass=mass, eps=eps, tolerance=None, iterations=2_000)
    moved = 1.0 if kind == "sinkhorn" else mass
    torch.testing.assert_close(T.sum(0), torch.full((2,), moved / 2, dtype=DOUBLE), rtol=0, atol=1e-10)
    prices = eps * T.log() + 1 - S
    torch.testing.assert_close(prices[:, 0] - prices[:, 1], (prices[0, 0] - prices[0, 1]).expand(patches))
    rows, cap = T.sum(1), 1 / patches
    if kind == "sinkhorn":
        torch.testing.assert_close(rows, torch.full((patches,), cap, dtype=DOUBLE), rtol=0, atol=1e-8)
        return
    assert float(rows.max()) <= cap * (1 + 1e-6)
    room = rows < cap * (1 - 1e-6)
    if bool(room.any()):
        free = prices[room, 0]
        torch.testing.assert_close(free, free[:1].expand(len(free)), rtol=0, atol=1e-8)
        assert float((prices[:, 0] - free[0]).max()) <= 1e-8


def test_fedotp_sums_the_plans_of_the_global_and_the_own_context_over_patches() -> None:
    on = towers(dtype=DOUBLE)
    model = adapted(METHODS["fedotp"](ot_mass=0.6, ot_eps=0.2), dtype=DOUBLE, on=on)
    examples = [model.prepare(sample(i, i)) for i in range(3)]
    found = logits(model, examples)
    with torch.no_grad():
        texts = [
            model.part.after(model.tensors[n][None], CLASSES.base)[0]
            for n in ("prompt/context", "own/context")
        ]
        for b, f in enumerate(model.features(examples)):  # (M, d), the class token left out
            assert f.shape == (4, 32)
            for c in range(len(CLASSES.base)):
                S = torch.stack([f @ g[c] for g in texts], 1)
                want = on.scale * (plan(S, mass=0.6, eps=0.2) * S).sum()
                torch.testing.assert_close(found[b, c], want, rtol=1e-9, atol=1e-10)


def test_pfedmoaps_gating_learns_at_a_constant_rate_of_its_own() -> None:
    """And the first time it does not learn at all."""
    from types import SimpleNamespace

    from fedloom.core.payload import Payload

    calls = []

    def train(start, *, only, rates):
        calls.append((only.role("gate/out.weight"), rates))
        return dict(start), {}

    method = METHODS["pfedmoap"](gate_lr=0.03)
    kept = {}
    trainer = SimpleNamespace(personal={}, train=train, keep=kept.update)
    context = torch.ones(16, 24)
    for tensors in ({}, {"experts/contexts": torch.ones(2, 16, 24)}):
        method.client("train", Payload({"prompt/context": context, **tensors}), trainer)
    assert calls == [("frozen", {"gate": 0.03}), ("shared", {"gate": 0.03})]
    assert torch.equal(kept["mine/context"], context)
