"""Communication cost of the methods on CLIP, from attachments, scopes and tensor shapes (specification pfedmma, section 2).

Counts are tensor elements. Models are built on the meta device.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from fedloom.core.errors import ExperimentError
from fedloom.methods import METHODS
from fedloom.methods.base.clip import CLIPMethod
from fedloom.models.clip.towers import Towers


@dataclass(frozen=True)
class ClipCost:
    """One method's counts for one client and round; `kept` counts trained tensors that never leave the client."""

    method: str
    title: str
    trained: int
    up: int
    down: int
    kept: int


def cost(method: CLIPMethod, title: str, towers: Towers, clients: int) -> ClipCost:
    """The cost of `method` on `towers` in a round of `clients`."""
    with torch.device("meta"):
        sizes = {n: p.numel() for n, p in method.clip_adapter.part(towers).named().items()}  # type: ignore[union-attr]
    roles = {name: method.scope.role(name) for name in sizes}
    trained = sum(c for n, c in sizes.items() if roles[n] != "frozen")
    shared = sum(c for n, c in sizes.items() if roles[n] == "shared")
    if method.pooled:  # centralised training: nothing is transmitted
        return ClipCost(method.name, title, trained, 0, 0, 0)
    up, down, _ = method.traffic(shared, [], clients)
    return ClipCost(method.name, title, trained, up, down, trained - shared)


def table(preset: str, clients: int) -> list[ClipCost]:
    """Every CLIP method's cost, for all of its presets. Raises ExperimentError for an unknown cost preset."""
    if preset not in PRESETS:
        raise ExperimentError(f"unknown cost preset {preset}; known are {', '.join(PRESETS)}")
    towers = PRESETS[preset]()
    costs = []
    for method in METHODS.values():
        if issubclass(method, CLIPMethod):
            for name in method.presets or (None,):
                settings = method.model_validate({} if name is None else {"preset": name})
                title = method.title if name is None else f"{method.title}, {name}"
                costs.append(cost(settings, title, towers, clients))
    return costs


def _openai(patch: int) -> Towers:
    """OpenAI CLIP ViT-B with this patch size: 12 blocks of width 512 (text) and 768 (vision), projected to 512."""
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        return Towers(CLIPModel(CLIPConfig(vision_config={"patch_size": patch})), None)


PRESETS: Mapping[str, Callable[[], Towers]] = {
    "clip-vit-b16": lambda: _openai(16),
    "clip-vit-b32": lambda: _openai(32),
}
"""CLIP models on the meta device, by preset name."""
