"""Clients without media on an LLM of any size: the runs that `cohort_size` and `further_client` measure.

A model is `tiny` (the shipped foundation), `WIDTHxLAYERS` (a Llama of random weights and the shipped tokenizer), or the folder of
a causal LM of transformers with its tokenizer.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from fedloom.core.hf_logging import quiet_hf
from fedloom.experiment.settings import Experiment
from fedloom.federation.settings import EngineSettings

SHIPPED = Path(str(files("fedloom.models"))) / "shipped" / "tiny-mllm"
RANK = 8


def experiment(model: str, clients: int, batch: int, steps: int, scratch: Path, **engine: Any) -> Experiment:
    """One round of FedAvg-LoRA with minimal evaluation; a random LLM is written below `scratch`."""
    return Experiment.parse(
        {
            "method": "fedavg-lora",
            "rounds": 1,
            "data": {"clients": {"text": clients}, "train": batch * steps, "test": 1},
            "model": {**_foundation(model, scratch), "llm_lora": {"rank": RANK}},
            "training": {"batch_size": batch, "clip": None},
            "engine": EngineSettings(device="cpu", **engine).model_dump(exclude_defaults=True),
            "evaluation": {"generate": False, "controls": False, "clients": 1, "batch_size": 1},
        }
    )


def _foundation(model: str, scratch: Path) -> dict[str, Any]:
    if model == "tiny":
        return {}
    width, x, layers = model.partition("x")
    drawn = bool(x) and width.isdigit() and layers.isdigit()
    llm = str(_random(int(width), int(layers), scratch) if drawn else Path(model).resolve())
    return {"llm": llm, "encoder": str(SHIPPED / "encoder"), "prompt": "paper"}


def _random(width: int, layers: int, scratch: Path) -> Path:
    """A folder with a Llama of random weights: heads of 32, an MLP of 8/3 the width."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = scratch / f"{width}x{layers}"
    if not folder.exists():
        tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "llm")
        sizes = {"hidden_size": width, "intermediate_size": width * 8 // 24 * 8, "num_hidden_layers": layers}
        heads = {"num_attention_heads": width // 32, "num_key_value_heads": width // 32}
        torch.manual_seed(0)
        with quiet_hf():
            LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads)).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return folder
