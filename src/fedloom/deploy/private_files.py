"""Files and folders that only their owner can read, from the moment they exist."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

UMASK = 0o077


@contextmanager
def private_files() -> Iterator[None]:
    """Give new files mode 0600 and new folders 0700 inside the context; it holds for the whole process."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)
