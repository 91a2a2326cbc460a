"""One batch of an experiment's client, learned by heart: the loss before and after, and the answers that are then generated.

Run: python scripts/one_batch.py EXPERIMENT CLIENT [STEPS]
"""

import sys
from pathlib import Path

import torch

from fedloom import Experiment


def main(file: Path, client: str, steps: int = 12, size: int = 4) -> None:
    """Train every tensor of the model on the client's first samples."""
    experiment = Experiment.load(file)
    data = {c.name: c for c in experiment.task.clients(experiment.setup)}
    if client not in data:
        raise SystemExit(f"there is no client {client}; there are {', '.join(data)}")
    model = experiment.task.model({client: data[client].holds}, experiment.setup)
    samples = data[client].train[:size]
    batch = [model.prepare(sample) for sample in samples]
    optimizer = torch.optim.AdamW(model.begin(model.tensors), 1e-3)
    losses = []
    for _ in range(steps):
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.2f} to {losses[-1]:.2f}")
    model.rest()
    for sample, answer in zip(samples, model.generate(batch, 12), strict=True):
        print(f"{sample.answer!r}: {answer!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
