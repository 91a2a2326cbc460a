"""Adapters by PEFT on the trunks: counts, gradients, merging, saving, and the guard against dead ones."""

from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.models.imagebind.checkpoint import to_official
from fedloom.models.imagebind.imagebind import ImageBind, ImageBindConfig
from fedloom.models.lora.gradient_check import check_adapters

HUGE_RANK_8 = {
    "image": 2_621_440, "text": 1_572_864, "audio": 589_824, "depth": 294_912, "thermal": 589_824, "imu": 196_608
}  # fmt: skip
FEED_FORWARD_RANK_8 = {
    "image": 3_276_800, "text": 1_966_080, "audio": 737_280, "depth": 368_640, "thermal": 737_280, "imu": 245_760
}  # fmt: skip
LINEAR, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("fc1", "fc2")
X = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))


def wrap(trunk: nn.Module, rank: int = 4, dropout: float = 0.0, targets: tuple[str, ...] = ()) -> nn.Module:
    lora = peft.LoraConfig(
        r=rank, lora_alpha=8, lora_dropout=dropout, target_modules=list(targets or ImageBind.lora_targets)
    )
    return peft.get_peft_model(trunk, lora)


def adapters(module: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if "lora_" in name}


@pytest.fixture
def model() -> ImageBind:
    """A depth encoder with a wrapped trunk and B away from zero."""
    model = ImageBind(ImageBindConfig.tiny(), ["depth"])
    model.trunks["depth"] = wrap(model.trunks["depth"])
    with torch.no_grad():
        for name, p in adapters(model).items():
            p.normal_(generator=torch.Generator().manual_seed(len(name))).mul_(0.2)
    return model


def published(modality: str, rank: int, targets: tuple[str, ...]) -> int:
    """Numbers in the adapters of one trunk of the published model."""
    with torch.device("meta"):
        trunk = ImageBind(ImageBindConfig.huge(), [modality]).trunks[modality]
        return sum(p.numel() for p in adapters(wrap(trunk, rank, targets=targets)).values())


@pytest.mark.parametrize("modality", HUGE_RANK_8)
def test_published_adapter_counts(modality: str) -> None:
    assert published(modality, 8, ()) == HUGE_RANK_8[modality]
    assert sum(HUGE_RANK_8.values()) == 5_865_472
    assert published(modality, 8, MLP) == FEED_FORWARD_RANK_8[modality]
    assert sum(FEED_FORWARD_RANK_8.values()) == 7_331_840


@pytest.mark.parametrize(
    ("modalities", "rank", "targets", "numbers"),
    [
        (("image",), 8, LINEAR + MLP, 5_898_240),
        (("image", "audio", "text"), 8, MLP, 5_980_160),
        (("image", "audio"), 16, LINEAR, 6_422_528),
        (("image",), 16, MLP, 6_553_600),
    ],
)
def test_other_placements_that_round_to_six_or_seven_million(
    modalities: tuple[str, ...], rank: int, targets: tuple[str, ...], numbers: int
) -> None:
    """Of section 7's readings those that the split attention allows."""
    assert sum(published(m, rank, targets) for m in modalities) == numbers


@pytest.mark.parametrize("modality", ["image", "audio", "text"])
def test_fresh_adapters_change_nothing(modality: str) -> None:
    config = ImageBindConfig.tiny()
    plain, wrapped = ImageBind(config, [modality]), ImageBind(config, [modality])
    wrapped.trunks[modality] = wrap(wrapped.trunks[modality])
    shape = config.modalities[modality].input_shape
    x = torch.arange(48).expand(2, 48) if modality == "text" else torch.randn(2, *shape)
    x = x.unsqueeze(1) if modality == "audio" else x
    assert torch.equal(plain.encode(modality, x), wrapped.encode(modality, x))


def test_merged_equals_adapter(model: ImageBind) -> None:
    base = ImageBind(model.config, ["depth"]).encode("depth", X)
    assert (model.encode("depth", X) - base).abs().max() > 1e-2
    model, x = model.double(), X.double()
    adapted = model.encode("depth", x)
    model.trunks["depth"] = model.trunks["depth"].merge_and_unload()
    torch.testing.assert_close(model.encode("depth", x), adapted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.float().encode("depth", X).double(), adapted, rtol=1e-5, atol=1e-5)


def test_adapter_saves_and_loads_in_peft(model: ImageBind, tmp_path: Path) -> None:
    model.trunks["depth"].save_pretrained(tmp_path)
    fresh = ImageBind(model.config, ["depth"])
    fresh.trunks["depth"] = peft.PeftModel.from_pretrained(fresh.trunks["depth"], tmp_path)
    torch.testing.assert_close(fresh.encode("depth", X), model.encode("depth", X))


def test_base_is_saved_without_adapters(model: ImageBind, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    plain = ImageBind(model.config, ["depth"])
    assert to_official(model.state_dict()).keys() == to_official(plain.state_dict()).keys()
    loaded = ImageBind.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode("depth", X), plain.encode("depth", X))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_adapter_learns_and_the_base_does_not(model: ImageBind, checkpointing: bool) -> None:
    own = adapters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in own)
    model.set_gradient_checkpointing(checkpointing)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(own)
    model.train()
    model.encode("depth", X)[:, :5].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapters(model).values())
    assert len(adapters(model)) == 2 * 4 * 2


def test_train_reaches_adapters_only() -> None:
    model = ImageBind(ImageBindConfig.tiny(), ["depth"])
    model.trunks["depth"] = wrap(model.trunks["depth"], dropout=0.5)
    with torch.no_grad():
        for p in adapters(model).values():
            p.fill_(0.1)
    model.train()
    training = {type(m) for m in model.modules() if m.training}
    assert nn.Dropout in training
    assert nn.LayerNorm not in training
    assert not torch.equal(model.encode("depth", X), model.encode("depth", X))
    model.eval()
    assert torch.equal(model.encode("depth", X), model.encode("depth", X))


def test_guard_accepts_the_split_attention_and_leaves_no_trace(model: ImageBind) -> None:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trunk = model.trunks["depth"]
    check_adapters(trunk, model.stems["depth"](X))
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


def test_guard_rejects_out_proj_of_torch_attention() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.fc = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x + self.attn(x, x, x, need_weights=False)[0])

    x = torch.randn(2, 3, 8)
    check_adapters(wrap(Block(), targets=("fc",)), x)
    with pytest.raises(ExperimentError, match="out_proj"):
        check_adapters(wrap(Block(), targets=("out_proj", "fc")), x)
    with pytest.raises(ExperimentError, match="wrap the model first"):
        check_adapters(Block(), x)
