"""What one adapted layer computes, by its equation: LoRA, rsLoRA, VeRA and FedDPA's two adapters (specification fedlora 1, 3)."""

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from fedloom.models.lora.layers import LoRA
from tests.models.lora.test_uniform import Adapted

pytestmark = pytest.mark.identities
R, D_IN, D_OUT = 3, 5, 9  # of the layer `up`
X = torch.linspace(-2, 2, 7 * D_IN, dtype=torch.float64).reshape(7, D_IN)
TARGETS = ("up",)
TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


class WithPrompts(Adapted):
    """States of prompts that the test chooses."""

    states = torch.zeros(0, 0)

    def prompt_states(self, examples, features=None):
        return self.states


def made(spec: LoRA, second: bool = False) -> WithPrompts:
    """The block in float64."""
    model = WithPrompts(spec, second)
    model.root.double()
    model.start = {n: t.double() for n, t in model.start.items()}
    return model


def drawn(model: Adapted) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {n: torch.randn(t.shape, generator=g, dtype=torch.float64) for n, t in model.start.items()}


def layer(model: Adapted):
    return model.layers["llm/up"]


def base(model: Adapted) -> torch.Tensor:
    """W0 x + b."""
    frozen = layer(model).get_base_layer()
    return (X @ frozen.weight.T + frozen.bias).detach()


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.4])
def test_22_lora_adds_s_b_a_with_s_alpha_over_r_or_its_root(rslora, ratio) -> None:
    model = made(LoRA(rank=R, alpha=5, rslora=rslora, targets=TARGETS))
    t = drawn(model)
    model.load(t, {"llm": ratio})
    s = ratio * 5 / (math.sqrt(R) if rslora else R)
    want = base(model) + s * X @ (t["llm/up.lora_B"] @ t["llm/up.lora_A"]).T
    torch.testing.assert_close(layer(model)(X), want, **TOLERANCE)
    assert model.scales["llm"] == pytest.approx(5 / (math.sqrt(R) if rslora else R))
    exported = model.exported()  # for the model's own scale
    update = s / ratio * exported["llm/up.lora_B"] @ exported["llm/up.lora_A"]
    torch.testing.assert_close(base(model) + X @ update.T, want, **TOLERANCE)
    model.load({})
    assert torch.equal(layer(model)(X), base(model))  # B = 0


def test_vera_begins_at_a_tenth_and_zero_and_scales_by_both_vectors_around_one_frozen_pair() -> None:
    model = made(LoRA(kind="vera", rank=7, targets=("up", "down")))
    for place, width in (("up", D_OUT), ("down", 4)):
        assert torch.equal(
            model.start[f"llm/{place}.lambda_d"], torch.full((7,), 0.1, dtype=torch.float32).double()
        )
        assert torch.equal(model.start[f"llm/{place}.lambda_b"], torch.zeros(width, dtype=torch.float64))
    t = drawn(model)
    model.load(t)
    A, B = (model.frozen[f"llm/up.vera_{f}"].double() for f in "AB")
    assert (A.shape, B.shape) == ((7, D_IN), (D_OUT, 7))
    want = base(model) + t["llm/up.lambda_b"] * ((t["llm/up.lambda_d"] * (X @ A.T)) @ B.T)
    torch.testing.assert_close(layer(model)(X), want, **TOLERANCE)
    # the pair of the smaller layer is a slice of the same random numbers, and another client draws the same
    other = made(LoRA(kind="vera", rank=7, targets=("up", "down")))
    assert torch.equal(other.frozen["llm/up.vera_A"], model.frozen["llm/up.vera_A"])
    assert torch.equal(model.frozen["llm/down.vera_A"][:, :D_IN], model.frozen["llm/up.vera_A"])
    assert torch.equal(model.frozen["llm/up.vera_B"][:4], model.frozen["llm/down.vera_B"])


def both(model: Adapted, t: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """s B A x of the global and of the local adapter."""
    s = model.scales["llm"]
    return tuple(s * X @ (t[f"llm/up.{n}_B"] @ t[f"llm/up.{n}_A"]).T for n in ("lora", "local"))


@pytest.mark.parametrize("local", [0.0, 0.3, 1.0, None])
def test_two_adapters_are_mixed_by_output_not_by_factor(local) -> None:
    """W0 x + s [a B_l A_l x + (1 - a) B_g A_g x]; None counts both in full."""
    model = made(LoRA(rank=R, alpha=5, targets=TARGETS), second=True)
    t = drawn(model)
    model.load(t)
    model.mix(local)
    common, own = both(model, t)
    want = common + own if local is None else (1 - local) * common + local * own
    torch.testing.assert_close(layer(model)(X), base(model) + want, **TOLERANCE)
    model.begin({"llm/up.local_A", "llm/up.local_B"})  # the global one gives outputs and gets no gradient
    layer(model)(X).square().sum().backward()
    reached = {n for n, p in model.tensors.items() if p.grad is not None and bool(p.grad.any())}
    assert reached == (set() if local == 0.0 else {"llm/up.local_A", "llm/up.local_B"})


def test_an_answer_weighs_the_local_adapter_by_half_the_mean_cosine_of_its_prompt() -> None:
    model = made(LoRA(rank=R, alpha=5, targets=TARGETS), second=True)
    t, g = drawn(model), torch.Generator().manual_seed(4)
    states, kept = (torch.randn(n, 6, generator=g, dtype=torch.float64) for n in (7, 5))
    model.states = states
    model.load({**t, "anchors/prompts": kept})
    w = torch.stack(
        [0.5 * torch.stack([cosine_similarity(s, k, dim=0) for k in kept]).mean() for s in states]
    )
    assert float(w.min()) < 0 < float(w.max())
    common, own = both(model, t)
    with model.mixed_by_prompts("llm", range(7)):
        answered = layer(model)(X[:, None])[:, 0]
    mixed = w[:, None] * own + (1 - w[:, None]) * common
    torch.testing.assert_close(answered, base(model) + mixed, **TOLERANCE)
    torch.testing.assert_close(
        layer(model)(X), base(model) + (own + common) / 2, **TOLERANCE
    )  # a = 0.5 again
