"""The automatic cohort size: clients train together where one by itself leaves the device idle, and where memory allows it.

The choice follows from shapes, not from a clock, so that it is the same on every run of an experiment on a machine. The rule and
the measurements behind it: docs/performance.md, "How many clients train together".
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fedloom.core.plain_text import plain
from fedloom.data.sample import Sample
from fedloom.models.base import Trainable
from fedloom.models.training.kept_memory import kept_bytes
from fedloom.models.training.settings import Training

BUSY = 1e8
"""CPU: multiply-adds of a layer call beyond which a larger batch saves next to nothing."""
ENOUGH = 65_536
"""GPU: positions of a step beyond which a larger batch makes it no faster; not measured."""
SHARE = 0.5
"""Share of the available memory that a cohort's activations and stacked tensors may take."""
SPARE = 1.25
"""Bytes at the peak of a step over those that autograd keeps."""
STACKS = 8
"""Stacked tensors of a client: values, gradients, two moments, and as many for the optimiser's step."""
LARGEST = 256


@dataclass(frozen=True)
class CohortSize:
    """The number of clients trained together, and why, as a clause."""

    clients: int
    reason: str


def cohort_size(
    model: Trainable,
    names: Collection[str],
    samples: Sequence[Sample],
    training: Training,
    most: int = LARGEST,
    processes: int = 1,
) -> CohortSize:
    """The number of clients trained together, from 1 to `most`.

    `names`: the trained tensors; `samples`: some of the clients' samples; `processes`: those that train at the same time.
    """
    if not model.stackable:
        return CohortSize(1, "the model does not share a batch among clients")
    if not names:
        return CohortSize(1, "nothing is trained")
    if most <= 1 or not samples:
        return CohortSize(1, "there is one client")
    examples = sorted((model.prepare(s) for s in samples), key=model.positions, reverse=True)
    part = -(-training.batch_size // training.accumulate)
    positions = part * sum(map(model.positions, examples)) / len(examples)
    device = next(iter(model.tensors.values())).device
    if device.type == "cuda":
        enough, reason = ENOUGH / positions, f"a step of a client has {positions:.0f} positions"
    else:
        work = positions * _mean_weight(model)
        reason = f"a client's layer call takes {work / 1e6:.1f} million multiply-adds, and {BUSY / 1e6:.0f} are enough"
        enough = BUSY / max(work, 1.0)
    wanted = max(1, min(most, LARGEST, int(enough)))
    if wanted == 1:
        return CohortSize(1, reason)
    try:
        batch = [examples[i % len(examples)] for i in range(part)]
        fits = _fitting(model, names, batch, memory(device) // processes)
    except (RuntimeError, ValueError) as error:  # the clients whose samples these are say so in their replies
        return CohortSize(1, f"the longest samples fail ({plain(str(error), 200)})")
    if fits >= wanted:
        everyone = f"all {most} of a round" if processes == 1 else "a worker's share of a round"
        return CohortSize(wanted, everyone if wanted == most else reason)
    return CohortSize(
        fits, f"no more fit into {SHARE:.0%} of the memory available, {memory(device) / 1e9:.1f} GB"
    )


def _mean_weight(model: Trainable) -> float:
    """Mean number of elements of the frozen linear layers' weights: multiply-adds per position of one layer call."""
    own = {id(t) for t in model.tensors.values()}
    layers = [m for m in model.root.modules() if isinstance(m, nn.Linear) and id(m.weight) not in own]
    return sum(m.in_features * m.out_features for m in layers) / max(len(layers), 1)


def _fitting(model: Trainable, names: Collection[str], batch: Sequence[object], available: int) -> int:
    """Clients whose activations and stacked tensors fit; a power of two, which small changes of free memory leave alone."""
    trained = sum(model.tensors[n].numel() * model.tensors[n].element_size() for n in names)
    each = SPARE * kept_bytes(model, batch, names) + STACKS * trained
    return 1 << max(0, int(SHARE * available / max(each, 1)).bit_length() - 1)


def memory(device: torch.device) -> int:
    """Bytes that a process can still take on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [_read("/proc/meminfo", "MemAvailable:", 1024)]
    limit = _read("/sys/fs/cgroup/memory.max", "", 1)
    if limit is not None:
        found.append(limit - (_read("/sys/fs/cgroup/memory.current", "", 1) or 0))
    known = [n for n in found if n is not None]
    if known:
        return max(0, min(known))
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not a POSIX system
        return 4 * 2**30


def _read(path: str, key: str, unit: int) -> int | None:
    """The number behind `key` in a file of the kernel, times `unit`; None where there is none."""
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    words = next((line.removeprefix(key).split() for line in lines if line.startswith(key)), [])
    return int(words[0]) * unit if words and words[0].isdigit() else None
