"""The counts of `fedloom methods --cost` for the ledger's pages."""

import shlex
from collections import Counter

from fedloom.cli import cost, cost_clip

PARTS = ""
"""Among the methods' names, that of the parts of the system."""


def counted(command: str) -> dict[str, dict[str, float]]:
    """The counts of `fedloom methods --cost PRESET [--clients N]` by method, and the adapters' by part of the system."""
    words = shlex.split(command)
    preset = words[words.index("--cost") + 1]
    clients = int(words[words.index("--clients") + 1]) if "--clients" in words else 3
    if preset in cost_clip.PRESETS:
        return {
            c.title: {"trained": c.trained, "up": c.up, "down": c.down, "kept local": c.kept}
            for c in cost_clip.table(preset, clients)
        }
    parts: Counter[str] = Counter()
    for name, shape in cost.PRESETS[preset]().items():
        parts[name.partition("/")[0]] += shape.numel()
    methods = {
        c.title: {
            "trained": c.trained,
            "up": c.up,
            "down": c.down,
            "mean": c.mean,
            "mean, dense": c.mean_dense,
        }
        for c in cost.table(preset, clients)
    }
    return {PARTS: dict(parts), **methods}
