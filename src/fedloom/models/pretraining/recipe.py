"""Shared parts of the recipes of small foundations: seeded weights, learning rate, optimiser step, files and report."""

import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloom.core.hf_logging import quiet_hf
from fedloom.core.streams import stream_seed

Log = Callable[[str], None]
SHIPPED = Path(__file__).parents[1] / "shipped"
HELD_OUT = 1_000_000
"""Scenes and pictures from this number or seed on are never trained on."""


class Clock:
    """Seconds since it was made; as text, "12 s"."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._began

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s"


@contextmanager
def seeded(seed: int, *name: str) -> Iterator[None]:
    """Initial weights from the stream of this name; the global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, *name))
        yield


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: warm-up over 100 steps, a plateau to 60 %, then linear to 3 %."""
    warm = min(1.0, (step + 1) / 100)
    return warm * min(1.0, 0.03 + 0.97 * (steps - step) / (0.4 * steps))


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
    """One step down the loss, the gradient's norm over all parameters clipped to 1."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], 1.0)
    optimiser.step()


def save_half(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """A float16 copy of the model, and its tokenizer if it has one."""
    with quiet_hf():
        copy.deepcopy(model).half().save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def load_written(kind: Any, folder: str | Path, device: str) -> Any:
    """The written weights, in float32."""
    with quiet_hf():
        model = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    return model.to(device)


def report(metrics: dict[str, Any], clock: Clock, log: Log) -> dict[str, Any]:
    """The metrics, logged, with "seconds"."""
    metrics["seconds"] = round(clock.seconds, 1)
    log(json.dumps(metrics, indent=2))
    return metrics


def main(build: Callable[..., Any], folder: Path) -> None:
    """Run a recipe as a script: into the folder of the first argument, or the shipped one."""
    build(sys.argv[1] if len(sys.argv) > 1 else folder, log=lambda line: print(line, flush=True))
