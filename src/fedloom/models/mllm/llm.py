"""Loading a causal language model: any class of transformers that predicts a token from those before it."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedloom.core.errors import ExperimentError
from fedloom.core.hf_errors import loading
from fedloom.core.hf_logging import quiet_hf
from fedloom.models.weights import Weights, check_complete


def load_llm(source: str | Path, weights: Weights) -> tuple[Any, Any]:
    """(language model, its own tokenizer) of a Hugging Face id or a folder, its weights as `weights` says.

    Raises ExperimentError for one that cannot be loaded, that reads pictures or sounds itself, or that is not causal.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with loading("model.llm", source), quiet_hf():
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if parts := [m for m in ("vision", "audio", "thinker") if hasattr(config, f"{m}_config")]:
            raise ExperimentError(
                f"model.llm: {source} is a {config.model_type} model, which has a {parts[0]} part of its own; "
                "name it as model.native"
            )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        llm, report = weights.read(AutoModelForCausalLM, source, "model.llm", llm=True)
        check_complete(report, "model.llm", source)
        check_causal(llm, source)
    return llm, tokenizer


@torch.no_grad()
def check_causal(llm: nn.Module, source: str | Path) -> None:
    """Raise ExperimentError for a model that takes no embeddings, or whose answer to a token depends on a later one."""
    if "inputs_embeds" not in inspect.signature(llm.forward).parameters:
        raise ExperimentError(
            f"model.llm: {source} is a {type(llm).__name__}, which takes no inputs_embeds; name another model"
        )
    llm.eval()
    table = llm.get_input_embeddings().weight  # type: ignore[operator]
    some = table[: min(3, len(table))]
    one = torch.stack([some[0], some[-1]])[None]
    other = torch.stack([some[0], some[0]])[None]
    mask = torch.ones(1, 2, dtype=torch.int64, device=table.device)
    first, second = (
        llm(inputs_embeds=x, attention_mask=mask, use_cache=False).logits[0, 0] for x in (one, other)
    )
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        raise ExperimentError(
            f"model.llm: {source} is a {type(llm).__name__}, which looks at later tokens; name a causal language model"
        )
