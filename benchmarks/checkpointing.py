"""Savings and costs of checkpointing and accumulation: bytes kept for the backward pass, and seconds of a client's step.

`python -m benchmarks checkpointing [model] [batch] [steps]` (256x6, 4 and 4 if none are given; `benchmarks.text_clients` has the
models' names). Each setting trains the same batches, in turns; the fastest of three turns counts.
"""

import tempfile
from pathlib import Path

from benchmarks.report import clock, surroundings
from benchmarks.text_clients import experiment
from fedloom.core.payload import Payload
from fedloom.experiment.build import build
from fedloom.federation.loop import Federation
from fedloom.federation.settings import Round
from fedloom.models.training.kept_memory import kept_bytes
from fedloom.models.training.settings import micro_batches


def turn(federation: Federation) -> float:
    """Seconds of the client's training."""
    method, [name] = federation.experiment.method, federation.names
    began = clock()
    federation.engine.ask(method, "train", {name: Payload(federation.state.shared)}, Round(1, 1, 0))
    return clock() - began


def main(arguments: list[str]) -> None:
    model, batch, steps = [*arguments, *["256x6", "4", "4"][len(arguments) :]]
    settings = [(c, a) for c in (False, True) for a in (1, int(batch))]
    print("| checkpointing | accumulate | kept, MB | s a step |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        chosen = experiment(model, 1, int(batch), int(steps), Path(scratch), cohort=1)
        federations = []
        for checkpointing, accumulate in settings:
            engine = chosen.engine.model_copy(update={"checkpointing": checkpointing})
            training = chosen.training.model_copy(update={"accumulate": accumulate})
            own = chosen.model_copy(update={"engine": engine, "training": training})
            federations.append(build(own, None, lambda progress: None))
        turns = [[turn(f) for f in federations] for _ in range(4)][1:]  # the first one warms up
        for at, ((checkpointing, accumulate), federation) in enumerate(
            zip(settings, federations, strict=True)
        ):
            trainable, [client] = federation.engine.model, federation.clients.values()
            examples = client.examples(trainable)[: int(batch)]
            names = [n for n in trainable.tensors if n.startswith("llm")]
            parts = micro_batches(range(len(examples)), accumulate)
            kept = max(kept_bytes(trainable, [examples[i] for i in part], names) for part in parts)
            spent = min(t[at] for t in turns) / int(steps)
            print(f"| {'yes' if checkpointing else 'no'} | {accumulate} | {kept / 1e6:.1f} | {spent:.3f} |")
    print("\n" + surroundings())
