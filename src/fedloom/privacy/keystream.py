"""A stream of pseudorandom words under a key: ChaCha20 of the library cryptography."""

from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

KEY = 32
"""Bytes of a private key, a public key, a seed and a derived key."""


def keystream(key: bytes, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """`count` words of ChaCha20's key stream, uniform without knowledge of the key."""
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(count * dtype.itemsize)), dtype=dtype)
