"""Lengths of the samples of a run as its model reads them: positions, cut samples, bytes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample
from fedloom.models.base import Trainable
from fedloom.models.example_cache import nbytes
from fedloom.models.loading.examples import was_cut


@dataclass(frozen=True)
class Lengths:
    """One client's samples: their number, and of those `looked_at` the mean and longest length in positions, and bytes in all.

    `cut`: number of samples that lost text to `model.max_text_tokens`. `probed`: the samples that a probe takes, of lengths
    evenly spread from the shortest to the longest, and their mean length.
    """

    count: int
    looked_at: int = 0
    mean: float = 0.0
    longest: int = 0
    cut: int = 0
    bytes: int = 0
    probed: tuple[int, ...] = ()
    probed_mean: float = 0.0

    @property
    def whole_bytes(self) -> float:
        """Bytes of all samples, prepared."""
        return self.bytes * self.count / self.looked_at if self.looked_at else 0.0


def survey(
    samples: Sequence[Sample],
    prepare: Callable[[Sample], Any],
    model: Trainable,
    keep: int | None,
    until: float,
) -> Lengths:
    """Prepare the samples, up to the moment `until` (of `time.monotonic`) but at least four; `keep` is the size of `probed`."""
    lengths: list[int] = []
    cut = size = 0
    stride = 7 if len(samples) % 7 else 1  # spread over the client's samples, should time run out
    order = [i * stride % len(samples) for i in range(len(samples))]
    for position in order:
        if len(lengths) >= 4 and time.monotonic() > until:
            break
        example = prepare(samples[position])
        lengths.append(model.positions(example))
        cut += was_cut(example)
        size += nbytes(example)
    if not lengths:
        return Lengths(len(samples))
    ranked = sorted(range(len(lengths)), key=lambda i: lengths[i])
    chosen = ranked if keep is None or keep >= len(ranked) else _spread(ranked, keep)
    return Lengths(
        len(samples),
        len(lengths),
        sum(lengths) / len(lengths),
        max(lengths),
        cut,
        size,
        tuple(sorted(order[i] for i in chosen)),
        sum(lengths[i] for i in chosen) / len(chosen),
    )


def _spread(ranked: Sequence[int], keep: int) -> list[int]:
    """`keep` of the entries, evenly spaced up to the last one."""
    return [ranked[(i + 1) * len(ranked) // keep - 1] for i in range(keep)]


def together(parts: Sequence[Lengths]) -> Lengths:
    """Several clients' lengths as one."""
    looked_at = sum(p.looked_at for p in parts)
    return Lengths(
        sum(p.count for p in parts),
        looked_at,
        sum(p.mean * p.looked_at for p in parts) / max(looked_at, 1),
        max((p.longest for p in parts), default=0),
        sum(p.cut for p in parts),
        sum(p.bytes for p in parts),
        tuple(i for p in parts for i in p.probed),
        sum(p.probed_mean * len(p.probed) for p in parts) / max(sum(len(p.probed) for p in parts), 1),
    )


def thinned(sources: Sequence[ClientData], batch: int) -> list[ClientData]:
    """The clients with one batch of test samples in all, spread over their lengths in characters; every client keeps one."""
    tests = sum(len(s.test) for s in sources)

    def some(samples: Sequence[Sample]) -> list[Sample]:
        keep = min(len(samples), max(1, len(samples) * batch // max(tests, 1)))
        ranked = sorted(samples, key=lambda s: len(s.question) + len(s.answer))
        return [ranked[(i + 1) * len(ranked) // keep - 1] for i in range(keep)] if keep else []

    return [replace(s, test=some(s.test)) for s in sources]
