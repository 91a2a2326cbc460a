"""Foundations that ship with the package, and the device that a run computes on."""

from importlib.resources import files
from pathlib import Path

import torch

from fedloom.core.errors import ExperimentError


def shipped() -> list[tuple[str, int, Path]]:
    """Name, bytes on disk and folder of every foundation in the package."""
    root = Path(str(files("fedloom.models"))) / "shipped"
    marks = ("mllm.json", "config.json", "model_index.json", "captions/config.json")
    folders = sorted(root / p.relative_to(root).parts[0] for name in marks for p in root.glob(f"*/{name}"))
    return [(f.name, sum(p.stat().st_size for p in f.rglob("*") if p.is_file()), f) for f in folders]


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU where there is one. Raises ExperimentError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ExperimentError(f"engine.device: {name} is not available here; use cpu, or auto") from error
    return device
