"""Feature cache: an epoch with cached features of the frozen encoder, beside the epoch that computes them.

`python -m benchmarks features [clients] [samples] [repetitions]` (4 16 5 if none are given).

Image clients train only behind the encoder: the projector alone (a method that freezes encoder and LLM), or the LLM's adapter
(tau = 0). `shipped` is the tiny foundation; `wide` has a random encoder of eight layers, width 192
and 145 tokens, so that the encoder dominates as in ImageBind-huge. A repetition clears the cache and trains two epochs.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import Row, clock, tell
from fedloom.core.payload import Payload, Scope
from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from fedloom.federation.settings import Round
from fedloom.methods.fedavg_lora import FedAvgLoRA
from fedloom.models.imagebind.config import ImageBindConfig
from fedloom.models.imagebind.imagebind import ImageBind
from fedloom.models.mllm.load import foundation_folder


class ProjectorOnly(FedAvgLoRA):
    """Federated pre-training of the projector."""

    @property
    def scope(self) -> Scope:
        return replace(super().scope, frozen=("encoder*", "llm*"))


def wide(folder: Path) -> dict[str, str]:
    """The `model` settings of a foundation with a dominant encoder."""
    image = ImageBindConfig.tiny().modalities["image"]
    part = image.model_copy(update={"embed_dim": 192, "depth": 8, "kernel": (2, 4, 4)})
    ImageBind(ImageBindConfig(out_dim=128, modalities={"image": part})).save_pretrained(folder)
    return {"encoder": str(folder), "llm": str(foundation_folder("tiny-mllm") / "llm")}


def measure(what: str, model: dict[str, Any], clients: int, samples: int, repetitions: int) -> Row:
    """Second epoch (ours) beside the first one (the rival)."""
    single = what.startswith("projector")
    chosen = Experiment.parse(
        {
            "method": ProjectorOnly() if single else "fedavg-lora",
            "rounds": 2,
            "data": {"clients": {"image": clients}, "train": samples, "test": 1},
            "model": model,
            "training": {"batch_size": 4, **({"schedule": "simultaneous"} if single else {"tau": 0.0})},
            "engine": {"device": "cpu"},
            "evaluation": {"generate": False, "controls": False},
        }
    )
    federation = build(chosen, None, lambda progress: None)
    engine, shared = federation.engine, federation.state.shared
    for client in federation.clients.values():
        client.examples(engine.model)
    first: list[float] = []
    second: list[float] = []
    losses = []
    for _ in range(repetitions + 1):
        engine.model.store.clear()
        for kept in (first, second):
            payloads = {n: c.view(Payload(shared)) for n, c in federation.clients.items()}
            began = clock()
            replies = engine.ask(federation.method, "train", payloads, Round(1, 2, 0))
            kept.append(clock() - began)
            losses.append([r.payload.numbers["loss"] for r in replies])
    gap = max(abs(a - b) for epoch in losses for a, b in zip(epoch, losses[0], strict=True))
    return Row(
        "features",
        f"{what}, {clients} clients x {samples} samples, second epoch",
        "the first epoch",
        "2 where the encoder dominates",
        second[1:],
        first[1:],
        gap,
        "the difference is that of the clients' losses",
    )


def main(arguments: list[str]) -> list[Row]:
    clients, samples, repetitions = (int(a) for a in arguments) if len(arguments) == 3 else (4, 16, 5)
    with tempfile.TemporaryDirectory() as place:
        large = wide(Path(place))
        rows = [
            measure(f"{trained}, {size}", model, clients, samples, repetitions)
            for size, model in (("wide", large), ("shipped", {}))
            for trained in ("projector only", "LLM only")
        ]
    tell(rows)
    return rows
