"""Atomic file writes."""

import os
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file that appears whole or not at all; `durable` waits until it survives a power cut."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    if durable:
        sync(part)
    part.replace(path)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
