"""Evaluation of the server's generator and of the votes on its items, with data that the server does not see."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloom.core.files import write_atomic
from fedloom.core.shared_results import SharedResults, key_of, tensor_bytes
from fedloom.data.sources.pool import Pool
from fedloom.methods import State
from fedloom.models.generation.public_set import DENOISER, Synthesis
from fedloom.tasks.image_grid import write_grid
from fedloom.tasks.metrics.image_generation import (
    agreement,
    clip_score,
    diversity,
    frechet_distance,
    kernel_distance,
)
from fedloom.tasks.metrics.oracle import Oracle, train_oracle

ORACLE_SEED = 0
"""One oracle for all seeds of a run, so that seeds are comparable."""

_ORACLES: SharedResults[Oracle] = SharedResults(
    lambda oracle: sum(tensor_bytes(p) for p in (*oracle.body.parameters(), *oracle.head.parameters()))
)


@dataclass(frozen=True)
class GeneratorEvaluator:
    """Scores the generator with an oracle classifier, trained on the real pictures of all clients.

    Per round, `each` pictures of every class are generated from the same noise; the grids show `shown` of them.
    """

    pictures: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    seed: int
    clip: str | None = None
    each: int = 10
    shown: int = 10

    @classmethod
    def of(cls, pool: Pool, seed: int, clip: str | None, side: int) -> "GeneratorEvaluator":
        """An evaluator on a data set's pool; pictures are resized to the generator's `side` x `side` pixels."""
        from fedloom.models.image_processing import Pixels

        sized = Pixels((side, side), None).sized
        pictures = torch.stack([p if p.shape[-2:] == (side, side) else sized(p) for p in pool.pictures])
        return cls(pictures, torch.tensor(pool.labels), pool.names, seed, clip)

    @cached_property
    def oracle(self) -> Oracle:
        """The trained classifier; runs of one process on the same pictures share it."""
        count = len(self.classes)
        key = key_of({"pictures": self.pictures, "labels": self.labels}, count)
        return _ORACLES.of(key, lambda: train_oracle(self.pictures, self.labels, count, ORACLE_SEED))

    @cached_property
    def _towers(self) -> Any:
        from fedloom.models.clip.checkpoint import load_clip_checkpoint

        return load_clip_checkpoint(self.clip or "tiny-clip")

    @cached_property
    def _real(self) -> Tensor:
        return self.oracle.features(self.pictures)

    def assess(self, synthesis: Synthesis, state: State, round: int, grids: Path | None) -> dict[str, float]:
        """Measurable metrics of the current generator and of the last round's votes; `grids`: folder for picture grids."""
        denoiser = {n: t for n, t in state.tensors.items() if n.startswith(DENOISER)}
        labels = torch.arange(len(self.classes)).repeat_interleave(self.each)
        generated = synthesis.draw(denoiser, labels.tolist(), self.seed, "judge")
        features = self.oracle.features(generated)
        prompts = [synthesis.settings.template.format(self.classes[i]) for i in labels.tolist()]
        towers, pixels = self._towers
        metrics = {
            "generator/agreement": agreement(self.oracle.logits(generated), labels),
            "generator/fid": frechet_distance(features, self._real),
            "generator/kid": kernel_distance(features, self._real),
            "generator/diversity": diversity(features, labels),
            "generator/clip_score": clip_score(towers, pixels, generated, prompts),
        }
        if grids is not None:
            self._draw_grids(generated, round, grids)
        return {name: value for name, value in (metrics | self._votes(state)).items() if not isnan(value)}

    def _votes(self, state: State) -> dict[str, float]:
        """Accuracy of prompts and precision of votes on the last round's items, by the oracle."""
        if "public/image" not in state.tensors:
            return {}
        truth = self.oracle.logits(state.tensors["public/image"]).argmax(-1)
        metrics = {"vote/prompt_accuracy": float((truth == state.tensors["prompted/label"]).double().mean())}
        kept = state.tensors.get("vote/item")
        if kept is not None and len(kept):
            right = truth[kept.long()] == state.tensors["vote/label"]
            metrics["vote/precision"] = float(right.double().mean())
        return metrics

    def _draw_grids(self, generated: Tensor, round: int, folder: Path) -> None:
        """`round-000003.png`, `real.png` and `classes.json`: one row per class."""
        folder.mkdir(parents=True, exist_ok=True)
        shown = min(self.shown, self.each)
        rows = generated.reshape(len(self.classes), self.each, *generated.shape[1:])[:, :shown]
        write_grid(rows, folder / f"round-{round:06d}.png")
        if not (folder / "real.png").exists():
            write_grid(self._examples(shown), folder / "real.png")
            names: Sequence[str] = self.classes
            write_atomic(folder / "classes.json", (json.dumps(list(names)) + "\n").encode())

    def _examples(self, shown: int) -> Tensor:
        """The first real pictures, uint8 (classes, shown, 3, H, W), black where a class has fewer."""
        blank = torch.zeros_like(self.pictures[:1])
        rows = []
        for label in range(len(self.classes)):
            own = self.pictures[self.labels == label][:shown]
            rows.append(torch.cat([own, blank.expand(shown - len(own), -1, -1, -1)]))
        return torch.stack(rows)
