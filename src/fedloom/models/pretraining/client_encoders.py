"""Pre-train the tiny clients' encoders on printed digits to name facts: `foundation build resnet | vit | bert | distilbert`.

Each learns 30 yes/no labels of a picture, such as "a loop, high" or "a wall on the left", from its pixels or from its description
in each of the three wordings. The class is never a label, and no description names it. The linear read-out is thrown away.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedloom.core.streams import stream_seed, torch_stream
from fedloom.data.digits import WORDINGS, describe, facts, printed
from fedloom.data.digits.describe import PUBLIC
from fedloom.data.sources.labelled import vocabulary
from fedloom.models.own.architectures import Architecture, load_architecture
from fedloom.models.own.tiny import RANDOM, SIDE, TINY
from fedloom.models.pretraining.captioner import preprocessor
from fedloom.models.pretraining.recipe import (
    HELD_OUT,
    Clock,
    Log,
    descend,
    load_written,
    rate,
    report,
    save_half,
)

STEPS = {"tiny-resnet": 3000, "tiny-vit": 1500, "tiny-bert": 1500, "tiny-distilbert": 1500}
"""Optimiser steps by name; a step of the ResNet is the cheapest."""
LR = 2e-3
PICTURES = 6000
FACTS = tuple(PUBLIC)
"""The labels, in the order of the public vocabulary."""


def build(
    name: str,
    out_dir: str | Path,
    seed: int = 0,
    steps: int | None = None,
    log: Log = print,
    device: str = "cpu",
    pictures: int = PICTURES,
    batch: int = 64,
    checks: int = 1000,
) -> dict[str, Any]:
    """Train one encoder from scratch, write the folder, and measure what was written.

    Args:
        name: tiny-resnet, tiny-vit, tiny-bert or tiny-distilbert.
        out_dir: folder for `AutoModel` with its tokenizer or picture processor; the weights are float16.
        seed: decides the pictures, the texts, the initial weights and the order of the batches.
        steps: optimiser steps; None takes those of STEPS.
        log: takes one line of progress at a time.
        device: where to train.
        pictures: printed digits to train on.
        batch: pictures or texts per step.
        checks: held-out printed digits per measurement.

    Returns:
        "facts": share of the labels of held-out printed digits that are right, for texts over all wordings; "facts/guess":
        the same for always giving the commoner answer; "recall": true labels that are said, mean over the labels; the last loss;
        "seconds".

    """
    from transformers import AutoModel

    clock = Clock()
    architecture = load_architecture(name + RANDOM, TINY[name]()[0], len(FACTS), 2, vocabulary(), seed)
    net = architecture.net.to(device)  # in eval mode, as in a run: no dropout
    inputs, labels = lessons(architecture, pictures, seed)
    log(f"{len(labels)} examples after {clock}")
    draw = torch_stream(seed, "client-encoder", name)
    optimiser = torch.optim.AdamW([*net.encoder.parameters(), *net.head.parameters()], LR, weight_decay=0.01)
    recent, steps = 0.0, steps or STEPS[name]
    for step in range(steps):
        chosen = torch.randint(len(labels), (batch,), generator=draw)
        logits, _ = net({n: t[chosen].to(device) for n, t in inputs.items()})
        loss = binary_cross_entropy_with_logits(logits, labels[chosen].to(device))
        descend(optimiser, loss, LR * rate(step, steps))
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if (step + 1) % max(steps // 10, 1) == 0:
            log(f"step {step + 1} of {steps}: loss {recent:.4f}, {clock}")
    save_half(net.encoder, architecture.processor, out_dir)
    if architecture.modality == "image":
        (Path(out_dir) / "preprocessor_config.json").write_text(preprocessor(SIDE), encoding="utf-8")
    net.encoder = load_written(AutoModel, out_dir, device)
    metrics = {"loss": round(recent, 4)}
    metrics |= measure(net, *lessons(architecture, checks, seed + HELD_OUT), device)
    return report(metrics, clock, log)


def lessons(architecture: Architecture, count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Encoder inputs of `count` printed digits (of each in all wordings for texts), and float labels (N, 30)."""
    shown, _ = printed(count, seed)
    labels = torch.tensor([[float(fact in true) for fact in FACTS] for true in map(facts, shown)])
    raw: Sequence[Any] = list(shown)
    if architecture.modality == "text":
        raw = [
            describe(picture, stream_seed(seed, "client-encoder", number), wording)
            for wording in range(len(WORDINGS))
            for number, picture in enumerate(shown)
        ]
        labels = labels.repeat(len(WORDINGS), 1)
    read = [architecture.read(x) for x in raw]
    return {n: torch.stack([r[n] for r in read]) for n in read[0]}, labels


@torch.no_grad()
def measure(net: nn.Module, inputs: dict[str, Tensor], labels: Tensor, device: str) -> dict[str, float]:
    """Shares of right labels and of true labels that are said, over examples that were not trained on."""
    parts = [
        net({n: t[i : i + 256].to(device) for n, t in inputs.items()})[0] for i in range(0, len(labels), 256)
    ]
    said, true = torch.cat(parts).cpu() > 0, labels > 0
    commoner = true.float().mean(0) > 0.5
    seen = true.any(0)
    recall = (said & true).sum(0)[seen] / true.sum(0)[seen]
    figures = {
        "facts": (said == true).float().mean(),
        "facts/guess": (commoner == true).float().mean(),
        "recall": recall.mean(),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}
