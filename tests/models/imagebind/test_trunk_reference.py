"""ImageBind's blocks and stems against torch's own modules and plain loops (specification imagebind 1)."""

import pytest
import torch
from torch import Tensor, nn

from fedloom.models.imagebind.config import ImageBindConfig
from fedloom.models.imagebind.imagebind import ImageBind
from fedloom.models.imagebind.layers import Block

pytestmark = pytest.mark.identities
DOUBLE = torch.float64


def stirred(model: ImageBind) -> ImageBind:
    """In float64, every parameter moved: biases and norms are no longer neutral."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=g, dtype=DOUBLE))
    return model


def torch_layer(block: Block, dim: int, heads: int) -> nn.TransformerEncoderLayer:
    """The same weights in torch's pre-norm layer with the exact GELU."""
    theirs = nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True, dtype=DOUBLE
    )
    own = block.attn
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(
            torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight])
        )
        theirs.self_attn.in_proj_bias.copy_(torch.cat([own.q_proj.bias, own.k_proj.bias, own.v_proj.bias]))
    theirs.self_attn.out_proj.load_state_dict(own.o_proj.state_dict())
    for name, module in (
        ("norm1", block.norm_1), ("norm2", block.norm_2), ("linear1", block.mlp.fc1), ("linear2", block.mlp.fc2)
    ):  # fmt: skip
        getattr(theirs, name).load_state_dict(module.state_dict())
    return theirs.train()  # dropout is 0; its fast path in eval mode needs contiguous fused weights


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_trunk_is_torchs_pre_norm_encoder(modality) -> None:
    """The modalities without learned key and value; those are held to torch's attention elsewhere."""
    model = stirred(ImageBind(ImageBindConfig.tiny(), [modality]))
    part = model.config.modalities[modality]
    x = torch.randn(2, 9, part.embed_dim, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    trunk = model.trunks[modality]
    want = x
    if part.pre_norm:
        norm = trunk.pre_transformer_layer[0]
        want = nn.functional.layer_norm(x, (part.embed_dim,), norm.weight, norm.bias, 1e-6)
    mask = torch.full((9, 9), -torch.inf, dtype=DOUBLE).triu(1) if modality == "text" else None
    for block in trunk.blocks:
        want = torch_layer(block, part.embed_dim, part.heads)(want, src_mask=mask)
    torch.testing.assert_close(trunk(x), want, rtol=1e-9, atol=1e-10)


def normed(x: Tensor, norm: nn.LayerNorm, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize("modality", ["audio", "depth", "imu", "image"])
def test_a_stem_is_patches_then_norm_then_cls_in_front_then_positions(modality) -> None:
    model = stirred(ImageBind(ImageBindConfig.tiny(), [modality]))
    part, stem = model.config.modalities[modality], model.stems[modality]
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, *part.input_shape, generator=g, dtype=DOUBLE)
    patches = []
    if modality == "imu":  # windows of 8 samples, channel after channel
        for start in range(0, part.input_shape[1], 8):
            patches.append(x[:, :, start : start + 8].reshape(2, -1) @ stem.proj.weight.T)
    else:
        high, wide = part.kernel[-2:]
        down, along = part.step[-2:]
        weight = stem.proj.weight.sum(2) if modality == "image" else stem.proj.weight  # equal frames
        for top in range(0, part.input_shape[1] - high + 1, down):
            for left in range(0, part.input_shape[2] - wide + 1, along):
                seen = x[:, :, top : top + high, left : left + wide]
                patches.append(torch.einsum("bchw,dchw->bd", seen, weight))
    tokens = torch.stack(patches, 1)
    if modality != "image":
        tokens = normed(tokens, stem.norm_layer, 1e-5)
    want = torch.cat([stem.cls_token.expand(2, -1, -1), tokens], 1) + stem.pos_embed
    assert want.shape[1] == part.tokens + 1
    torch.testing.assert_close(stem(x), want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("modality", ["image", "text", "imu"])
def test_a_head_reads_cls_or_the_end_of_text_through_norm_and_projection(modality) -> None:
    model = stirred(ImageBind(ImageBindConfig.tiny(), [modality])).eval()
    part = model.config.modalities[modality]
    if modality == "text":
        ids = torch.randint(
            1, part.vocab - 1, (2, part.input_shape[0]), generator=torch.Generator().manual_seed(3)
        )
        ids[0, 5] = ids[1, 11] = part.vocab - 1
        x, at = ids, torch.tensor([5, 11])
        embedded = model.stems[modality].token_embedding.weight[ids] + model.stems[modality].pos_embed
        tokens = model.trunks[modality](embedded)
    else:
        x = torch.randn(2, *part.input_shape, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
        tokens, at = model.trunks[modality](model.stems[modality](x)), torch.tensor([0, 0])
    head = model.heads[modality]
    state = normed(tokens[torch.arange(2), at], head.norm, 1e-6) @ head.proj.weight.T
    want = state / state.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(model.encode(modality, x), want, rtol=1e-9, atol=1e-10)
