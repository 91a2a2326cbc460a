"""Unpredictable Gaussian noise: ChaCha20 under a fresh key, made normal by Box and Muller's formula."""

import os

import numpy as np
import torch
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from fedloom.core.streams import torch_stream
from fedloom.privacy.keystream import KEY, keystream

Stream = tuple[int, tuple[str | int, ...]] | None
"""A run's seed and the name of a stream, for reproducible noise; None for unpredictable noise."""


def within(stream: Stream, *names: str | int) -> Stream:
    """A named stream inside another; None stays None."""
    return None if stream is None else (stream[0], (*stream[1], *names))


def gaussian(count: int, deviation: float, stream: Stream = None) -> Tensor:
    """(count,) float64 numbers of N(0, deviation^2)."""
    if stream is not None:
        seed, names = stream
        return torch.randn(count, generator=torch_stream(seed, *names), dtype=torch.float64) * deviation
    return deviation * from_key(os.urandom(KEY), count)


def keyed(key: bytes, count: int, *names: str | int) -> Tensor:
    """(count,) standard normal numbers that a key and these names determine; other names give independent ones."""
    info = b"".join(len(n).to_bytes(4, "big") + n for n in (str(name).encode() for name in names))
    return from_key(HKDF(SHA256(), KEY, salt=None, info=b"fedloom noise" + info).derive(key), count)


def from_key(key: bytes, count: int) -> Tensor:
    """(count,) standard normal numbers that a key determines."""
    pairs = -(-count // 2)
    words = keystream(key, 2 * pairs, np.dtype("<u8"))
    # 53 bits each, in (0, 1]: the logarithm of zero is no number.
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 1) / 2**53
    radius = np.sqrt(-2 * np.log(uniform[:pairs]))
    angle = 2 * np.pi * uniform[pairs:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return torch.from_numpy(both[:count])
