"""Pre-train the tiny multimodal LLM on the Tabletop world's public split: `python -m fedloom.models.pretraining.mllm`.

Three lessons: each trunk alone reads out the words of its picture or sound; then captions, transcripts and scenes in
text; then questions. With questions from the start, a small model learns the kind of word that answers and never looks: it
stays near 30 % exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloom.core.streams import numpy_stream, torch_stream
from fedloom.data.tabletop import VOCABULARY, Tabletop
from fedloom.models.imagebind.imagebind import ImageBind, ImageBindConfig
from fedloom.models.mllm.mllm import MLLM, MLLMExample
from fedloom.models.pretraining.augment import vary_sound
from fedloom.models.pretraining.bpe_tokenizer import train_tokenizer
from fedloom.models.pretraining.recipe import (
    HELD_OUT,
    SHIPPED,
    Clock,
    Log,
    descend,
    main,
    rate,
    report,
    seeded,
)
from fedloom.models.pretraining.word_readout import align
from fedloom.models.weights import Weights

FOLDER = SHIPPED / "tiny-mllm"
MODALITIES = ("image", "audio")
KINDS = ("caption", "transcript", "text", "image", "audio", "image+audio")
ENCODER_LR, LLM_LR = 1.5e-3, 2e-3


@dataclass(frozen=True)
class Phase:
    """`steps` steps of language model and projector, each on one kind of sample, drawn with the weights of `mix`.

    The encoder has learned its part before and stays as it is: its outputs are computed once per scene.
    """

    steps: int
    mix: Mapping[str, float]


ALIGN = {"image": ("caption", 3000), "audio": ("transcript", 1000)}
"""Kind of sample and steps from which each trunk learns alone, by reading out the words of its picture or sound."""

PHASES = (
    Phase(800, {"text": 0.6, "caption": 0.3, "transcript": 0.1}),
    Phase(3200, {"image": 0.3, "audio": 0.3, "image+audio": 0.05, "text": 0.3, "caption": 0.05}),
)

STEPS = sum(steps for _, steps in ALIGN.values()) + sum(phase.steps for phase in PHASES)
"""Optimiser steps of the whole recipe."""


def build(
    out_dir: str | Path,
    seed: int = 0,
    steps: int = STEPS,
    log: Log = print,
    device: str = "cpu",
    scenes: int = 16_000,
    batch: int = 64,
    checks: int = 500,
) -> dict[str, Any]:
    """Train from scratch, write the folder, and measure what was written.

    Args:
        out_dir: folder for `MLLM.from_pretrained`; its weights are float16.
        seed: decides the scenes, the initial weights and the order of the batches.
        steps: optimiser steps in all; every part of the recipe gets its share.
        log: takes one line of progress at a time.
        device: where to train.
        scenes: size of the pool of public scenes, prepared once in memory (about 60 kB each).
        batch: samples per step.
        checks: scenes per measurement.

    Returns:
        Shares of exactly right answers, "public/image" and so on, and "seconds".

    """
    clock = Clock()
    world = Tabletop(seed)
    model = fresh_model(world, seed).to(device)
    examples = prepare_pool(model, world, scenes)
    log(f"{scenes} scenes ready after {clock}")
    stream = torch_stream(seed, "tiny-mllm", "sounds")
    mel = encoder_config().modalities["audio"].mel
    vary = {"audio": partial(vary_sound, mel=mel, stream=stream)}
    for name, (kind, planned) in ALIGN.items():
        share = max(1, planned * steps // STEPS)
        align(model, name, examples[kind], seed, share, batch, ENCODER_LR, rate, log, vary.get(name))
    for number, phase in enumerate(PHASES, 1):
        share = max(1, phase.steps * steps // STEPS)
        train(model, examples, seed, number, replace(phase, steps=share), batch, log)
    model.eval().save_pretrained(out_dir, dtype=torch.float16)
    shipped = MLLM.from_pretrained(out_dir, weights=Weights(torch.device(device)))
    metrics: dict[str, Any] = measure(shipped, world, checks)
    return report(metrics, clock, log)


def fresh_model(world: Tabletop, seed: int) -> MLLM:
    """Tokenizer from the world's words and some of its sentences, untrained encoder, projector and Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tags = "<image> <audio> <image,audio> <text> </image> </audio> </image,audio> </text>"
    samples = [world.sample("public", i, "text") for i in range(200)]
    texts = [f" {text}" for s in samples for text in (s.question, s.answer)]
    tokenizer = train_tokenizer([tags, *texts], VOCABULARY)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.06,  # the usual 0.02 suits wide models; here it costs thousands of steps
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(seed, "tiny-mllm", "llm"):
        llm = LlamaForCausalLM(shape)
    return MLLM.assemble(ImageBind(encoder_config(), seed=seed), llm, tokenizer, seed=seed)


