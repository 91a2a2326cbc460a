"""Sonification of a picture: time runs from left to right, every row is a pitch, the top row the highest."""

import numpy as np
import torch
from torch import Tensor

RATE = 16_000
"""Samples per second."""
LENGTH = 2_048
LOWEST, HIGHEST = 250.0, 4_000.0
"""Pitches of the bottom and the top row in hertz; the others are log-spaced between them."""


def sonify(picture: Tensor) -> Tensor:
    """The sound, float32 (2048,) in [-1, 1] at 16 kHz, of a picture uint8 (3, H, W); a black picture is silent."""
    grey = picture.float().mean(0).numpy() / 255
    rows, columns = grey.shape
    time = np.arange(LENGTH)
    column = (time + 0.5) * columns / LENGTH - 0.5
    loudness = np.stack([np.interp(column, np.arange(columns), row) for row in grey])
    pitches = np.geomspace(HIGHEST, LOWEST, rows)
    # Each row starts at another phase, so that the rows' first peaks do not coincide.
    phases = 2 * np.pi * np.arange(rows) ** 2 / rows
    waves = np.sin(2 * np.pi * pitches[:, None] * time / RATE + phases[:, None])
    sound = (loudness * waves).sum(0) / np.sqrt(rows)
    return torch.from_numpy((sound / max(1.0, float(np.abs(sound).max()))).astype(np.float32))
