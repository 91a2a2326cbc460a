"""Named random streams: every draw of a run comes from a generator that its seed and its purpose alone determine."""

import hashlib

import numpy as np
import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` in the run `seed`; equal on every machine and Python version."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU torch generator for the named stream."""
    return torch.Generator().manual_seed(stream_seed(seed, *names))


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the named stream."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))
