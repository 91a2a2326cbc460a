"""First lesson of an encoder: linear read-outs of the words of its input's sentence, one per place.

A language model on top learns to look much sooner once the words can be read from the encoder's output linearly.
The read-outs are thrown away.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloom.core.streams import numpy_stream, torch_stream
from fedloom.models.mllm.mllm import MLLM, MLLMExample
from fedloom.models.pretraining.recipe import descend

SHARPNESS = 10.0
"""Factor on the unit vectors, so that read-outs need no large weights."""


class Readout(nn.Module):
    """Linear read-outs z (B, d) -> logits (B, places, words)."""

    def __init__(self, dim: int, places: int, words: int, stream: torch.Generator) -> None:
        super().__init__()
        self.shape = (places, words)
        draw = torch.randn(places * words, dim, generator=stream)
        self.weight = nn.Parameter(draw * dim**-0.5)

    def forward(self, z: Tensor) -> Tensor:
        """Logits of the word at every place."""
        logits: Tensor = SHARPNESS * z @ self.weight.T
        return logits.reshape(-1, *self.shape)


def align(
    model: MLLM,
    name: str,
    examples: Sequence[MLLMExample],
    seed: int,
    steps: int,
    batch: int,
    lr: float,
    rate: Callable[[int, int], float],
    log: Callable[[str], None],
    vary: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Train the trunk of modality `name` alone to read out the references of `examples`.

    `rate(step, steps)` is the share of `lr` at each step; `vary` changes a batch of inputs as augmentation.
    """
    vocabulary = ["", *sorted({word for e in examples for word in e.reference.split()})]
    number = {word: i for i, word in enumerate(vocabulary)}
    places = max(len(e.reference.split()) for e in examples)
    labels = torch.zeros(len(examples), places, dtype=torch.int64)
    for row, example in enumerate(examples):
        for place, word in enumerate(example.reference.split()):
            labels[row, place] = number[word]
    stream = torch_stream(seed, "readout", name)
    readout = Readout(model.encoder.widths[name], places, len(vocabulary), stream).to(model.device)
    weights = [*model.encoder.parameters(), readout.weight]
    optimiser = torch.optim.AdamW(weights, lr, betas=(0.9, 0.95), weight_decay=0.01)
    rng = numpy_stream(seed, "readout", name, "batches")
    for step in range(steps):
        picked = rng.integers(len(examples), size=batch)
        raw = torch.stack([examples[int(i)].inputs[name] for i in picked]).to(model.device)
        z = model.encoder.encode(name, raw if vary is None else vary(raw), pool=model.config.pool)
        logits = readout(z)
        targets = labels[torch.from_numpy(picked)].to(logits.device)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        descend(optimiser, loss, lr * rate(step, steps))
        if (step + 1) % 100 == 0:
            right = (logits.argmax(-1) == targets).all(-1).float().mean().item()
            log(f"align {name} {step + 1}/{steps}: loss {loss.item():.3f}, all words right {right:.2f}")
