"""The secret of correlated noise on disk: without it a resumed run could not take noise back, with it anybody could."""

import os
from pathlib import Path

from fedloom.core.errors import DiskError
from fedloom.core.files import sync

KEY = 32
"""Bytes of the key."""
NAME = "noise.key"


def fresh_key() -> bytes:
    """A key from the operating system."""
    return os.urandom(KEY)


def held_key(folder: Path, *, begun: bool) -> bytes:
    """The key in a run's state folder, readable by its owner alone; made where the run has not `begun`. Raises DiskError."""
    path = folder / NAME
    if path.exists():
        key = path.read_bytes()
        if len(key) != KEY:
            raise DiskError(
                f"{path} is damaged: it has {len(key)} bytes instead of {KEY}; start the run anew"
            )
        return key
    if begun:
        raise DiskError(
            f"{path} is missing, so that the noise of earlier rounds cannot be taken back; put it back, or start the run anew"
        )
    folder.mkdir(parents=True, exist_ok=True)
    key = fresh_key()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)
    sync(path)
    return key


def forget_key(folder: Path) -> None:
    """Remove the key of a run that is over: it would take the noise off its models."""
    (folder / NAME).unlink(missing_ok=True)
