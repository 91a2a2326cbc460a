"""What a method on CLIP trains, sends and keeps, counted on towers that exist only as shapes (specification pfedmma, section 2).

Numbers are tensor elements. Every figure follows from the method's attachment and scope.
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
    """One method's numbers for one client and round; `kept` is trained and never leaves the client."""

    method: str
    title: str
    trained: int
    up: int
    down: int
    kept: int


def cost(method: CLIPMethod, title: str, towers: Towers, clients: int) -> ClipCost:
    """Count what `method` attaches to `towers`, in a round of `clients`."""
    with torch.device("meta"):
        sizes = {n: p.numel() for n, p in method.attachment.part(towers).named().items()}  # type: ignore[union-attr]
    roles = {name: method.scope.role(name) for name in sizes}
    trained = sum(c for n, c in sizes.items() if roles[n] != "frozen")
    shared = sum(c for n, c in sizes.items() if roles[n] == "shared")
    if method.pooled:  # all data in one place: nothing travels
        return ClipCost(method.name, title, trained, 0, 0, 0)
    up, down, _ = method.traffic(shared, [], clients)
    return ClipCost(method.name, title, trained, up, down, trained - shared)


def table(preset: str, clients: int) -> list[ClipCost]:
    """Every method on CLIP, each with all of its presets. Raises ExperimentError for an unknown CLIP."""
    if preset not in PRESETS:
        raise ExperimentError(f"unknown cost preset {preset}; known are {', '.join(PRESETS)}")
    towers = PRESETS[preset]()
    found = []
    for method in METHODS.values():
        if issubclass(method, CLIPMethod):
            for name in method.presets or (None,):
                made = method.model_validate({} if name is None else {"preset": name})
                title = method.title if name is None else f"{method.title}, {name}"
                found.append(cost(made, title, towers, clients))
    return found


def _openai(patch: int) -> Towers:
    """The published CLIP with ViT-B and this patch: 12 blocks of 512 and 768, projected to 512."""
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        return Towers(CLIPModel(CLIPConfig(vision_config={"patch_size": patch})), None)


PRESETS: Mapping[str, Callable[[], Towers]] = {
    "clip-vit-b16": lambda: _openai(16),
    "clip-vit-b32": lambda: _openai(32),
}
"""CLIPs by name, as shapes."""
