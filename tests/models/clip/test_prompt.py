"""Learned contexts and what the baselines add to them."""

import math

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.methods import METHODS
from fedloom.models.clip.adapter import Who
from fedloom.models.clip.prompt import contrast
from tests.models.clip.tiny_clip import CLASSES, adapted, sample, towers

pytestmark = pytest.mark.identities
DOUBLE = torch.float64


def logits(model, examples):
    with torch.no_grad():
        return model.logits(examples, None, "base")


@pytest.fixture
def on():
    return towers(dtype=DOUBLE)


@pytest.fixture
def promptfl(on):
    return adapted(METHODS["promptfl"](), dtype=DOUBLE, on=on)


@pytest.fixture
def examples(promptfl):
    return [promptfl.prepare(sample(i, i % 5)) for i in range(6)]


def test_a_context_of_a_text_s_own_embeddings_is_that_text(on) -> None:
    """With the embeddings of "a photo of a" as context, the logits are those of the fixed template."""
    model = adapted(METHODS["promptfl"](length=4), dtype=DOUBLE, on=on)
    words = on.tokens(["a photo of a"]).ids[0, 1:5]
    model.load({"prompt/context": on.embed(words[None])[0]})
    examples = [model.prepare(sample(i, i)) for i in range(5)]
    expected = logits(adapted(METHODS["zero-shot"](), dtype=DOUBLE, on=on), examples)
    torch.testing.assert_close(logits(model, examples), expected, rtol=1e-10, atol=1e-10)


def test_a_context_starts_small() -> None:
    model = adapted(METHODS["promptfl"](length=16))
    assert float(model.start["prompt/context"].std()) == pytest.approx(0.02, rel=0.15)


def test_6_equal_cosines_cost_ln_2() -> None:
    draw = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(3, 7, 11, generator=draw, dtype=DOUBLE), dim=-1)
    loss = contrast(z[0], z[1:2], z[:1], 0.5)
    torch.testing.assert_close(loss, torch.full((1,), math.log(2), dtype=DOUBLE), rtol=1e-12, atol=0)
    # by hand, one class: <z0, zG> = 0.6, <zG, z> = 0
    z0, zg, own = (torch.tensor(v, dtype=DOUBLE) for v in ([[1.0, 0, 0]], [[[0.6, 0.8, 0]]], [[[0, 0, 1.0]]]))
    expected = -math.log(math.exp(1.2) / (math.exp(1.2) + 1))
    assert float(contrast(z0, zg, own, 0.5)) == pytest.approx(expected, rel=1e-12)


def test_6_fedpgp_reaches_all_three_and_without_its_low_rank_part_is_promptfl(on, promptfl, examples) -> None:
    model = adapted(METHODS["fedpgp"](), dtype=DOUBLE, on=on)
    common = model.start["prompt/context"]
    model.load({"prompt/context": common, "lowrank/u": torch.zeros(16, 8, dtype=DOUBLE)})
    promptfl.load({"prompt/context": common})
    torch.testing.assert_close(logits(model, examples), logits(promptfl, examples), rtol=1e-12, atol=1e-12)
    model.load({})
    extra = {}
    for weight in (0.0, 0.5):
        model.part.spec = model.part.spec.model_copy(update={"con_weight": weight})
        model.begin(set(model.tensors))
        loss = model.loss(examples)
        loss.backward()
        assert all(p.grad.any() for p in model.tensors.values())
        extra[weight] = float(loss.detach())
    with torch.no_grad():
        names, who = CLASSES.base, Who((0,))
        own = model.part.text(names, who)
        shared = model.part.after(model.tensors["prompt/context"][None], names)
        expected = 0.5 * contrast(model.part.fixed_text(names), shared, own, 0.5)
    assert extra[0.5] - extra[0.0] == pytest.approx(float(expected), rel=1e-10)


def test_fedpgp_s_other_fixed_text_is_another(on) -> None:
    plain, parity = (
        adapted(METHODS["fedpgp"](z0=z0, length=4), dtype=DOUBLE, on=on) for z0 in ("template", "placeholder")
    )
    assert not torch.allclose(plain.part.start_text(CLASSES.base), parity.part.start_text(CLASSES.base))


def test_9_cocoop_without_its_last_layer_is_promptfl(on, promptfl, examples) -> None:
    model = adapted(METHODS["cocoop-fedavg"](), dtype=DOUBLE, on=on)
    off = {n: torch.zeros_like(t) for n, t in model.start.items() if n.startswith("meta/second")}
    context = {"prompt/context": promptfl.start["prompt/context"]}
    model.load({**off, **context})
    torch.testing.assert_close(logits(model, examples), logits(promptfl, examples), rtol=1e-10, atol=1e-10)
    model.load(context)
    assert not torch.allclose(logits(model, examples), logits(promptfl, examples))


@pytest.mark.parametrize("chunk", [1, 3, 7, 11])
def test_9_in_pieces_or_at_once_it_is_the_same(chunk, on, examples) -> None:
    results = []
    for size in (chunk, 10_000):
        model = adapted(METHODS["cocoop-fedavg"](chunk=size), dtype=DOUBLE, on=on)
        model.begin(set(model.tensors))
        loss = model.loss(examples)
        loss.backward()
        results.append((loss.detach(), {n: p.grad for n, p in model.tensors.items()}))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_8_pfedmoap_without_experts_is_promptfl(on, promptfl, examples) -> None:
    model = adapted(METHODS["pfedmoap"](), dtype=DOUBLE, on=on)
    model.load({"prompt/context": promptfl.start["prompt/context"]})
    assert torch.equal(logits(model, examples), logits(promptfl, examples))


def test_8_the_gating_by_hand(on, examples) -> None:
    """One head, one expert: attention over two entries, worked without the module."""
    model = adapted(METHODS["pfedmoap"](heads=1, contexts=4), dtype=DOUBLE, on=on)
    expert = torch.randn(1, 16, 24, generator=torch.Generator().manual_seed(5), dtype=DOUBLE) * 0.3
    model.load({"experts/contexts": expert})  # three places, one is used
    scores = logits(model, examples)
    t = {n.removeprefix("gate/"): p.detach() for n, p in model.tensors.items() if n.startswith("gate/")}

    def layer(name, x):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    with torch.no_grad():
        f = torch.stack(model.features(examples))
        entries = torch.cat(
            [
                model.part.after(model.tensors["prompt/context"][None], CLASSES.base),
                model.part.after(expert, CLASSES.base),
            ]
        )  # (2, C, d)
        short = f[:, ::4]
        for b in range(len(examples)):
            q = layer("query", short[b])
            for c in range(len(CLASSES.base)):
                k, v = layer("key", entries[:, c, ::4]), layer("value", entries[:, c, ::4])
                h = layer("out", torch.softmax(10 * k @ q, 0) @ v)
                expected = on.scale * (0.5 * f[b] @ entries[0, c] + short[b] @ h)
                torch.testing.assert_close(scores[b, c], expected, rtol=1e-9, atol=1e-10)


def test_heads_that_do_not_divide_the_gating_are_refused(on) -> None:
    with pytest.raises(
        ExperimentError, match=r"method\.heads is 3, which does not divide the gating's width 8"
    ):
        adapted(METHODS["pfedmoap"](heads=3), on=on)
