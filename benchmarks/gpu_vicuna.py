"""Vicuna-7B behind ImageBind-huge's image trunk with random weights, and the same classes in a small size."""

from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.random_weights import Work, draw
from fedloom.core.streams import torch_stream
from fedloom.models.imagebind.config import ImageBindConfig
from fedloom.models.imagebind.imagebind import ImageBind
from fedloom.models.lora.layers import LoRA
from fedloom.models.mllm.load import foundation_folder
from fedloom.models.mllm.mllm import MLLM, MLLMExample
from fedloom.models.mllm.pieces import Pieces
from fedloom.models.mllm.trainable import AdaptedMLLM

VICUNA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
SMALL = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 4}


def foundation(size: str, device: torch.device, precision: torch.dtype, work: Work) -> AdaptedMLLM:
    """Vicuna-7B behind ImageBind-huge's image trunk, assembled, with fresh adapters."""
    tokenizer = AutoTokenizer.from_pretrained(foundation_folder("tiny-mllm") / "llm")
    full = size == "full"
    config = LlamaConfig(
        vocab_size=32000 if full else 512, max_position_embeddings=2048, **(VICUNA_7B if full else SMALL)
    )
    with torch.device("meta"):
        llm = LlamaForCausalLM(config)
        encoder = ImageBind(ImageBindConfig.huge() if full else ImageBindConfig.tiny(), ["image"])
    for name, module in (("llm", llm), ("encoder", encoder)):
        draw(module, name, device, precision)
    mllm = MLLM.assemble(encoder.eval(), llm.eval(), tokenizer)
    mllm.projector.to(device)
    model = AdaptedMLLM(mllm, LoRA(), LoRA(), seed=0)
    model.cast_frozen(precision)
    return model


def samples(model: AdaptedMLLM, client: int, work: Work) -> list[MLLMExample]:
    """Images of noise and random token ids: one soft token, and `work.positions` positions in all."""
    generator = torch_stream(0, "samples", client)
    encoder, llm = model.mllm.encoder, model.mllm.llm
    assert isinstance(encoder, ImageBind)
    shape = encoder.config.modalities["image"].input_shape
    config: Any = llm.config
    examples = []
    for i in range(work.batch * work.steps):
        ids = torch.randint(3, config.vocab_size, (work.positions - 1,), generator=generator).tolist()
        pieces = Pieces(
            (tuple(ids[:8]), "image", tuple(ids[8 : -work.answer])), tuple(ids[-work.answer :]), False
        )
        picture = torch.randn(shape, generator=generator)
        examples.append(MLLMExample(f"{client}/{i}", "image", {"image": picture}, pieces, ""))
    return examples
