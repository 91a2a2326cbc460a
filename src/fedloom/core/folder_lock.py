"""A folder's lock: one process at a time writes into a folder. The system frees the lock when its holder dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedloom.core.errors import DiskError, ExperimentError

LOCK = ".lock"
"""The locked file. It stays in the folder and holds the number of the process that locked it last."""
PAUSES = (0.02, 0.05, 0.1, 0.0)
"""Seconds after each try to lock: `is_locked` holds the lock for microseconds."""


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
            raise ExperimentError(
                f"{folder} is in use by process {holder(folder)}; wait until that run has ended, or choose another folder"
            )
        yield
    finally:
        os.close(handle)


def holder(folder: Path) -> str:
    """The number of the process that locked the folder last; `?` if that cannot be read."""
    try:
        return (folder / LOCK).read_bytes()[:20].decode("ascii", "replace").strip() or "?"
    except OSError:
        return "?"


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder's lock; nothing is written. False if the lock cannot be seen."""
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _open(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)


def _acquire(handle: int, folder: Path) -> bool:
    """Lock, waiting only for whoever looks at the lock in this moment. Raises DiskError on a file system without locks."""
    try:
        for pause in PAUSES:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(pause)
        else:
            return False
    except OSError as error:
        raise DiskError(
            f"{folder} lies on a file system without file locks ({error.strerror}); choose a folder on another one"
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return True
