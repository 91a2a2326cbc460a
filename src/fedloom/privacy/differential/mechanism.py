"""The mechanism of a run: its multiplier, its clips, and the noise of every sum, with the state that a resume needs."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.privacy.differential import quantile
from fedloom.privacy.differential.accountant import Accountant, correlated_of
from fedloom.privacy.differential.correlated import Draw
from fedloom.privacy.differential.key_file import fresh_key, held_key
from fedloom.privacy.differential.noise import gaussian, keyed
from fedloom.privacy.differential.settings import DP, QuantileClip


@dataclass
class Mechanism:
    """Noise and clips of a run with `sums` noisy sums a round. `key`: the secret of correlated noise, None where it is seeded.

    A round that is repeated after a crash may have other sums. With the same new noise their difference would stand bare
    before whoever saw both models; so its new draws are of the latest of `starts`, and only draws of earlier rounds are the same.
    """

    dp: DP
    rate: float
    sums: int
    seed: int
    key: bytes | None = None
    clips: dict[str, float] = field(default_factory=dict)
    """The clip of each request, where it is adaptive."""
    starts: list[tuple[int, str]] = field(default_factory=list)
    """The processes that have gone on with the run: each one's first round, and 32 hex digits of its own."""

    def __post_init__(self) -> None:
        self.accountant = Accountant.of(self.dp, self.rate, self.sums)
        self.correlated = correlated_of(self.dp, self.rate)

    def clip(self, request: str) -> float:
        """C of the next sum of this request."""
        return self.clips.get(request, quantile.first_clip(self.dp))

    def learn(self, request: str, below: float, most: float = quantile.LARGEST) -> None:
        """Move the request's clip, given the noisy share of clients below it; it does not grow beyond `most`."""
        if isinstance(self.dp.clip, QuantileClip):
            before = self.clip(request)
            self.clips[request] = min(quantile.next_clip(before, below, self.dp.clip), max(most, before))

    def noise(self, round: int, request: str, group: str, sizes: Mapping[str, int]) -> Tensor:
        """The noise of a group's sum in a round: one vector (float64) for its tensors, given by size."""
        deviation = quantile.vector_multiplier(self.dp) * self.clip(request)
        if self.correlated is None:
            stream = (self.seed, ("dp", round, request, group)) if self.dp.seeded else None
            return gaussian(sum(sizes.values()), deviation, stream)
        # Each tensor has draws of its own: a method may ask for other tensors in another round.
        parts = []
        for name, size in sizes.items():
            total = torch.zeros(size, dtype=torch.float64)
            for draw, weight in self.correlated.weights(round).items():
                total += weight * self._draw(draw, (request, name), size)
            parts.append(deviation * total)
        return torch.cat(parts)

    def count_noise(self, round: int, request: str) -> float:
        """The noise of the number of clients below the clip."""
        stream = (self.seed, ("dp", round, request, quantile.BELOW)) if self.dp.seeded else None
        return float(gaussian(1, quantile.count_deviation(self.dp), stream))

    def _draw(self, draw: Draw, tensor: tuple[str, str], size: int) -> Tensor:
        """(size,) standard normal numbers of one draw of Z for a request's tensor: the same whenever they are asked for."""
        if self.dp.seeded:
            return gaussian(size, 1.0, (self.seed, ("dp", "draw", *draw, *tensor)))
        if self.key is None or self.correlated is None:
            raise ValueError("correlated noise needs its key")
        first = self.correlated.first(draw)
        start = next((name for began, name in reversed(self.starts) if began <= first), "")
        return keyed(self.key, size, start, *draw, *tensor)

    @property
    def adaptive(self) -> bool:
        """Whether the clip follows a quantile."""
        return isinstance(self.dp.clip, QuantileClip)

    @property
    def needs_key(self) -> bool:
        """Whether a secret must outlive the rounds: noise is taken back that no seed determines."""
        return self.correlated is not None and not self.dp.seeded

    def open(self, folder: Path | None, *, after: int) -> None:
        """Before round `after` + 1: read or make the key, in a run's state folder or in memory. Raises DiskError."""
        if self.needs_key:
            self.key = fresh_key() if folder is None else held_key(folder, begun=after > 0)
            self.starts.append((after + 1, os.urandom(16).hex()))

    def state(self, clients: Sequence[str]) -> dict[str, Any]:
        """The values of a checkpoint; `clients` are the run's."""
        clips = {"clips": dict(self.clips)} if self.clips else {}
        starts = {"starts": [list(start) for start in self.starts]} if self.starts else {}
        return clips | starts | ({"clients": list(clients)} if self.correlated is not None else {})

    def restore(self, state: Mapping[str, Any], clients: Sequence[str]) -> None:
        """Return to a checkpoint's values. Raises ValueError for a clip that is no positive number.

        Raises ExperimentError where clients take part in turns and are not those of the checkpoint.
        """
        if self.correlated is not None and state.get("clients", []) != list(clients):
            raise ExperimentError(
                f"privacy.dp.mechanism: {self.dp.mechanism} accounts for the turns of the clients with which the run began; "
                "go on with the same ones, or start a new run"
            )
        clips = dict(state.get("clips", {}))
        if not all(isinstance(c, float) and 0 < c < math.inf for c in clips.values()):
            raise ValueError("a clip should be a positive number")
        self.clips = clips
        self.starts = [(int(began), str(name)) for began, name in state.get("starts", [])]
