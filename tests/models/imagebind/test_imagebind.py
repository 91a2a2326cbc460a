"""Sizes, forward contract and pooling of the modality encoder."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.models.imagebind.imagebind import ImageBind, ImageBindConfig, ModalityConfig
from fedloom.models.imagebind.layers import Attention, DropPath

# stem, trunk, head, post of the published model
HUGE = {
    "image": (1_835_520, 629_680_640, 1_313_280, 0),
    "text": (50_672_640, 302_309_376, 1_050_624, 1),
    "audio": (374_784, 85_072_896, 787_968, 0),
    "depth": (175_104, 21_302_784, 393_984, 0),
    "thermal": (350_208, 85_072_896, 787_968, 0),
    "imu": (154_624, 18_920_448, 525_312, 0),
}
TOKENS = {"image": 257, "text": 77, "audio": 229, "depth": 197, "thermal": 197, "imu": 251}
NATIVE = {"image": 1.0, "text": 1 / 0.07, "audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def huge() -> ImageBind:
    with torch.device("meta"):
        return ImageBind(ImageBindConfig.huge())


@pytest.fixture(scope="module")
def tiny() -> ImageBind:
    return ImageBind(ImageBindConfig.tiny())


def batch(config: ImageBindConfig, modality: str, rows: int = 2, clips: int = 1, seed: int = 0) -> Tensor:
    rng, part = torch.Generator().manual_seed(seed), config.modalities[modality]
    if part.vocab:
        ids = torch.randint(1, part.vocab - 1, (rows, *part.input_shape), generator=rng)
        return ids.index_fill(1, torch.tensor([7]), part.vocab - 1)
    shape = (rows, clips, *part.input_shape) if part.mel else (rows, *part.input_shape)
    return torch.randn(shape, generator=rng)


@pytest.mark.parametrize("modality", HUGE)
def test_published_parameter_counts(huge: ImageBind, modality: str) -> None:
    scale = count(huge.scales[modality]) if modality in huge.scales else 0
    parts = (count(huge.stems[modality]), count(huge.trunks[modality]), count(huge.heads[modality]), scale)
    assert parts == HUGE[modality]


def test_published_total(huge: ImageBind) -> None:
    assert count(huge) == 1_200_781_057
    with torch.device("meta"):
        assert count(ImageBind(ImageBindConfig.huge(), ["audio", "image"])) == 719_065_088


def formula(part: ModalityConfig, out_dim: int) -> int:
    """Section 1 of the specification."""
    d, layers, n = part.embed_dim, part.depth, part.tokens
    trunk = layers * (12 * d * d + 13 * d) + part.bias_kv * 2 * layers * d + part.pre_norm * 2 * d
    if part.vocab:
        return part.vocab * d + n * d + trunk + 2 * d + d * out_dim + 1
    volume = part.input_shape[0] * (part.window or torch.Size(part.kernel).numel())
    stem = d * volume + (0 if part.pre_norm else 2 * d) + d + (n + 1) * d
    return stem + trunk + 2 * d + d * out_dim


def trunk_output(model: ImageBind, modality: str, x: Tensor) -> Tensor:
    """Tokens after the trunk, (B * clips, n, d), CLS first."""
    rows = x.flatten(0, 1) if modality == "audio" else x
    return model.trunks[modality](model.stems[modality](rows))


def test_tiny_sizes_follow_the_formula(tiny: ImageBind) -> None:
    config = tiny.config
    assert {m: p.tokens for m, p in config.modalities.items()} == {
        "image": 36, "text": 48, "audio": 60, "depth": 36, "thermal": 36, "imu": 25
    }  # fmt: skip
    assert count(tiny) == sum(formula(p, config.out_dim) for p in config.modalities.values()) == 1_043_105


@pytest.mark.parametrize("modality", HUGE)
def test_published_forward_shapes(huge: ImageBind, modality: str) -> None:
    clips = 3 if modality == "audio" else 1
    x = batch(huge.config, modality, 2, clips).to("meta")
    tokens = trunk_output(huge, modality, x)
    assert tokens.shape == (2 * clips, TOKENS[modality], huge.config.modalities[modality].embed_dim)
    assert huge.encode(modality, x).shape == (2, 1024)


def test_published_video_shape(huge: ImageBind) -> None:
    video = torch.empty(2, 15, 3, 2, 224, 224, device="meta")
    assert huge.encode("image", video).shape == (2, 1024)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("modality", HUGE)
def test_norms(tiny: ImageBind, modality: str, dtype: torch.dtype, tolerance: float) -> None:
    model, x = copy.deepcopy(tiny).to(dtype), batch(tiny.config, modality)
    x = x.to(dtype) if x.is_floating_point() else x
    panda = 1.0 if modality == "audio" else NATIVE[modality]
    for scale, norm in (("unit", 1.0), ("native", NATIVE[modality]), ("pandagpt", panda)):
        found = model.encode(modality, x, scale=scale).double().norm(dim=-1)
        near = tolerance if scale == "unit" else max(tolerance, 1e-7)  # scales are float32 in the checkpoint
        assert found.tolist() == pytest.approx([norm, norm], rel=near)


def test_scale_is_clipped_at_100() -> None:
    model = ImageBind(ImageBindConfig.tiny(), ["text"])
    with torch.no_grad():
        model.scales["text"].log_logit_scale.fill_(6.0)
    norms = model.encode("text", batch(model.config, "text"), scale="native").norm(dim=-1)
    torch.testing.assert_close(norms, torch.full((2,), 100.0))


@pytest.mark.parametrize("scale", ["unit", "native"])
def test_clips_are_averaged_after_normalising(tiny: ImageBind, scale: str) -> None:
    x = batch(tiny.config, "audio", rows=2, clips=3)
    single = torch.stack([tiny.encode("audio", x[:, i : i + 1], scale=scale) for i in range(3)])
    torch.testing.assert_close(tiny.encode("audio", x, scale=scale), single.mean(0))
    assert (tiny.encode("audio", x, scale=scale).norm(dim=-1) < single.norm(dim=-1).min(0).values).all()


@pytest.mark.parametrize("modality", HUGE)
def test_a_row_does_not_depend_on_its_batch(tiny: ImageBind, modality: str) -> None:
    x = batch(tiny.config, modality, rows=3)
    torch.testing.assert_close(tiny.encode(modality, x)[1:2], tiny.encode(modality, x[1:2]))


def test_a_still_image_is_a_video_of_equal_frames(tiny: ImageBind) -> None:
    x = batch(tiny.config, "image")
    video = x[:, None, :, None].expand(-1, 1, -1, 2, -1, -1)
    torch.testing.assert_close(tiny.encode("image", video), tiny.encode("image", x))


@pytest.mark.parametrize("pool", ["head", "mean"])
def test_text_ends_at_its_end_token(tiny: ImageBind, pool: str) -> None:
    ids = batch(tiny.config, "text", rows=1)
    after, before = ids.clone(), ids.clone()
    after[0, 8:] = 3
    before[0, 2] = (before[0, 2] + 1) % 1000
    base = tiny.encode("text", ids, pool=pool)
    torch.testing.assert_close(tiny.encode("text", after, pool=pool), base)
    assert (tiny.encode("text", before, pool=pool) - base).abs().max() > 1e-4


@pytest.mark.parametrize("bias_kv", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.identities
def test_attention_equals_torch(bias_kv: bool, causal: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, bias=True, add_bias_kv=bias_kv, batch_first=True).double()
    ours = Attention(12, 3, bias_kv, causal).double()
    with torch.no_grad():
        theirs.in_proj_bias.normal_()
        theirs.out_proj.bias.normal_()
        parts = zip(
            (ours.q_proj, ours.k_proj, ours.v_proj),
            theirs.in_proj_weight.chunk(3),
            theirs.in_proj_bias.chunk(3),
            strict=True,
        )
        for linear, weight, bias in parts:
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        ours.o_proj.load_state_dict(theirs.out_proj.state_dict())
        if bias_kv:
            ours.bias_k.copy_(theirs.bias_k)
            ours.bias_v.copy_(theirs.bias_v)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=mask, need_weights=True)
    torch.testing.assert_close(ours(x), expected, atol=1e-12, rtol=0)


def test_layer_norm_epsilons(tiny: ImageBind) -> None:
    norms = {name: m for name, m in tiny.named_modules() if isinstance(m, nn.LayerNorm)}
    stems = {name: m.eps for name, m in norms.items() if name.startswith("stems.")}
    assert set(stems.values()) == {1e-5}
    assert len(stems) == 4  # image has none, text has none
    assert {m.eps for name, m in norms.items() if name not in stems} == {1e-6}


@pytest.mark.parametrize("modality", ["audio", "imu"])
def test_train_leaves_the_base_deterministic(tiny: ImageBind, modality: str) -> None:
    parent = nn.Sequential(copy.deepcopy(tiny))
    parent.train()
    model = parent[0]
    assert model.training
    assert not any(m.training for m in list(model.modules())[1:])
    x = batch(model.config, modality)
    assert torch.equal(model.encode(modality, x), model.encode(modality, x))


def test_drop_path_is_per_sample_and_only_on_request() -> None:
    config = ImageBindConfig.tiny().model_copy(update={"drop_path": True})
    model = ImageBind(config, ["imu"])
    rates = [b.drop_path.rate for b in model.trunks["imu"].blocks if isinstance(b.drop_path, DropPath)]
    assert rates == [0.7]  # two blocks: 0 and the last
    x = batch(config, "imu", rows=8)
    assert not torch.equal(model.encode("imu", x), model.encode("imu", x))
    model.eval()
    assert torch.equal(model.encode("imu", x), model.encode("imu", x))
    torch.manual_seed(1)
    out = DropPath(0.5).train()(torch.ones(64, 3, 2)).flatten(1)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert (out == out[:, :1]).all()


@pytest.mark.parametrize(
    ("modality", "schedule"),
    [
        ("imu", [0, 0.14, 0.28, 0.42, 0.56, 0.7]),
        ("audio", [0.1 * i / 11 for i in range(12)]),
        ("image", [0.0] * 32),
        ("text", [0.0] * 24),
        ("depth", [0.0] * 12),
        ("thermal", [0.0] * 12),
    ],
)
def test_published_drop_path_schedule(modality: str, schedule: list[float]) -> None:
    config = ImageBindConfig.huge().model_copy(update={"drop_path": True})
    with torch.device("meta"):
        model = ImageBind(config, [modality])
    rates = [getattr(b.drop_path, "rate", 0.0) for b in model.trunks[modality].blocks]
    assert rates == pytest.approx(schedule)


def test_mean_pooling_groups(tiny: ImageBind) -> None:
    x = batch(tiny.config, "image")
    states, head = trunk_output(tiny, "image", x)[:, 1:], tiny.heads["image"]
    groups = torch.stack([states[:, :12].mean(1), states[:, 12:24].mean(1), states[:, 24:].mean(1)], dim=1)
    expected = nn.functional.normalize(head(groups), dim=-1)
    torch.testing.assert_close(tiny.encode("image", x, pool="mean", tokens=3), expected)
    one = nn.functional.normalize(head(states.mean(1)), dim=-1)
    torch.testing.assert_close(tiny.encode("image", x, pool="mean"), one)


def test_mean_pooling_of_a_text_shorter_than_its_tokens(tiny: ImageBind) -> None:
    ids = torch.zeros(1, 48, dtype=torch.long)
    ids[0, :2] = torch.tensor([5, 1023])
    out = tiny.encode("text", ids, pool="mean", tokens=4)
    assert out.shape == (1, 4, 128)
    torch.testing.assert_close(out.norm(dim=-1), torch.ones(1, 4))
    torch.testing.assert_close(out[:, 0], out[:, 1])
    assert (out[:, 1] - out[:, 2]).abs().max() > 1e-3


def test_cls_pool_is_the_head_without_norm(tiny: ImageBind) -> None:
    x = batch(tiny.config, "thermal")
    raw = tiny.encode("thermal", x, pool="cls")
    torch.testing.assert_close(raw, tiny.heads["thermal"](trunk_output(tiny, "thermal", x)[:, 0]))
    torch.testing.assert_close(nn.functional.normalize(raw, dim=-1), tiny.encode("thermal", x))


@pytest.mark.parametrize(
    ("modality", "shape", "needs"),
    [
        ("image", (3, 3, 2, 48, 48), r"\(B, 3, 48, 48\) or \(B, S, 3, 2, 48, 48\)"),
        ("image", (2, 3, 48, 40), "48"),
        ("audio", (2, 1, 64, 128), r"\(B, S, 1, 64, 128\)"),
        ("depth", (2, 5, 1, 48, 48), r"\(B, 1, 48, 48\)"),
        ("imu", (2, 6, 201), r"\(B, 6, 200\)"),
    ],
)
def test_wrong_shapes_name_the_right_one(
    tiny: ImageBind, modality: str, shape: tuple[int, ...], needs: str
) -> None:
    with pytest.raises(ExperimentError, match=needs):
        tiny.encode(modality, torch.zeros(shape))


def test_wrong_names_raise() -> None:
    with pytest.raises(ExperimentError, match="smell"):
        ImageBind(ImageBindConfig.tiny(), ["image", "smell"])
    model = ImageBind(ImageBindConfig.tiny(), ["image"])
    with pytest.raises(ExperimentError, match="audio"):
        model.encode("audio", torch.zeros(1, 1, 1, 64, 128))
    with pytest.raises(ExperimentError, match="pool"):
        model.encode("image", torch.zeros(1, 3, 48, 48), tokens=2)
    with pytest.raises(ExperimentError, match="scale"):
        model.encode("image", torch.zeros(1, 3, 48, 48), scale="big")


def test_weights_depend_on_the_seed_alone() -> None:
    config = ImageBindConfig.tiny()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, other = ImageBind(config, ["audio"], seed=1), ImageBind(config, ["image", "audio"], seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    x = batch(config, "audio")
    assert torch.equal(one.encode("audio", x), other.encode("audio", x))
    assert not torch.equal(one.encode("audio", x), ImageBind(config, ["audio"], seed=2).encode("audio", x))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model = ImageBind(ImageBindConfig.tiny(), ["depth"])
    x, weight = batch(model.config, "depth"), model.trunks["depth"].blocks[0].attn.k_proj.weight
    plain = torch.autograd.grad(model.encode("depth", x)[:, 0].sum(), weight)[0]
    model.set_gradient_checkpointing()
    calls = []
    model.trunks["depth"].blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    again = torch.autograd.grad(model.encode("depth", x)[:, 0].sum(), weight)[0]
    assert len(calls) == 2  # the block ran again in the backward pass
    torch.testing.assert_close(again, plain)


def test_tiny_is_small_enough_for_tests(tiny: ImageBind) -> None:
    assert count(tiny) < 2_000_000
    inputs = {m: batch(tiny.config, m, rows=1) for m in tiny.modalities}
    with torch.no_grad():
        outs = [tiny.encode(m, x) for m, x in inputs.items()]
    assert all(out.shape == (1, 128) and out.isfinite().all() for out in outs)


@pytest.mark.parametrize("change", [{"heads": 5}, {"input_shape": (3, 4, 4)}, {"bogus": 1}])
def test_impossible_configurations_are_refused(change: dict[str, object]) -> None:
    fields = {"embed_dim": 96, "depth": 1, "heads": 4, "input_shape": (3, 48, 40), "kernel": (2, 8, 8)}
    assert ModalityConfig(**fields).tokens == 30
    with pytest.raises(ValueError, match=next(iter(change))):
        ModalityConfig(**{**fields, **change})
