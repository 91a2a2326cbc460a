"""f, h and q of a client's own model: encoders of any width reach one common space (specification fedmmkt 2 and 11.10)."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, DistilBertConfig, ResNetConfig, ViTConfig

from fedloom.models.own.architectures import ClientNet, _width

COMMON, CLASSES = 256, 10
ENCODERS = {
    "resnet18": (ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2]), 512, 131_328),
    "vit-s": (ViTConfig(hidden_size=384), 384, 98_560),
    "vit-b": (ViTConfig(), 768, 196_864),
    "bert-base": (BertConfig(), 768, 196_864),
    "distilbert": (DistilBertConfig(), 768, 196_864),
}


class States(nn.Module):
    """An encoder that returns its input as the last states."""

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=x)


@pytest.mark.parametrize("name", ENCODERS)
def test_10_q_has_the_published_size_for_every_encoder(name) -> None:
    config, width, numbers = ENCODERS[name]
    assert _width(config) == width
    with torch.device("meta"):
        net = ClientNet(States(), _width(config), CLASSES, COMMON)
    assert sum(p.numel() for p in net.projection.parameters()) == numbers == (width + 1) * COMMON
    assert sum(p.numel() for p in net.head.parameters()) == (width + 1) * CLASSES


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("width", [512, 384, 768])
def test_10_states_of_any_width_become_unit_vectors_of_one(width, dtype, tolerance) -> None:
    net = ClientNet(States(), width, CLASSES, COMMON).to(dtype)
    g = torch.Generator().manual_seed(width)
    tokens = torch.randn(3, 5, width, generator=g, dtype=torch.float64).to(dtype)  # the first one counts
    maps = torch.randn(3, width, 2, 4, generator=g, dtype=torch.float64).to(dtype)  # the mean over places
    W, b = net.projection.weight.double(), net.projection.bias.double()
    for states, pooled in ((tokens, tokens[:, 0]), (maps, maps.flatten(2).mean(2))):
        with torch.no_grad():
            logits, z = net({"x": states})
        assert (logits.shape, z.shape) == ((3, CLASSES), (3, COMMON))
        want = pooled.double() @ W.T + b
        want = want / want.norm(dim=1, keepdim=True)
        torch.testing.assert_close(z.double(), want, rtol=0, atol=tolerance)
        assert float((z.double().norm(dim=1) - 1).abs().max()) < tolerance
