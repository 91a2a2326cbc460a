"""EfficientNet-lite in transformers' class: open gates change nothing, and every weight finds its place."""

import pytest
import torch

from scripts.offline.efficientnet_lite import config, open_gates, renamed


@pytest.fixture
def model():
    from transformers import EfficientNetConfig, EfficientNetModel

    torch.manual_seed(0)
    made = EfficientNetModel(
        EfficientNetConfig(
            width_coefficient=0.25,
            depth_coefficient=1.0,
            hidden_dim=320,
            image_size=32,
            hidden_act="relu6",
            squeeze_expansion_ratio=0.0,
            num_block_repeats=[1, 1, 1],
            kernel_sizes=[3, 3, 5],
            in_channels=[32, 16, 24],
            out_channels=[16, 24, 40],
            strides=[1, 2, 2],
            expand_ratios=[1, 6, 6],
        )
    )
    return made.eval()


def test_open_gates_are_the_exact_identity(model) -> None:
    gates = [m for n, m in model.named_modules() if n.endswith("squeeze_excite")]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x).last_hidden_state
        open_gates(model)
        inner = torch.randn(2, gates[1].dim, 4, 4) * 100
        assert torch.equal(gates[1](inner), inner)
        after = model(x).last_hidden_state
        for gate in gates:
            gate.forward = lambda states: states
        assert torch.equal(model(x).last_hidden_state, after)
    assert len(gates) == 3
    assert not torch.equal(before, after), "random gates are felt"


def test_the_names_of_all_weights_are_those_of_the_class() -> None:
    from transformers import EfficientNetForImageClassification

    with torch.device("meta"):
        known = EfficientNetForImageClassification(config()).state_dict()
    wanted = {n for n in known if ".squeeze_excite." not in n}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    parts = {
        "_conv_stem": ("weight",),
        "_bn0": norm,
        "_conv_head": ("weight",),
        "_bn1": norm,
        "_fc": ("weight", "bias"),
    }
    names = [f"{part}.{kind}" for part, kinds in parts.items() for kind in kinds]
    block = {"_depthwise_conv": ("weight",), "_bn1": norm, "_project_conv": ("weight",), "_bn2": norm}
    for k in range(16):
        own = block | ({"_expand_conv": ("weight",), "_bn0": norm} if k else {})
        names += [f"_blocks.{k}.{part}.{kind}" for part, kinds in own.items() for kind in kinds]
    assert {renamed(n) for n in names} == wanted
