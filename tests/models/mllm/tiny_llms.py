"""Small random causal LMs of several families, and the shipped encoder in front of them."""

from importlib.resources import files
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Phi3Config,
    Qwen2Config,
)

from fedloom.data.sample import Sample
from fedloom.models.mllm.load import load_model
from fedloom.models.settings import Foundation

SHIPPED = Path(str(files("fedloom.models"))) / "shipped" / "tiny-mllm"
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
FAMILIES = {
    "llama": (LlamaConfig, SMALL, {"q_proj", "k_proj", "v_proj", "o_proj"}),
    "qwen2": (Qwen2Config, {**SMALL, "num_key_value_heads": 1}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 2}, {"c_attn", "attn.c_proj"}),
    "phi3": (Phi3Config, {**SMALL, "pad_token_id": 0}, {"qkv_proj", "o_proj"}),
    "gpt-neox": (GPTNeoXConfig, SMALL, {"query_key_value", "dense"}),
    "opt": (
        OPTConfig,
        {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
        {"q_proj", "k_proj", "v_proj", "out_proj"},
    ),
}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer():
    return AutoTokenizer.from_pretrained(SHIPPED / "llm")


def write(folder, config, read=None, rows=None):
    read = read or tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(rows or len(read)))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4.0)
    model.save_pretrained(folder)
    read.save_pretrained(folder)
    return folder


def config_of(name):
    kind, fields, _ = FAMILIES[name]
    ids = {"bos_token_id": 1, "eos_token_id": 2}
    return lambda rows: kind(vocab_size=rows, **{**ids, **fields})


def made(folder, **settings):
    fields = {
        "encoder": str(SHIPPED / "encoder"),
        "llm": str(folder),
        "llm_lora": {"rank": 2},
        "encoder_lora": None,
    }
    return load_model(Foundation(**{**fields, **settings}), ["image"], "cpu", 0)


def samples(count=4):
    draw = torch.Generator().manual_seed(0)
    words = ("red", "two", "a cube", "blue")
    return [
        Sample(
            f"s{i}",
            {"image": torch.randint(0, 256, (3, 48, 48), generator=draw, dtype=torch.uint8)},
            "what colour is it?",
            words[i % 4],
        )
        for i in range(count)
    ]


def chatting(special=True, template=CHAT):
    read = tokenizer()
    if special:
        read.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    read.chat_template = template
    return read
