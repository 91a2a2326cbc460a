"""A folder's lock: one process at a time writes into a folder. The system frees the lock when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloom.core.errors import DiskError, ExperimentError

LOCK = ".lock"
"""The locked file. It stays in the folder and holds the number of the process that locked it last."""


@contextmanager
def try_lock(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock inside the context; yields False if another process holds it. Creates the folder."""
    handle = _open(folder)
    try:
        yield _acquire(handle, folder)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the context. Creates the folder.

    Raises ExperimentError if another process holds the lock or the folder is not writable.
    """
    try:
        handle = _open(folder)
    except OSError as error:
        raise ExperimentError(f"cannot write to the output folder {folder}: {error.strerror}") from error
    try:
        if not _acquire(handle, folder):
            holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            raise ExperimentError(
                f"{folder} is in use by process {holder}; wait until that run has ended, or choose another folder"
            )
        yield
    finally:
        os.close(handle)


def _open(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)


def _acquire(handle: int, folder: Path) -> bool:
    """Lock without waiting. Raises DiskError on a file system without locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise DiskError(
            f"{folder} lies on a file system without file locks ({error.strerror}); choose a folder on another one"
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return True