def encoder_config() -> ImageBindConfig:
    """The tiny encoder with image and audio only, and larger patches: the size of an object in pictures, and all
    frequencies in sound. They learn in far fewer and cheaper steps than small ones."""
    tiny = ImageBindConfig.tiny()
    image = tiny.modalities["image"].model_copy(update={"kernel": (2, 24, 24), "stride": (2, 12, 12)})
    audio = tiny.modalities["audio"].model_copy(update={"kernel": (64, 12), "stride": (64, 6)})
    return tiny.model_copy(update={"modalities": {"image": image, "audio": audio}})


def prepare_pool(
    model: MLLM, world: Tabletop, scenes: int, kinds: Sequence[str] = KINDS
) -> dict[str, list[MLLMExample]]:
    """Examples of the first public scenes by kind; a scene's photo and spoken question are the same tensors in all."""
    ready: dict[str, list[MLLMExample]] = {kind: [] for kind in kinds}
    for index in range(scenes):
        shown: dict[str, torch.Tensor] = {}
        for kind in kinds:
            sample = world.sample("public", index, kind)
            for name, raw in sample.modalities.items():
                if name not in shown:
                    shown[name] = model.encoder.preprocess(name, raw)
            inputs = {name: shown[name] for name in sample.modalities}
            ready[kind].append(
                MLLMExample(sample.uid, sample.kind, inputs, model.pieces(sample), sample.answer)
            )
    return ready


def train(
    model: MLLM,
    examples: Mapping[str, Sequence[MLLMExample]],
    seed: int,
    number: int,
    phase: Phase,
    batch: int,
    log: Log,
) -> None:
    """One phase with its own optimiser; a batch holds one kind, so that its prompts are nearly equally long."""
    weights = [*model.projector.parameters(), *model.llm.parameters()]
    optimiser = torch.optim.AdamW(weights, LLM_LR, betas=(0.9, 0.95), weight_decay=0.01)
    known = {k: encode_pool(model, examples[k]) for k in phase.mix}
    rng = numpy_stream(seed, "tiny-mllm", "phase", number)
    kinds = list(phase.mix)
    odds = [phase.mix[k] / sum(phase.mix.values()) for k in kinds]
    clock = Clock()
    recent: dict[str, float] = {}
    for step in range(phase.steps):
        kind = kinds[int(rng.choice(len(kinds), p=odds))]
        picked = rng.integers(len(examples[kind]), size=batch)
        chosen = [int(i) for i in picked]
        loss = model([examples[kind][i] for i in chosen], [known[kind][i] for i in chosen]).loss
        descend(optimiser, loss, LLM_LR * rate(step, phase.steps))
        recent[kind] = 0.9 * recent.get(kind, loss.item()) + 0.1 * loss.item()
        if (step + 1) % 100 == 0:
            losses = ", ".join(f"{k} {v:.3f}" for k, v in sorted(recent.items()))
            log(f"phase {number} step {step + 1}/{phase.steps} {clock}: {losses}")


@torch.no_grad()
def encode_pool(model: MLLM, examples: Sequence[MLLMExample], batch: int = 256) -> list[dict[str, Tensor]]:
    """Encoder outputs of every example."""
    return [f for i in range(0, len(examples), batch) for f in model.features(examples[i : i + batch])]


def measure(model: MLLM, world: Tabletop, checks: int, kinds: Sequence[str] = KINDS) -> dict[str, float]:
    """Share of exactly right answers on held-out scenes, by split and kind."""
    metrics: dict[str, float] = {}
    for split in ("public", "private"):
        for kind in kinds:
            examples = [model.prepare(world.sample(split, HELD_OUT + i, kind)) for i in range(checks)]
            metrics[f"{split}/{kind}"] = round(exact(model, examples), 4)
    return metrics


def exact(model: MLLM, examples: Sequence[MLLMExample], batch: int = 128) -> float:
    """Share of examples whose greedy answer equals the reference."""
    right = 0
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        right += sum(a == e.reference for a, e in zip(model.generate(part, 40), part, strict=True))
    return right / len(examples)


if __name__ == "__main__":
    main(build, FOLDER)
