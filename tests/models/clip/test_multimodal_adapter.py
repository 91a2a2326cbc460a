"""The multimodal adapter: its formula, its start, and what rescaling does to gradients."""

import pytest
import torch
from torch.nn.functional import gelu, relu

from fedloom.core.errors import ExperimentError
from fedloom.methods import METHODS
from fedloom.models.clip.adapter import Who
from fedloom.models.clip.multimodal_adapter import MultimodalAdapter
from tests.models.clip.tiny_clip import adapted, sample, towers

pytestmark = pytest.mark.identities
SMALL = {"blocks": 2, "rank": 7}


def wanted_branch(model, spec, tower: str, place: int, block, x):
    """alpha U d(S d(D LN1(x))) by hand."""
    t = {n.removeprefix("adapter/"): p for n, p in model.tensors.items()}

    def layer(name, h):
        bias = t.get(f"{name}.bias")
        return h @ t[f"{name}.weight"].T + (0 if bias is None else bias)

    act = relu if spec.get("activation", "relu") == "relu" else gelu
    h = block.layer_norm1(x) if spec.get("branch_input", "ln1") == "ln1" else x
    h = layer(f"{tower}.{place}.down", h)
    h = act(h) if spec.get("inner_activation", True) else h
    return spec["scale"] * layer(f"{tower}.{place}.up", act(layer(f"shared.{place}", h)))


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": True}, {"activation": "gelu"}, {"inner_activation": False}, {"branch_input": "x"}],
    ids=str,
)
def test_the_output_of_a_block_is_that_of_the_equation(options) -> None:
    spec = {**SMALL, "scale": 0.3, **options}
    model = adapted(METHODS["pfedmma"](**spec), dtype=torch.float64)
    model.load({n: t + 0.1 for n, t in model.start.items()})  # biases, too
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(2, 5, 20, generator=draw, dtype=torch.float64)
    blocks = model.towers.clip.vision_model.encoder.layers
    model.part.rows = Who((0, 0)).pictures
    with torch.no_grad():
        output = model.towers.run("vision", x, 2, branch=model.part.branch)
        h = x
        for number, place in ((2, 2), (3, 1)):
            h = blocks[number](h, None) + wanted_branch(model, spec, "vision", place, blocks[number], h)
    torch.testing.assert_close(output, h, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_logits_are_those_of_whole_towers_with_every_block_at_every_position(blocks) -> None:
    model = adapted(METHODS["pfedmma"](blocks=blocks, rank=7, scale=0.4, bias=True), dtype=torch.float64)
    model.load({n: t + 0.1 for n, t in model.start.items()})
    part, on, who = model.part, model.towers, Who((0,) * 4)
    examples = [model.prepare(sample(i, i)) for i in range(4)]
    pixels = model.pixels.normal(torch.stack([e.image for e in examples]))

    def whole(names):
        tokens = part.template_tokens(names)
        states = on.run("text", on.text_in(on.embed(tokens.ids)), stop=3 - blocks, end=tokens.end)
        part.rows = who.texts(len(names))
        text = on.text_out(on.run("text", states, 3 - blocks, branch=part.branch, end=tokens.end), tokens.end)
        part.rows = who.pictures
        states = on.run("vision", on.vision_in(pixels), stop=4 - blocks)
        return on.scale * on.vision_out(on.run("vision", states, 4 - blocks, branch=part.branch)) @ text.T

    model.begin(set(model.tensors))
    for names in (model.classes.base, model.classes.novel):  # names of one and of two words
        expected = whole(names)
        got = part.logits(torch.stack(model.features(examples)), names, who)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
        gradients = [
            torch.autograd.grad(logits.square().sum(), list(model.tensors.values()), retain_graph=True)
            for logits in (got, expected)
        ]
        for name, ours, theirs in zip(model.tensors, *gradients, strict=True):
            assert theirs.any(), name
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10, msg=name)


def test_start_values_and_one_s_for_both_towers() -> None:
    on = towers()
    model = adapted(METHODS["pfedmma"](blocks=3, rank=200, bias=True), on=on)
    for name, tensor in model.start.items():
        if name.endswith("bias"):
            assert not tensor.any()
        else:
            std = float(tensor.std())
            assert std == pytest.approx((2 / tensor.shape[0]) ** 0.5, rel=0.05), name
    assert model.start["adapter/text.1.down.weight"].shape == (200, 24)
    assert model.start["adapter/vision.1.up.weight"].shape == (20, 200)
    # the same S works in both towers: without it neither feature is what it was
    examples = [model.prepare(sample(i, i)) for i in range(3)]
    feats = torch.stack(model.features(examples))
    who = Who((0, 0, 0))

    def both():
        with torch.no_grad():
            model.part.rows = who.pictures
            return model.part._rest("vision", feats), model.part.text(model.classes.base, who)

    before = both()
    model.load({n: t * (0 if ".shared." in n.replace("/", ".") else 1) for n, t in model.start.items()})
    assert all(not torch.equal(b, a) for b, a in zip(before, both(), strict=True))


@pytest.mark.parametrize("bias", [False, True])
def test_2_rescaling_gives_adapters_their_gradient_over_alpha_and_blocks_their_true_one(bias) -> None:
    alpha, on = 0.02, towers(dtype=torch.float64)
    gradients = []
    for rescale in (False, True):
        method = METHODS["pfedmma"](**SMALL, bias=bias, scale=alpha, grad_rescale=rescale)
        model = adapted(method, dtype=torch.float64, on=on)
        model.begin(set(model.tensors))
        examples = [model.prepare(sample(i, i)) for i in range(4)]
        feats = torch.stack(model.features(examples)).requires_grad_()
        loss = torch.nn.functional.cross_entropy(
            model.part.logits(feats, model.classes.base, Who((0,) * 4)), torch.arange(4)
        )
        loss.backward()
        gradients.append(({n: p.grad for n, p in model.tensors.items()}, feats.grad))
    (plain, into), (rescaled, into_too) = gradients
    torch.testing.assert_close(into_too, into, rtol=1e-10, atol=1e-14)
    for name, gradient in plain.items():
        # blocks above pass on the true gradient, so that every adapter sees exactly 1 / alpha times its own
        torch.testing.assert_close(rescaled[name], gradient / alpha, rtol=1e-9, atol=1e-12, msg=name)
        assert gradient.any(), name


def test_5_rescaled_sgd_is_plain_sgd_with_rate_over_alpha_and_decay_times_alpha() -> None:
    alpha, lr, decay = 0.02, 2e-4, 5e-3
    on = towers(dtype=torch.float64)
    ends = []
    for rescale, rate, wd in ((True, lr, decay), (False, lr / alpha, decay * alpha)):
        model = adapted(
            METHODS["pfedmma"](**SMALL, scale=alpha, grad_rescale=rescale), dtype=torch.float64, on=on
        )
        examples = [model.prepare(sample(i, i % 5)) for i in range(8)]
        parameters = model.begin(set(model.tensors))
        sgd = torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=wd)
        for step in range(50):
            sgd.zero_grad()
            model.loss(examples[step % 2 :: 2]).backward()
            sgd.step()
        ends.append({n: p.detach().clone() for n, p in model.tensors.items()})
        assert all((p - model.start[n]).abs().max() > 1e-4 for n, p in ends[-1].items())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-10, atol=1e-12, msg=name)


def test_more_blocks_than_the_shorter_tower_has_are_refused() -> None:
    with pytest.raises(
        ExperimentError, match=r"method\.blocks is 4, but the shorter tower of model\.clip has 3"
    ):
        MultimodalAdapter(blocks=4).part(towers())
