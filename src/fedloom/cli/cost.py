"""Communication cost of every method per client and round, from its scope and tensor shapes alone (UniFLoW Tables 6 and 7).

Counts are tensor elements; multiply by the dtype's size for bytes. Models are built on the meta device.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from fedloom.cli import cost_clip
from fedloom.core.errors import ExperimentError
from fedloom.methods import METHODS, Method
from fedloom.methods.base.clip import CLIPMethod
from fedloom.models.lora.layers import LoRA, attach, named_factors

Sizes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class Cost:
    """One method's counts for one client. `up` and `down` cover adapter and projector tensors; `head` is counted separately."""

    method: str
    title: str
    trained: int
    up: int
    down: int
    down_dense: int
    head: int

    @property
    def mean(self) -> float:
        """Mean of both directions."""
        return (self.up + self.down) / 2

    @property
    def mean_dense(self) -> float:
        """Mean of both directions with a dense residual update of the base (FedEx-LoRA as published)."""
        return (self.up + self.down_dense) / 2


def cost(method: type[Method], sizes: Sizes, clients: int) -> Cost:
    """The cost of `method` with default settings; `sizes` maps the names of all trainable tensors to shapes."""
    scope = method().scope
    if method.square:
        squares = {n[:-1] + "R": torch.Size((s[0], s[0])) for n, s in sizes.items() if n.endswith("lora_A")}
        sizes = {n: s for n, s in sizes.items() if not n.endswith(("lora_A", "lora_B"))} | squares
    second = {n.replace(".lora_", ".local_"): s for n, s in sizes.items() if ".lora_" in n}
    all_sizes = {**sizes, **(second if method.second else {})}
    count = {n: s.numel() for n, s in all_sizes.items()}
    trained = sum(c for n, c in count.items() if scope.role(n) != "frozen")
    shared = {n: c for n, c in count.items() if scope.role(n) == "shared" and not n.startswith("head/")}
    pairs = {n.removesuffix("lora_A"): s for n, s in sizes.items() if n.endswith("lora_A")}
    shapes = [(s[0], s[1], sizes[place + "lora_B"][0]) for place, s in pairs.items()]
    up, down, dense = method.traffic(sum(shared.values()), shapes, clients)
    head = sum(c for n, c in count.items() if n.startswith("head/"))
    return Cost(method.name, method.title, trained, up, down, dense, head)


def table(preset: str, clients: int) -> list[Cost]:
    """Every method's cost on a preset. Raises ExperimentError for an unknown preset."""
    if preset not in PRESETS:
        known = ", ".join((*PRESETS, *cost_clip.PRESETS))
        raise ExperimentError(f"unknown cost preset {preset}; known are {known}")
    sizes = PRESETS[preset]()
    return [
        cost(m, sizes, clients) for m in METHODS.values() if not m.pooled and not issubclass(m, CLIPMethod)
    ]


def _roberta(labels: int) -> Sizes:
    """RoBERTa-large with LoRA r = 8 on query and value, and its classification head."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
        num_labels=labels,
    )
    with torch.device("meta"):
        model = RobertaForSequenceClassification(config)
    head = {f"head/{n}": p.shape for n, p in model.classifier.named_parameters()}
    return _adapters(model.roberta, LoRA(rank=8, alpha=16, targets=("query", "value")), "body") | head


def _llm(config: Mapping[str, Any], rank: int) -> dict[str, torch.Size]:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config))
    return _adapters(model, LoRA(rank=rank, alpha=rank), "llm")


VICUNA = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
TINYLLAMA = {
    "hidden_size": 2048,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 5632,
    "vocab_size": 32000,
}


def _uniflow() -> Sizes:
    """Vicuna-7B (r = 32), all six ImageBind-huge trunks (r = 8) and the projector: Table 6."""
    from fedloom.models.imagebind.imagebind import ImageBind, ImageBindConfig

    sizes = _llm(VICUNA, 32)
    with torch.device("meta"):
        encoder = ImageBind(ImageBindConfig.huge())
        projector = nn.Linear(1024, 4096)
    for modality in encoder.modalities:
        sizes |= _adapters(encoder.trunks[modality], LoRA(rank=8, alpha=8), f"encoder.{modality}")
    return sizes | {f"projector/{n}": p.shape for n, p in projector.named_parameters()}


def _adapters(module: nn.Module, spec: LoRA, group: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        wrapped = attach(module, spec, group, seed=0)
    return {f"{group}/{n}": p.shape for n, p in named_factors(wrapped).items()}


def _projector(layers: Literal["linear", "mlp2x"]) -> Sizes:
    """LLaVA's projector, from CLIP ViT-L/14 (1,024) to Vicuna-7B (4,096): the trained part of federated pre-training."""
    from fedloom.models.mllm.config import MLLMConfig
    from fedloom.models.mllm.projector import new_projector

    class Encoder:
        widths: Mapping[str, int] = {"image": 1024}

    projector = new_projector(Encoder(), 4096, MLLMConfig(layers=layers), device="meta")
    return {f"projector/{n}": p.shape for n, p in projector.named_parameters()}


PRESETS: Mapping[str, Callable[[], Sizes]] = {
    "roberta-large": lambda: _roberta(2),
    "roberta-large-3": lambda: _roberta(3),
    "uniflow": _uniflow,
    "llava-projector-linear": lambda: _projector("linear"),
    "llava-projector": lambda: _projector("mlp2x"),
    "vicuna-7b": lambda: _llm(VICUNA, 32),
    "tinyllama-1.1b": lambda: _llm(TINYLLAMA, 32),
}
"""Shapes of the trainable tensors of the papers' models, by preset name."""
