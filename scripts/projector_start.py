"""A projector whose first layer standardises the encoder's output, and whose soft tokens are as large as the LLM's embeddings.

Run: python scripts/projector_start.py EXPERIMENT FILE [OVERRIDE ...]
The means and deviations are those of the experiment's training samples, so the data should be public. FILE is for
model.projector_from. Without it a random projector sees what all pictures share, which is far larger than what differs.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedloom import Experiment

MOST = 400
"""Samples of a modality that are read."""


def standardised(projector: nn.Module, states: Tensor, deviation: float) -> None:
    """Change the first and last linear layer in place; `states` (N, width) are inputs, `deviation` that of the output."""
    linear = [m for m in projector.modules() if isinstance(m, nn.Linear)]
    first, last = linear[0], linear[-1]
    mean, spread = states.mean(0), states.std(0).clamp(min=1e-4)
    first.weight.div_(spread)
    first.bias.sub_(first.weight @ mean)
    out = projector(states)
    scale = deviation / (out - out.mean(0)).std()
    last.weight.mul_(scale)
    last.bias.mul_(scale)


@torch.no_grad()
def main(file: Path, to: Path, overrides: list[str]) -> None:
    """Read the training samples, once each modality, and write the projector."""
    experiment = Experiment.load(file, overrides)
    clients = experiment.task.clients(experiment.setup)
    model = experiment.task.model({c.name: c.holds for c in clients}, experiment.setup)
    mllm: Any = model.root
    projectors = mllm.projector
    deviation = mllm.llm.get_input_embeddings().weight.float().std().item()
    for modality, projector in projectors.items():
        samples = [s for c in clients for s in c.train if modality in s.modalities]
        chosen = samples[:: max(len(samples) // MOST, 1)]
        rows = []
        for sample in chosen:
            rows.append(model.features([model.prepare(sample)])[0][modality].float())
        standardised(projector, torch.cat(rows), deviation)
        print(f"{modality}: {len(chosen)} samples, soft tokens of deviation {deviation:.3f}")
    to.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.float().contiguous() for n, t in projectors.state_dict().items()}, to)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
