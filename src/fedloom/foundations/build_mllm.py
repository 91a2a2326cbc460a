"""Pre-train the tiny multimodal LLM on the Tabletop world's public split: `python -m fedloom.foundations.build_mllm`.

Captions, transcripts and told scenes first, questions second: asked from the start, a small model learns what kind
of word answers a question and never looks (it stays near 30 % exact; after captions it reaches 100 %).
"""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedloom.data.tabletop import VOCABULARY, Tabletop
from fedloom.foundations.imagebind import ImageBind, ImageBindConfig
from fedloom.foundations.mllm import MLLM, Example
from fedloom.foundations.tokenizer import train_tokenizer
from fedloom.streams import numpy_stream, stream_seed

Log = Callable[[str], None]
FOLDER = Path(__file__).parent / "tiny-mllm"
MODALITIES = ("image", "audio")
KINDS = ("caption", "transcript", "text", "image", "audio", "image+audio")
HELD_OUT = 1_000_000
"""Scenes from this number on are never trained on."""


@dataclass(frozen=True)
class Phase:
    """`share` of all steps, each on one kind of sample, drawn with the weights of `mix`."""

    share: float
    mix: Mapping[str, float]


PHASES = (
    Phase(0.45, {"caption": 0.6, "transcript": 0.2, "text": 0.2}),
    Phase(
        0.55,
        {"image": 0.3, "audio": 0.25, "image+audio": 0.1, "text": 0.1, "caption": 0.15, "transcript": 0.1},
    ),
)


def build(
    out_dir: str | Path,
    seed: int = 0,
    steps: int = 8000,
    log: Log = print,
    device: str = "cpu",
    scenes: int = 12_000,
    batch: int = 64,
    lr: float = 1e-3,
    checks: int = 500,
) -> dict[str, Any]:
    """Train from scratch, write the folder, and measure what was written.

    Args:
        out_dir: folder for `MLLM.from_pretrained`; its weights are float16.
        seed: decides the scenes, the initial weights and the order of the batches.
        steps: optimiser steps of both phases together.
        log: takes one line of progress at a time.
        device: where to train.
        scenes: size of the pool of public scenes, prepared once in memory (about 60 kB each).
        batch: samples per step.
        lr: peak learning rate of AdamW (warm-up, then cosine).
        checks: scenes per measurement.

    Returns:
        Shares of exactly right answers, "public/image" and so on, and "seconds".

    """
    began = time.monotonic()
    world = Tabletop(seed)
    model = fresh_model(world, seed).to(device)
    examples = prepare_pool(model, world, scenes)
    log(f"{scenes} scenes ready after {time.monotonic() - began:.0f} s")
    train(model, examples, seed, steps, batch, lr, log)
    model.eval().save_pretrained(out_dir, dtype=torch.float16)
    shipped = MLLM.from_pretrained(out_dir, device=device)
    found: dict[str, Any] = measure(shipped, world, checks)
    found["seconds"] = round(time.monotonic() - began, 1)
    log(json.dumps(found, indent=2))
    return found


def fresh_model(world: Tabletop, seed: int) -> MLLM:
    """Tokenizer from the world's words and some of its sentences, untrained encoder, projector and Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tags = "<image> <audio> <image,audio> <text> </image> </audio> </image,audio> </text>"
    told = [world.sample("public", i, "text") for i in range(200)]
    texts = [f" {text}" for s in told for text in (s.question, s.answer)]
    tokenizer = train_tokenizer([tags, *texts], VOCABULARY)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "tiny-mllm", "llm"))
        llm = LlamaForCausalLM(shape)
    tiny = ImageBindConfig.tiny()
    kept = tiny.model_copy(update={"modalities": {m: tiny.modalities[m] for m in MODALITIES}})
    return MLLM.assemble(ImageBind(kept, seed=seed), llm, tokenizer, seed=seed)


def prepare_pool(model: MLLM, world: Tabletop, scenes: int) -> dict[str, list[Example]]:
    """Examples of the first public scenes by kind; a scene's photo and spoken question are the same tensors in all."""
    ready: dict[str, list[Example]] = {kind: [] for kind in KINDS}
    for index in range(scenes):
        shown: dict[str, torch.Tensor] = {}
        for kind in KINDS:
            sample = world.sample("public", index, kind)
            for name, raw in sample.modalities.items():
                if name not in shown:
                    shown[name] = model.encoder.preprocess(name, raw)  # type: ignore[operator]
            inputs = {name: shown[name] for name in sample.modalities}
            ready[kind].append(Example(sample.uid, sample.kind, inputs, model.pieces(sample), sample.answer))
    return ready


def train(
    model: MLLM,
    examples: Mapping[str, Sequence[Example]],
    seed: int,
    steps: int,
    batch: int,
    lr: float,
    log: Log,
    phases: Sequence[Phase] = PHASES,
) -> None:
    """One optimiser over all phases; a batch holds one kind, so that its prompts are nearly equally long."""
    optimiser = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.01)
    rng = numpy_stream(seed, "tiny-mllm", "batches")
    began, step = time.monotonic(), 0
    recent: dict[str, float] = {}
    for number, phase in enumerate(phases, 1):
        kinds = list(phase.mix)
        odds = [phase.mix[k] / sum(phase.mix.values()) for k in kinds]
        for _ in range(round(phase.share * steps)):
            kind = kinds[int(rng.choice(len(kinds), p=odds))]
            picked = rng.integers(len(examples[kind]), size=batch)
            for group in optimiser.param_groups:
                group["lr"] = lr * rate(step, steps)
            loss = model([examples[kind][int(i)] for i in picked]).loss
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            recent[kind] = 0.95 * recent.get(kind, loss.item()) + 0.05 * loss.item()
            step += 1
            if step % 100 == 0:
                losses = ", ".join(f"{k} {v:.3f}" for k, v in sorted(recent.items()))
                log(f"phase {number} step {step}/{steps} {time.monotonic() - began:.0f} s: {losses}")


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up over 100 steps, cosine to 2 %."""
    if step < 100:
        return (step + 1) / 100
    return 0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2


def measure(model: MLLM, world: Tabletop, checks: int, kinds: Sequence[str] = KINDS) -> dict[str, float]:
    """Share of exactly right answers on held-out scenes, by split and kind."""
    found: dict[str, float] = {}
    for split in ("public", "private"):
        for kind in kinds:
            examples = [model.prepare(world.sample(split, HELD_OUT + i, kind)) for i in range(checks)]
            found[f"{split}/{kind}"] = round(exact(model, examples), 4)
    return found


def exact(model: MLLM, examples: Sequence[Example], batch: int = 128) -> float:
    """Share of examples whose greedy answer equals the reference."""
    right = 0
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        right += sum(a == e.reference for a, e in zip(model.generate(part, 40), part, strict=True))
    return right / len(examples)


if __name__ == "__main__":
    build(sys.argv[1] if len(sys.argv) > 1 else FOLDER, log=lambda line: print(line, flush=True))
