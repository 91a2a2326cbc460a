"""Shamir's secret sharing of 32-byte secrets: two blocks of 16 bytes through `pycryptodome` (field GF(2^128))."""

from collections.abc import Mapping

from Crypto.Protocol.SecretSharing import Shamir

BLOCK = 16


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """`count` shares of 32 bytes, any `threshold` give the secret back and fewer reveal nothing; share i has index i + 1."""
    if len(secret) != 2 * BLOCK:
        raise ValueError(f"a secret has {2 * BLOCK} bytes, not {len(secret)}")
    halves = [Shamir.split(threshold, count, secret[at : at + BLOCK], False) for at in (0, BLOCK)]
    return [first + second for (_, first), (_, second) in zip(*halves, strict=True)]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret from shares by their index, counted from 1. ValueError where there are fewer than `threshold`."""
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares, {threshold} are needed")
    if any(len(share) != 2 * BLOCK for share in shares.values()):
        raise ValueError(f"a share has {2 * BLOCK} bytes")
    used = sorted(shares.items())[:threshold]
    return b"".join(
        Shamir.combine([(index, share[at : at + BLOCK]) for index, share in used], False) for at in (0, BLOCK)
    )
